import { describe, expect, it } from 'vitest';
import {
	Cap,
	Ioctl,
	kvmEnableCap,
	kvmEncRegion,
	kvmSevDbg,
	kvmSevLaunchStart,
	kvmUserspaceMemoryRegion,
	SevCommand,
} from '../src/abi/index.js';
import { guestCount } from './mirror-rig.js';
import {
	contextAt,
	launching,
	type Program,
	program,
	running,
	sevGuest,
	status,
	UNTOUCHED,
	vmOf,
} from './process-rig.js';

const EIO = -5;
const EBADF = -9;
const EBUSY = -16;
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

describe('copies and moves by descriptor, row by row', () => {
	const { VM_COPY_ENC_CONTEXT_FROM: COPY, VM_MOVE_ENC_CONTEXT_FROM: MOVE } = Cap;
	/** Launched with SEV-ES: two vCPUs whose registers are encrypted. */
	const esGuest = (p: Program): number => {
		const vm = p.createVm();
		expect(p.sev(vm, SevCommand.ES_INIT).ret).toBe(0);
		for (const id of [0, 1]) expect(p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, id)).toBeGreaterThan(0);
		expect(p.sev(vm, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode({ policy: 4 })).ret).toBe(0);
		expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_VMSA).ret).toBe(0);
		return vm;
	};
	const withVcpus = (p: Program, count: number, type = 0): number => {
		const vm = p.createVm(type);
		for (let id = 0; id < count; id++) p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, id);
		return vm;
	};

	it('both: to a guest and from none is EINVAL, and while another has one of the two EBUSY', () => {
		for (const cap of [COPY, MOVE]) {
			const p = program();
			const { vm: source } = launching(p);
			expect(enable(p, sevGuest(p).vm, cap, source)).toBe(EINVAL);
			expect(enable(p, p.createVm(), cap, p.createVm())).toBe(EINVAL);
			const to = p.createVm();
			for (const busy of [to, source]) {
				contextAt(p, busy).sev.migrating = true;
				expect(enable(p, to, cap, source)).toBe(EBUSY);
				contextAt(p, busy).sev.migrating = false;
			}
			expect(enable(p, to, cap, source)).toBe(0);
		}
	});

	it('COPY: from a mirror, and to a VM with a vCPU (since 5.16), is EINVAL', () => {
		const p = program();
		const { vm: source } = launching(p);
		const mirror = p.createVm();
		expect(enable(p, mirror, COPY, source)).toBe(0);
		expect(enable(p, p.createVm(), COPY, mirror)).toBe(EINVAL);
		expect(enable(p, withVcpus(p, 1), COPY, source)).toBe(EINVAL);
		const old = program({ release: '5.13' });
		expect(enable(old, withVcpus(old, 1), COPY, launching(old).vm)).toBe(0);
	});

	it.each([
		['5.13', []],
		['5.15', [4, 16, 17, 18]],
		['6.10', [4, 16, 17, 18]],
	] as const)('COPY: in Linux %s a mirror may do %j', (release, allowed) => {
		const p = program({ release });
		const source = esGuest(p);
		const mirror = p.createVm();
		expect(enable(p, mirror, COPY, source)).toBe(0);
		const { hva } = p.host.kvm.memory.mmap(4096);
		const debug = kvmSevDbg.encode({ srcUaddr: BigInt(hva), dstUaddr: BigInt(hva), len: 16 });
		const rets = [4, 16, 17, 18].map((id) => p.sev(mirror, id, id < 17 ? new Uint8Array(16) : debug).ret);
		// 5.13 leaves the mirror without the firmware's handle, and lets it do nothing.
		expect(rets.map((ret) => ret !== EINVAL)).toEqual([4, 16, 17, 18].map((id) => allowed.includes(id as never)));
	});

	it('MOVE: from SEV-ES with other numbers of vCPUs, or with a vCPU that is not encrypted, is EINVAL', () => {
		const p = program();
		const source = esGuest(p);
		expect([enable(p, withVcpus(p, 1), MOVE, source), enable(p, withVcpus(p, 3), MOVE, source)]).toEqual([-22, -22]);
		p.process.ioctl(source, Ioctl.KVM_CREATE_VCPU, 2);
		expect(enable(p, withVcpus(p, 3), MOVE, source)).toBe(EINVAL);
		expect(p.sev(source, SevCommand.LAUNCH_UPDATE_VMSA).ret).toBe(0);
		expect(enable(p, withVcpus(p, 3), MOVE, source)).toBe(0);
	});

	it('MOVE: to another type of VM is EINVAL since 6.10, whatever else is wrong', () => {
		const p = program();
		const { vm: source } = launching(p);
		const typed = p.createVm(2);
		expect(enable(p, typed, MOVE, source)).toBe(EINVAL);
		const same = p.createVm(2);
		expect(p.sev(same, SevCommand.INIT2, new Uint8Array(48)).ret).toBe(0);
		expect(enable(p, typed, MOVE, same)).toBe(0);
	});

	it.each([
		['5.16', EBUSY],
		['5.18', 0],
	] as const)('MOVE: of a guest with a mirror: Linux %s answers %i', (release, ret) => {
		const p = program({ release });
		const { vm: source } = launching(p);
		const [mirror, to] = [p.createVm(), p.createVm()];
		enable(p, mirror, COPY, source);
		expect(enable(p, to, MOVE, source)).toBe(ret);
		expect(contextAt(p, mirror).sev.owner === contextAt(p, ret === 0 ? to : source).sev).toBe(true);
	});

	it('MOVE: of a mirror takes its reference along', () => {
		const p = program();
		const { vm: source } = launching(p);
		const [mirror, to] = [p.createVm(), p.createVm()];
		enable(p, mirror, COPY, source);
		expect(enable(p, to, MOVE, mirror)).toBe(0);
		p.process.close(source);
		expect(guestCount(p.host)).toBe(1);
		p.process.close(mirror);
		expect(guestCount(p.host)).toBe(1);
		p.process.close(to);
		expect(guestCount(p.host)).toBe(0);
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
