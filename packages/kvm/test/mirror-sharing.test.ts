import { hva } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { Cap } from '../src/abi/index.js';
import { MemFlag, type Vcpu } from '../src/index.js';
import {
	createLowWindowStrategy,
	createRegistrationStrategy,
	handleMirrorExit,
	identityPageTables,
	identityTableBytes,
	mirrorRecord,
	SHARED_ALIAS_OFFSET,
} from '../src/mirror/index.js';
import { VmWord } from '../src/vm/state.js';
import { contextOf } from '../src/vm/vm.js';
import { createRamPageStatus } from '../src/vmm/index.js';
import { bootHost, MIB, PAGE } from './host.js';
import { DATA, deviceLog, dirtyWords, load, machine, mirrorOf, running, store } from './mirror-machine.js';
import { finishExit, pages, runCode, threadOf } from './mirror-rig.js';

const W = 2 ** 42;
const HYPERCALL_PAGE_ENC_STATUS = 12n;
const KVM_ENOSYS = -1000n;

describe('what the two VMs see of one page', () => {
	it('M1: what is written privately in the main VM reads the same privately in the mirror, at another address', () => {
		const { guest, handler, ram } = running({ strategy: createLowWindowStrategy });
		store(guest, 2 * PAGE);
		expect(load(handler, W + 2 * PAGE)).toEqual(DATA);
		expect(load(handler, 2 * PAGE)).toEqual(DATA);
		expect(ram.bytes.subarray(2 * PAGE, 2 * PAGE + DATA.length)).not.toEqual(DATA);
	});

	/** Long mode on the prototype's tables, which the vCPU writes itself with paging off. */
	function enterTables(vcpu: Vcpu, at: number): void {
		const entries = [...identityPageTables({ at, mappedBytes: MIB, cbitPosition: 51 })];
		runCode(vcpu, (cpu) => {
			cpu.fill(at, identityTableBytes(MIB), 0);
			for (const { gpa: where, value } of entries) cpu.storeU64(where, value);
		});
		vcpu.setSregs({ cr0: 0x80000011n, cr3: BigInt(at) | (1n << 51n), cr4: 0x20n, efer: 0x500n });
	}

	it('M2: the C-bit decides: shared reads find ciphertext, and what is written shared is garbage in private', () => {
		const { guest, handler, ram } = running();
		const page = 2 * PAGE;
		enterTables(handler, 8 * PAGE);
		store(guest, page);
		expect(load(handler, page)).toEqual(DATA);
		const ciphertext = load(handler, SHARED_ALIAS_OFFSET + page);
		expect(ciphertext).toEqual(ram.bytes.slice(page, page + DATA.length));
		expect(ciphertext).not.toEqual(DATA);
		store(handler, SHARED_ALIAS_OFFSET + page);
		expect(ram.bytes.slice(page, page + DATA.length)).toEqual(DATA);
		expect(load(handler, page)).not.toEqual(DATA);
		expect(load(guest, page)).not.toEqual(DATA);
	});
});

