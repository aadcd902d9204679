import { PAGE_SIZE } from '@cvm/layout';
import type { MemoryController } from '@cvm/sev-hw/silicon';
import { type VmState, VmWord } from '../vm/state.js';
import { Register, VcpuWord } from '../vm/vcpu-state.js';
import { requestUpdate, Update } from './pv-features.js';

/** What KVM writes to guest memory of its own accord: wall clock, system time, steal time. */
export interface PvPages {
	/**
	 * Writes what is due, between two blocks of the guest. The pages are shared ones: KVM writes them without a key, and what
	 * it reads back of them is DRAM as it is, which is ciphertext where a guest forgot to share the page. Each is dirty then.
	 */
	serve(): void;
}

/** A page without a key. */
const PLAIN = 0;
const MSR_ENABLED = 1n;
/** `struct pvclock_wall_clock`: version, seconds, nanoseconds. Linux arch/x86/include/asm/pvclock-abi.h. */
const WALL_CLOCK_BYTES = 12;
/** `struct pvclock_vcpu_time_info`: version u32@0, tsc_timestamp u64@8, system_time u64@16, mul u32@24, shift s8@28, flags u8@29. */
const TIME_BYTES = 32;
/** One tick of the time-stamp counter is 1 ns: 2^31 after a shift by one. */
const TSC_MUL = 0x80000000;
/** `struct kvm_steal_time`: steal u64@0, version u32@8, flags u32@12, preempted u8@16. */
const STEAL_BYTES = 64;
const STEAL_VERSION = 8;
const STEAL_PREEMPTED = 16;

/**
 * The structures of one vCPU. `now` is the time since the VM began, in nanoseconds.
 *
 * DEVIATION(Linux arch/x86/kvm/x86.c): there is no time-stamp counter and no thread is preempted. The times are what `now`
 * says, 0 by default, and steal time stays what it was; versions, flags and dirty bits are KVM's.
 */
export function createPvPages(o: {
	readonly vm: VmState;
	readonly controller: MemoryController;
	readonly registers: BigUint64Array;
	readonly words: Int32Array;
	readonly now: () => bigint;
}): PvPages {
	const { vm, controller, registers, words, now } = o;
	const buffer = new Uint8Array(STEAL_BYTES);
	const view = new DataView(buffer.buffer);

	/** Moves `length` bytes of `buffer`, page by page. false: there is no RAM, or not for writing; KVM gives up silently then. */
	const move = (gpa: number, length: number, isWrite: boolean): boolean => {
		for (let done = 0; done < length; ) {
			const at = gpa + done;
			const n = Math.min(length - done, PAGE_SIZE - (at % PAGE_SIZE));
			const spa = vm.translate(at);
			if (spa < 0 || (isWrite && !vm.isWritable(at))) return false;
			const part = buffer.subarray(done, done + n);
			if (isWrite) {
				controller.write(PLAIN, spa, part);
				vm.markDirty(at);
			} else {
				controller.read(PLAIN, spa, part);
			}
			done += n;
		}
		return true;
	};
	/** Writes a structure whose version at `versionAt` is odd while it is being written. */
	const publish = (gpa: number, length: number, versionAt: number, fill: () => void): void => {
		if (!move(gpa, length, false)) return;
		const version = view.getUint32(versionAt, true);
		const odd = version + (version % 2 === 0 ? 1 : 2);
		fill();
		view.setUint32(versionAt, odd, true);
		if (!move(gpa, length, true)) return;
		view.setUint32(versionAt, odd + 1, true);
		move(gpa, length, true);
	};
	const address = (value: bigint, mask: bigint): number => {
		const gpa = value & ~mask;
		return gpa > BigInt(Number.MAX_SAFE_INTEGER) ? -1 : Number(gpa);
	};

	const writeWallClock = (): void => {
		const low = BigInt(Atomics.load(vm.words, VmWord.wallClock) >>> 0);
		const gpa = address(low | (BigInt(Atomics.load(vm.words, VmWord.wallClock + 1) >>> 0) << 32n), 0n);
		if (gpa <= 0) return;
		publish(gpa, WALL_CLOCK_BYTES, 0, () => {
			view.setUint32(4, 0, true);
			view.setUint32(8, 0, true);
		});
	};
	const writeSystemTime = (): void => {
		const value = registers[Register.systemTime] ?? 0n;
		const gpa = address(value, MSR_ENABLED);
		if ((value & MSR_ENABLED) === 0n || gpa < 0) return;
		publish(gpa, TIME_BYTES, 0, () => {
			const time = now();
			buffer.fill(0, 4, TIME_BYTES);
			view.setBigUint64(8, time, true);
			view.setBigUint64(16, time, true);
			view.setUint32(24, TSC_MUL, true);
			view.setInt8(28, 1);
		});
	};
	const writeStealTime = (): void => {
		const value = registers[Register.stealTime] ?? 0n;
		const gpa = address(value, 0x3fn);
		if ((value & MSR_ENABLED) === 0n || gpa < 0) return;
		publish(gpa, STEAL_BYTES, STEAL_VERSION, () => {
			view.setUint8(STEAL_PREEMPTED, 0);
		});
	};

	// As on a processor that the vCPU was not on before.
	requestUpdate(words, Update.systemTime | Update.stealTime);

	return {
		serve: () => {
			if (Atomics.load(words, VcpuWord.requests) === 0) return;
			const due = Atomics.exchange(words, VcpuWord.requests, 0);
			if ((due & Update.wallClock) !== 0) writeWallClock();
			if ((due & Update.systemTime) !== 0) writeSystemTime();
			if ((due & Update.stealTime) !== 0) writeStealTime();
		},
	};
}
