import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { Cap } from '../src/abi/capabilities.js';
import { Errno } from '../src/abi/errno.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { createRingReader, type HostMapping, MemFlag, type Vcpu, type Vm } from '../src/index.js';
import { type Block, openVcpu } from '../src/vcpu/index.js';
import { programOf } from './guest-rig.js';
import { bootHost, certificatesOf, type Host, MIB, PAGE, pattern, runningVm, vmWithRam } from './host.js';

const BYTES = 64 * 1024;
const MSR_SYSTEM_TIME = 0x4b564d01n;
const MSR_STEAL_TIME = 0x4b564d03n;
const PORT = 0xf4;

/** Slot 0 of a VM, logging. */
function log(vm: Vm, ram: HostMapping): void {
	const region = { slot: 0, flags: MemFlag.logDirtyPages, guestPhysAddr: gpa(0), memorySize: ram.bytes.length };
	expect(vm.setUserMemoryRegion({ ...region, userspaceAddr: ram.hva })).toBe(0);
}

/** Pages of slot 0 that are dirty; they are clean then. */
function dirtyPages(vm: Vm, slot = 0): number[] {
	const bitmap = new Uint32Array(4096);
	expect(vm.getDirtyLog(slot, bitmap)).toBe(0);
	return Array.from({ length: bitmap.length * 32 }, (_, page) => page).filter(
		(page) => (((bitmap[page >>> 5] ?? 0) >>> (page & 31)) & 1) === 1,
	);
}

const end: Block = (cpu) => cpu.out(PORT, 1, 'end');
/** Runs a new vCPU until it writes to the port, or exits otherwise. Returns the exit reason. */
function runGuest(host: Host, vm: Vm, blocks: Record<string, Block>, vcpu = vm.createVcpu(0, host.kvm.cpuid())) {
	const thread = openVcpu(vcpu.share(), {
		provider: nodeProvider,
		program: programOf({ end, ...blocks }),
		ticks: false,
	});
	expect(thread.run()).toBe(0);
	return { thread, vcpu, reason: reasonOf(vcpu) };
}
const reasonOf = ({ run }: Vcpu): number =>
	new DataView(run.buffer, run.byteOffset).getUint32(RunOffset.exitReason, true);

/** A guest that runs, with its log on and empty. */
function logged() {
	const host = bootHost();
	const made = runningVm(host, 0, BYTES);
	log(made.vm, made.ram);
	expect(dirtyPages(made.vm)).toEqual([]);
	return { host, ...made };
}

describe('what makes a page dirty', () => {
	it('a store of the guest: every 4 KiB page that it touches, and no other', () => {
		const { host, vm } = logged();
		const { reason } = runGuest(host, vm, {
			reset: (cpu) => {
				cpu.storeU8(2 * PAGE, 1);
				cpu.storeU64(5 * PAGE - 4, 1n);
				cpu.fill(8 * PAGE + 100, 2 * PAGE, 7);
				return cpu.jump('end');
			},
		});
		expect(reason).toBe(ExitReason.IO);
		expect(dirtyPages(vm)).toEqual([2, 4, 5, 8, 9, 10]);
		expect(dirtyPages(vm)).toEqual([]);
	});

	it('a store of the value that is there already', () => {
		const { host, vm } = logged();
		runGuest(host, vm, {
			reset: (cpu) => {
				cpu.storeU64(3 * PAGE, cpu.loadU64(3 * PAGE));
				return cpu.jump('end');
			},
		});
		expect(dirtyPages(vm)).toEqual([3]);
	});

	it.each([
		['system time', MSR_SYSTEM_TIME, 6 * PAGE + 64, [6]],
		['steal time', MSR_STEAL_TIME, 7 * PAGE, [7]],
		['system time that crosses a page', MSR_SYSTEM_TIME, 7 * PAGE - 8, [6, 7]],
	])('what KVM writes of its own accord: %s', (_, msr, at, pages) => {
		const { host, vm } = logged();
		const { thread, reason } = runGuest(host, vm, {
			reset: (cpu) => {
				cpu.setReg('rcx', msr);
				cpu.setNum('rax', at + 1);
				cpu.setNum('rdx', 0);
				return cpu.wrmsr('end');
			},
		});
		expect(thread.fault).toBeUndefined();
		expect(reason).toBe(ExitReason.IO);
		expect(dirtyPages(vm)).toEqual(pages);
	});
});

