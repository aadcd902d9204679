import { describe, expect, it } from 'vitest';
import { Cap, Ioctl, kvmEnableCap, kvmEncRegion, kvmUserspaceMemoryRegion, SevCommand } from '../src/abi/index.js';
import { guestCount } from './mirror-rig.js';
import { launching, type Program, program, running, sevGuest, status, UNTOUCHED, vmOf } from './process-rig.js';

const EIO = -5;
const EBADF = -9;
const EINVAL = -22;

/** KVM_ENABLE_CAP with a descriptor in args[0]. */
const enable = ({ process }: Program, vm: number, cap: number, source: number, flags = 0): number =>
	process.ioctl(vm, Ioctl.KVM_ENABLE_CAP, kvmEnableCap.encode({ cap, flags, arg0: BigInt(source) }));

const CAPS = [
	['COPY', Cap.VM_COPY_ENC_CONTEXT_FROM, '5.12', '5.13'],
	['MOVE', Cap.VM_MOVE_ENC_CONTEXT_FROM, '5.15', '5.16'],
] as const;

describe.each(CAPS)('KVM_CAP_VM_%s_ENC_CONTEXT_FROM by descriptor', (_, cap, before, since) => {
	it('wants a VM’s descriptor, and no flag', () => {
		const p = program();
		const { vm: source } = launching(p);
		for (const fd of [p.kvmFd, p.sevFd, 99, 0]) expect(enable(p, p.createVm(), cap, fd)).toBe(EBADF);
		expect(enable(p, p.createVm(), cap, source, 1)).toBe(EINVAL);
		expect(enable(p, source, cap, source)).toBe(EINVAL);
		expect(enable(p, p.createVm(), cap, source)).toBe(0);
	});

	it.each([
		[before, 0],
		[since, 1],
	] as const)('Linux %s says %i of it', (release, known) => {
		const p = program({ release });
		const { vm: source } = launching(p);
		const vm = p.createVm();
		expect(p.process.ioctl(vm, Ioctl.KVM_CHECK_EXTENSION, cap)).toBe(known);
		expect(enable(p, vm, cap, source)).toBe(known === 1 ? 0 : EINVAL);
	});

	it('the facade has no descriptors, so none is right', () => {
		const p = program();
		expect(vmOf(p, p.createVm()).enableCap(cap, [BigInt(launching(p).vm)])).toBe(EBADF);
	});
});

describe('a mirror by descriptor', () => {
	it('T-21: refuses every other command before it looks at the data, and writes nothing back', () => {
		const p = program();
		const { vm: source } = launching(p);
		const mirror = p.createVm();
		expect(enable(p, mirror, Cap.VM_COPY_ENC_CONTEXT_FROM, source)).toBe(0);
		for (let id = 0; id <= 22; id++) {
			if ([4, 16, 17, 18].includes(id)) continue;
			expect([id, p.sev(mirror, id, 0n)]).toEqual([id, { ret: EINVAL, error: UNTOUCHED, data: new Uint8Array(0) }]);
		}
		expect(status(p, mirror)).toEqual(status(p, source));
	});

	it('T-23: keeps the guest when the descriptor of its owner is closed', () => {
		const p = program();
		const { vm: source } = running(p);
		const mirror = p.createVm();
		enable(p, mirror, Cap.VM_COPY_ENC_CONTEXT_FROM, source);
		expect(p.process.close(source)).toBe(0);
		expect(status(p, mirror).ret).toBe(0);
		expect(p.process.close(mirror)).toBe(0);
		expect(guestCount(p.host)).toBe(0);
	});

	it('uses the /dev/sev descriptor of its owner: EBADF once that is closed', () => {
		const p = program();
		const { vm: source } = running(p);
		const mirror = p.createVm();
		enable(p, mirror, Cap.VM_COPY_ENC_CONTEXT_FROM, source);
		p.process.close(p.sevFd);
		expect([status(p, source).ret, status(p, mirror).ret]).toEqual([EBADF, EBADF]);
	});
});

describe('a VM that was moved from, by descriptor', () => {
	it('T-10: answers EIO to every ioctl, and its vCPUs do', () => {
		const p = program();
		const { vm: source, ram } = sevGuest(p);
		const vcpu = p.process.ioctl(source, Ioctl.KVM_CREATE_VCPU, 0);
		const target = p.createVm();
		expect(enable(p, target, Cap.VM_MOVE_ENC_CONTEXT_FROM, source)).toBe(0);
		const slot = kvmUserspaceMemoryRegion.encode({
			slot: 1,
			guestPhysAddr: 0x100000n,
			memorySize: 0x1000n,
			userspaceAddr: BigInt(ram.hva),
		});
		const call = (fd: number, request: number, argument: Uint8Array | number) => p.process.ioctl(fd, request, argument);
		expect([
			call(source, Ioctl.KVM_CHECK_EXTENSION, 10),
			call(source, Ioctl.KVM_CREATE_VCPU, 1),
			call(source, Ioctl.KVM_SET_USER_MEMORY_REGION, slot),
			call(source, Ioctl.KVM_RESET_DIRTY_RINGS, 0),
			call(source, Ioctl.KVM_CREATE_IRQCHIP, 0),
			call(source, 0x8010aebb, kvmEncRegion.encode({ addr: BigInt(ram.hva), size: 4096n })),
			enable(p, source, Cap.VM_MOVE_ENC_CONTEXT_FROM, target),
			p.sev(source, SevCommand.GUEST_STATUS).ret,
			call(vcpu, Ioctl.KVM_GET_REGS, new Uint8Array(144)),
			call(vcpu, Ioctl.KVM_SET_REGS, new Uint8Array(144)),
			call(vcpu, Ioctl.KVM_RUN, 0),
		]).toEqual(Array.from({ length: 11 }, () => EIO));
		expect(p.sev(source, SevCommand.GUEST_STATUS).error).toBe(UNTOUCHED);
		expect(status(p, target).ret).toBe(EBADF);
		expect([source, vcpu, target].map((fd) => p.process.close(fd))).toEqual([0, 0, 0]);
	});
});