describe('what a mirror does not take over', () => {
	/** Hypercall 12 for one page, and what RAX says after it, or `undefined` if it exits. */
	function hypercall12(vcpu: Vcpu): bigint | undefined {
		finishExit(vcpu);
		vcpu.setRegs({ rip: 0xfffffff0n, rax: HYPERCALL_PAGE_ENC_STATUS, rbx: 0n, rcx: 1n, rdx: 0x10n });
		const { run, exitReason } = threadOf(vcpu, { reset: (cpu) => cpu.vmmcall('park') });
		expect(run()).toBe(0);
		// Without long mode only the low half counts.
		return exitReason() === 3 ? undefined : BigInt.asIntN(32, vcpu.getRegs().rax);
	}

	it('M5: hypercall 12 is unknown on a mirror vCPU: in v12 for good, upstream until the mirror enables it', () => {
		const v12 = running({ host: bootHost({ abi: 'v12', release: '5.15' }) });
		expect(hypercall12(v12.guest)).toBeUndefined();
		expect(hypercall12(v12.handler)).toBe(KVM_ENOSYS);
		const upstream = running();
		upstream.main.enableCap(Cap.EXIT_HYPERCALL, [1n << 12n]);
		expect(hypercall12(upstream.guest)).toBeUndefined();
		expect(hypercall12(upstream.handler)).toBe(KVM_ENOSYS);
		expect(mirrorOf(upstream).enableCap(Cap.EXIT_HYPERCALL, [1n << 12n])).toBe(0);
		expect(hypercall12(upstream.handler)).toBeUndefined();
	});

	it('M6: the MSR filter, CPUID and capabilities of the main VM are its own', () => {
		const made = machine();
		const { main, mirror } = made;
		main.enableCap(Cap.X86_USER_SPACE_MSR, [4n]);
		const ranges = [{ flags: 3, base: 0x4b564d08, nmsrs: 1, bitmap: new Uint8Array(8) }];
		expect(main.setMsrFilter({ flags: 0, ranges })).toBe(0);
		const leaf = { function: 0x40000001, eax: 0x10000, ebx: 0, ecx: 0, edx: 0 };
		const guests = [main.createVcpu(0, [leaf]), mirror.addVcpu(1, [])];
		const read = (vcpu: Vcpu): number => {
			vcpu.setRegs({ rip: 0xfffffff0n, rcx: 0x4b564d08n });
			const { run, exitReason } = threadOf(vcpu, { reset: (cpu) => cpu.rdmsr('park') });
			expect(run()).toBe(0);
			return exitReason();
		};
		const features = (vcpu: Vcpu): bigint => {
			vcpu.setRegs({ rip: 0xfffffff0n, rax: 0x40000001n, rcx: 0n });
			expect(threadOf(vcpu, { reset: (cpu) => cpu.cpuid('park') }).run()).toBe(0);
			finishExit(vcpu);
			return vcpu.getRegs().rax;
		};
		expect(guests.map(features)).toEqual([0x10000n, 0n]);
		// An exit to the VMM, and #GP without an IDT.
		expect(guests.map(read)).toEqual([29, 8]);
		expect([main, mirrorOf(made)].map((vm) => Atomics.load(contextOf(vm).words, VmWord.msrExitMask))).toEqual([4, 0]);
	});

	it('M7: a slot that logs in the main VM does not log what the mirror writes (hazard 1)', () => {
		const made = running({ ramFlags: MemFlag.logDirtyPages });
		const { main, guest, handler } = made;
		store(guest, PAGE);
		store(handler, 2 * PAGE);
		expect(dirtyWords(main)).toEqual([1 << 1, 0]);
		// The mirror's own log has it; the branch never reads that one.
		expect(dirtyWords(mirrorOf(made))).toEqual([1 << 2, 0]);
	});
});

