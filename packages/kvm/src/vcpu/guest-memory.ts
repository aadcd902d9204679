import { PAGE_SIZE } from '@cvm/layout';
import type { MemoryController } from '@cvm/sev-hw/silicon';
import { type VmState, VmWord } from '../vm/state.js';
import type { Mmu } from './mmu.js';

/** Largest run that is handed to the memory controller at once by `fill`. */
const FILL_BYTES = 0x10000;

/**
 * Guest memory by virtual address: what load and store instructions do. Addresses of the upper half are negative. Every method
 * throws TripleFault as the MMU does, and for an access that begins below 0 and ends above.
 */
export interface GuestMemory {
	load(va: number, out: Uint8Array): void;
	store(va: number, data: Uint8Array): void;
	/** Little-endian integer of 1, 2 or 4 bytes. */
	loadInteger(va: number, size: 1 | 2 | 4): number;
	storeInteger(va: number, size: 1 | 2 | 4, value: number): void;
	loadU64(va: number): bigint;
	storeU64(va: number, value: bigint): void;
	fill(va: number, length: number, byte: number): void;
	/** Exchanges a u32 while no other vCPU of the VM does. */
	exchangeU32(va: number, value: number): number;
}

export function createGuestMemory(vm: VmState, memory: MemoryController, mmu: Mmu): GuestMemory {
	// Views of the sizes that integers have, made once.
	const scratch = new Uint8Array(8);
	const view = new DataView(scratch.buffer);
	const parts: Readonly<Record<1 | 2 | 4, Uint8Array>> = {
		1: scratch.subarray(0, 1),
		2: scratch.subarray(0, 2),
		4: scratch.subarray(0, 4),
	};
	const pattern = new Uint8Array(FILL_BYTES);
	let patternByte = 0;

	/** Bytes from `va` that lie in DRAM one after the other under one key, at most `limit`. Leaves `va` translated. */
	const runLength = (va: number, limit: number, isWrite: boolean): number => {
		mmu.translate(va, isWrite);
		const { spa, asid } = mmu;
		let length = PAGE_SIZE - (va & (PAGE_SIZE - 1));
		if (length >= limit) return limit;
		while (length < limit) {
			mmu.translate(va + length, isWrite);
			if (mmu.spa !== spa + length || mmu.asid !== asid) break;
			length += PAGE_SIZE;
		}
		mmu.translate(va, isWrite);
		return Math.min(length, limit);
	};

	const load = (va: number, out: Uint8Array): void => {
		if (va < 0 && va + out.length > 0) throw mmu.wrapFault(false);
		for (let done = 0; done < out.length; ) {
			const n = runLength(va + done, out.length - done, false);
			memory.read(mmu.asid, mmu.spa, n === out.length ? out : out.subarray(done, done + n));
			done += n;
		}
	};

	const store = (va: number, data: Uint8Array): void => {
		if (va < 0 && va + data.length > 0) throw mmu.wrapFault(true);
		for (let done = 0; done < data.length; ) {
			const n = runLength(va + done, data.length - done, true);
			memory.write(mmu.asid, mmu.spa, n === data.length ? data : data.subarray(done, done + n));
			// After the store: a log fetched in between would lose it.
			vm.markDirty(mmu.gpa);
			for (let at = PAGE_SIZE - ((va + done) & (PAGE_SIZE - 1)); at < n; at += PAGE_SIZE) {
				mmu.translate(va + done + at, true);
				vm.markDirty(mmu.gpa);
			}
			done += n;
		}
	};

	const loadInteger: GuestMemory['loadInteger'] = (va, size) => {
		load(va, parts[size]);
		return size === 1 ? view.getUint8(0) : size === 2 ? view.getUint16(0, true) : view.getUint32(0, true);
	};
	const storeInteger: GuestMemory['storeInteger'] = (va, size, value) => {
		view.setUint32(0, value, true);
		store(va, parts[size]);
	};

	return {
		load,
		store,
		loadInteger,
		storeInteger,
		loadU64: (va) => {
			load(va, scratch);
			return view.getBigUint64(0, true);
		},
		storeU64: (va, value) => {
			view.setBigUint64(0, value, true);
			store(va, scratch);
		},
		fill: (va, length, byte) => {
			if (va < 0 && va + length > 0) throw mmu.wrapFault(true);
			if (patternByte !== (byte & 0xff)) {
				patternByte = byte & 0xff;
				pattern.fill(patternByte);
			}
			for (let done = 0; done < length; ) {
				const n = Math.min(length - done, FILL_BYTES);
				store(va + done, n === FILL_BYTES ? pattern : pattern.subarray(0, n));
				done += n;
			}
		},
		exchangeU32: (va, value) => {
			while (Atomics.compareExchange(vm.words, VmWord.busLock, 0, 1) !== 0);
			try {
				const old = loadInteger(va, 4);
				storeInteger(va, 4, value);
				return old;
			} finally {
				Atomics.store(vm.words, VmWord.busLock, 0);
			}
		},
	};
}