describe('what makes no page dirty', () => {
	it('a load', () => {
		const { host, vm } = logged();
		runGuest(host, vm, {
			reset: (cpu) => {
				cpu.loadU64(2 * PAGE);
				return cpu.jump('end');
			},
		});
		expect(dirtyPages(vm)).toEqual([]);
	});

	it('a write of the VMM by its own address', () => {
		const { vm, ram } = logged();
		ram.bytes.fill(0xaa, PAGE, 3 * PAGE);
		expect(dirtyPages(vm)).toEqual([]);
	});

	it('the firmware: launching, debugging, sending, receiving', () => {
		const [source, target] = [bootHost({ seed: 'source' }), bootHost({ seed: 'target' })];
		const from = vmWithRam(source, BYTES);
		log(from.vm, from.ram);
		const { sev } = from.vm;
		const scratch = source.kvm.memory.mmap(PAGE);
		expect(sev.launchStart({ policy: 0 }).ret).toBe(0);
		expect(sev.launchUpdateData({ uaddr: from.ram.hva, len: BYTES }).ret).toBe(0);
		expect(sev.launchMeasure().ret).toBe(0);
		expect(sev.launchFinish().ret).toBe(0);
		expect(sev.dbgEncrypt({ src: scratch.hva, dst: from.ram.hva, len: PAGE }).ret).toBe(0);
		const start = sev.sendStart(certificatesOf(target));
		const packet = sev.sendUpdateData({ guestUaddr: from.ram.hva, guestLen: PAGE });
		expect(packet.ret).toBe(0);
		expect(dirtyPages(from.vm)).toEqual([]);

		const to = vmWithRam(target, BYTES);
		log(to.vm, to.ram);
		const { pdhCert } = certificatesOf(source);
		expect(to.vm.sev.receiveStart({ policy: start.policy, pdhCert, session: start.session }).ret).toBe(0);
		const { header, data } = packet;
		expect(to.vm.sev.receiveUpdateData({ header, data, guestUaddr: to.ram.hva, guestLen: PAGE }).ret).toBe(0);
		expect(to.ram.bytes.subarray(0, PAGE)).not.toEqual(new Uint8Array(PAGE));
		expect(dirtyPages(to.vm)).toEqual([]);
	});

	it('a change of its status alone', () => {
		const { host, vm } = logged();
		expect(vm.enableCap(Cap.EXIT_HYPERCALL, [1n << 12n])).toBe(0);
		const { reason } = runGuest(host, vm, {
			reset: (cpu) => {
				cpu.setNum('rax', 12);
				cpu.setNum('rbx', 4 * PAGE);
				cpu.setNum('rcx', 2);
				cpu.setNum('rdx', 0);
				return cpu.vmmcall('end');
			},
		});
		expect(reason).toBe(ExitReason.HYPERCALL);
		expect(dirtyPages(vm)).toEqual([]);
	});

	it.each(['another VM', 'a mirror'])('a store of the vCPU of %s: that VM alone logs it', (which) => {
		const { host, vm, ram } = logged();
		const other = host.kvm.createVm();
		if (which === 'a mirror') expect(other.copyEncContextFrom(vm)).toBe(0);
		log(other, ram);
		const { reason } = runGuest(host, other, {
			reset: (cpu) => {
				cpu.storeU64(9 * PAGE, 1n);
				return cpu.jump('end');
			},
		});
		expect(reason).toBe(ExitReason.IO);
		expect(ram.bytes.subarray(9 * PAGE, 10 * PAGE)).not.toEqual(pattern(BYTES).subarray(9 * PAGE, 10 * PAGE));
		expect([dirtyPages(vm), dirtyPages(other)]).toEqual([[], [9]]);
	});
});