describe('hazards of the design', () => {
	it('2: a read-only flag that is changed on one VM alone makes them diverge; changed on both it does not', () => {
		const alone = running();
		for (const memorySize of [0, alone.slot.memorySize]) {
			expect(alone.main.setUserMemoryRegion({ ...alone.slot, memorySize, flags: MemFlag.readonly })).toBe(0);
		}
		const write = (vcpu: Vcpu): number => {
			const { run, exitReason } = threadOf(vcpu, {
				reset: (cpu) => {
					cpu.storeU8(PAGE, 1);
					return cpu.jump('park');
				},
			});
			expect(run()).toBe(0);
			return exitReason();
		};
		// A store to read-only memory cannot be emulated for an SEV guest, so it ends in another exit than port I/O.
		expect(write(alone.guest)).not.toBe(2);
		expect(write(alone.handler)).toBe(2);
		const both = running();
		expect(both.mirror.setUserMemoryRegion({ ...both.slot, flags: MemFlag.readonly })).toBe(0);
		expect(write(both.guest)).not.toBe(2);
		expect(write(both.handler)).not.toBe(2);
	});

	it('3: one page behind two slots is one page, whatever C-bit each side chooses', () => {
		const { guest, handler, main, host, ram } = running({ strategy: createLowWindowStrategy });
		ram.bytes.set(DATA, PAGE);
		// A shared page, written by the host: private reads of both find the same garbage.
		const seen = load(handler, W + PAGE);
		expect(seen).not.toEqual(DATA);
		expect(load(guest, PAGE)).toEqual(seen);
		const copy = pages(host, 1);
		main.sev.dbgDecrypt({ src: hva(ram.hva + PAGE), dst: copy.hva, len: PAGE });
		expect(copy.bytes.subarray(0, DATA.length)).toEqual(seen);
	});

	it('4: memory is registered through the main VM alone', () => {
		const { main, mirror, ram } = machine();
		const region = { addr: ram.hva, size: ram.bytes.length };
		expect(mirrorOf({ mirror }).memoryEncryptRegisterRegion(region)).toBe(-22);
		expect(main.memoryEncryptRegisterRegion(region)).toBe(0);
	});

	it('5: exits of both VMs reach the same devices', () => {
		const { guest, handler } = running();
		const seen: string[] = [];
		const devices = deviceLog(seen);
		for (const vcpu of [guest, handler]) {
			vcpu.setRegs({ rax: 0x41n });
			const { run } = threadOf(vcpu, { reset: (cpu) => cpu.out(0x3f8, 1, 'park') });
			expect(run()).toBe(0);
			expect(handleMirrorExit(vcpu.run, devices)).toBe('run');
		}
		expect(seen).toEqual(['out 3f8 41', 'out 3f8 41']);
	});

	it.each([
		['lowWindow', createLowWindowStrategy, 3 * PAGE],
		['registration', createRegistrationStrategy, 2 ** 41],
	] as const)(
		'H1: under %s the guest can change the handler’s memory under it, and the other way round',
		(_, strategy, at) => {
			const { mirror, guest, handler } = running({ strategy });
			if (mirror.strategy.name === 'registration') {
				const bytes = mirrorRecord.encode({ mainGpa: BigInt(3 * PAGE), length: BigInt(PAGE), mirrorGpa: BigInt(at) });
				(mirror.strategy as ReturnType<typeof createRegistrationStrategy>).writeMsr(true, bytes);
				expect(mirror.mapWindows()).toBe(0);
			}
			store(guest, 3 * PAGE);
			expect(load(handler, at)).toEqual(DATA);
			store(handler, at, DATA.slice().reverse());
			expect(load(guest, 3 * PAGE)).toEqual(DATA.slice().reverse());
		},
	);
});

describe('the status of memory that the guest does not see', () => {
	it('is kept by RAM address, so that it moves as what it is', () => {
		const { host, map, mirror, handler } = running({ strategy: createLowWindowStrategy });
		const area = pages(host, 2);
		const block = map.addBlock('virtio-mem', 2 * PAGE, area.hva);
		map.map({ gpa: 2 ** 32, ramAddr: block.offset, length: 2 * PAGE });
		const status = createRamPageStatus(map);
		// The guest shares the second page; then the memory is unplugged.
		status.set(2 ** 20 + 1, 1, true);
		map.unmap(2 ** 32, 2 * PAGE);
		expect(mirror.mapWindows()).toBe(0);
		const frames = [0, 1].map((i) => block.offset / PAGE + i);
		expect(frames.map((frame) => status.ram.has(frame))).toEqual([false, true]);
		expect(map.toGpa(block.offset)).toBe(-1);
		store(handler, mirror.strategy.addressOf(block.offset));
		expect(load(handler, mirror.strategy.addressOf(block.offset))).toEqual(DATA);
		// Plugged in elsewhere, it is still the same memory.
		map.map({ gpa: 2 ** 33, ramAddr: block.offset, length: 2 * PAGE });
		status.set(2 ** 21 + 1, 1, false);
		expect(frames.map((frame) => status.ram.has(frame))).toEqual([false, false]);
	});

	it('is for information only where there is no RAM', () => {
		const { map } = machine();
		const status = createRamPageStatus(map);
		status.set(15, 2, true);
		expect([status.ram.has(15), status.ram.has(16), status.mmio.has(16)]).toEqual([true, false, true]);
	});
});