describe('the dirty ring of a vCPU', () => {
	/** Stores to RBX pages from page 0 on, in one block. */
	const storing: Block = (cpu) => {
		for (let page = 0; page < cpu.num('rbx'); page++) cpu.storeU8(page * PAGE, page);
		return cpu.jump('end');
	};
	const ringed = (pages: number) => {
		const host = bootHost();
		const vm = host.kvm.createVm({ sev: false });
		const ram = host.kvm.memory.mmap(4 * MIB);
		expect(vm.enableCap(Cap.DIRTY_LOG_RING, [4096n])).toBe(0);
		log(vm, ram);
		const vcpu = vm.createVcpu(0, host.kvm.cpuid());
		vcpu.setRegs({ rbx: BigInt(pages) });
		const mapped = vcpu.dirtyRing;
		if (mapped === undefined) throw new Error('dirty ring: expected one, got none');
		const reader = createRingReader(mapped);
		const harvest = () => {
			const found: number[] = [];
			reader.harvest((_, page) => found.push(page));
			return found;
		};
		return { vm, harvest, ...runGuest(host, vm, { reset: storing }, vcpu) };
	};

	it('has what the guest stored to, and takes the place of the log', () => {
		const { vm, harvest, reason } = ringed(5);
		expect(reason).toBe(ExitReason.IO);
		expect(harvest()).toEqual([0, 1, 2, 3, 4]);
		expect(vm.resetDirtyRings()).toBe(5);
		expect(vm.getDirtyLog(0, new Uint32Array(4096))).toBe(-Errno.ENXIO);
	});

	it('ends KVM_RUN when it is full, before the guest goes on; a reset lets it go on', () => {
		const { vm, vcpu, thread, harvest, reason } = ringed(192);
		expect(reason).toBe(ExitReason.DIRTY_RING_FULL);
		expect(vcpu.getRegs().rip).not.toBe(0xfffffff0n);
		for (let i = 0; i < 3; i++) {
			expect(thread.run()).toBe(0);
			expect(reasonOf(vcpu)).toBe(ExitReason.DIRTY_RING_FULL);
		}
		expect(harvest().length).toBe(192);
		expect(vm.resetDirtyRings()).toBe(192);
		expect(thread.run()).toBe(0);
		expect(reasonOf(vcpu)).toBe(ExitReason.IO);
	});

	it('is not full one page earlier', () => {
		expect(ringed(191).reason).toBe(ExitReason.IO);
	});

	it('gives out all pages of a block that dirtied more than it holds', () => {
		const { vm, vcpu, thread, harvest, reason } = ringed(900);
		const found: number[] = [];
		let exits = reason === ExitReason.DIRTY_RING_FULL ? 1 : 0;
		while (reasonOf(vcpu) === ExitReason.DIRTY_RING_FULL) {
			found.push(...harvest());
			vm.resetDirtyRings();
			expect(thread.run()).toBe(0);
			if (reasonOf(vcpu) === ExitReason.DIRTY_RING_FULL) exits++;
		}
		found.push(...harvest());
		expect(found).toEqual(Array.from({ length: 900 }, (_, i) => i));
		expect(exits).toBe(3);
	});

	it('is chosen before the first vCPU; its capabilities tell the largest size', () => {
		const host = bootHost();
		const vm = host.kvm.createVm();
		expect([Cap.NR_MEMSLOTS, Cap.MANUAL_DIRTY_LOG_PROTECT2].map((cap) => vm.checkExtension(cap))).toEqual([32764, 3]);
		expect([Cap.DIRTY_LOG_RING, Cap.DIRTY_LOG_RING_ACQ_REL].map((cap) => vm.checkExtension(cap))).toEqual([
			1 << 20,
			1 << 20,
		]);
		expect(vm.enableCap(Cap.MANUAL_DIRTY_LOG_PROTECT2, [2n])).toBe(-Errno.EINVAL);
		expect(vm.enableCap(Cap.MANUAL_DIRTY_LOG_PROTECT2, [1n], 1)).toBe(-Errno.EINVAL);
		vm.createVcpu(0, host.kvm.cpuid());
		expect(vm.enableCap(Cap.DIRTY_LOG_RING_ACQ_REL, [4096n])).toBe(-Errno.EINVAL);
		expect(vm.resetDirtyRings()).toBe(-Errno.EINVAL);
		const old = bootHost({ abi: 'v12' }).kvm.createVm();
		expect(old.checkExtension(Cap.DIRTY_LOG_RING_ACQ_REL)).toBe(0);
		expect(old.enableCap(Cap.DIRTY_LOG_RING_ACQ_REL, [4096n])).toBe(-Errno.EINVAL);
		expect(old.enableCap(Cap.DIRTY_LOG_RING, [4096n])).toBe(0);
	});
});
