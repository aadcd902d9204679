import { Policy } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import {
	Ioctl,
	kvmCpuid2,
	kvmCpuidEntry2,
	kvmRegs,
	kvmSevLaunchStart,
	kvmSevReceiveUpdateData,
	kvmSevSendUpdateData,
	SevCommand,
} from '../src/abi/index.js';
import { bootHost, certificatesOf, PAGE } from './host.js';
import { launching, NOWHERE, type Program, program, running, UNTOUCHED, vmOf } from './process-rig.js';

/** A SEV-ES guest with one vCPU whose registers are encrypted. */
function protectedVcpu(p: Program, type: 0 | 3): number {
	const vm = p.createVm(type);
	const init = type === 0 ? p.sev(vm, SevCommand.ES_INIT) : p.sev(vm, SevCommand.INIT2, new Uint8Array(48));
	expect(init.ret).toBe(0);
	const vcpu = p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
	expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_REGS, kvmRegs.encode({ rax: 7n, rflags: 2n }))).toBe(0);
	expect(p.sev(vm, SevCommand.LAUNCH_START, kvmSevLaunchStart.encode({ policy: Policy.ES })).ret).toBe(0);
	expect(p.sev(vm, SevCommand.LAUNCH_UPDATE_VMSA)).toMatchObject({ ret: 0, error: 0 });
	return vcpu;
}

const GETS = [
	'KVM_GET_REGS',
	'KVM_GET_SREGS',
	'KVM_GET_FPU',
	'KVM_GET_XSAVE',
	'KVM_GET_XCRS',
	'KVM_GET_DEBUGREGS',
] as const;
const SETS = [
	'KVM_SET_REGS',
	'KVM_SET_SREGS',
	'KVM_SET_FPU',
	'KVM_SET_XSAVE',
	'KVM_SET_XCRS',
	'KVM_SET_DEBUGREGS',
] as const;
const sizeOf = (request: number): number => (request >>> 16) & 0x3fff;

describe('registers of a SEV-ES guest after LAUNCH_UPDATE_VMSA', () => {
	it('of KVM_SEV_ES_INIT can be read, and hold nothing of what the VMM had set', () => {
		const p = program();
		const vcpu = protectedVcpu(p, 0);
		for (const name of GETS) {
			const bytes = new Uint8Array(sizeOf(Ioctl[name]));
			expect([name, p.process.ioctl(vcpu, Ioctl[name], bytes)]).toEqual([name, 0]);
			if (name === 'KVM_GET_REGS') expect(kvmRegs.decode(bytes).rax).toBe(0n);
			const set = SETS[GETS.indexOf(name)] ?? 'KVM_SET_REGS';
			expect([set, p.process.ioctl(vcpu, Ioctl[set], bytes)]).toEqual([set, 0]);
		}
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_GUEST_DEBUG, new Uint8Array(72))).toBe(-22);
	});

	it('of a VM of type SEV_ES are EINVAL; where the caller keeps them is not touched', () => {
		const p = program();
		const vcpu = protectedVcpu(p, 3);
		for (const name of [...GETS, ...SETS]) {
			const bytes = new Uint8Array(sizeOf(Ioctl[name])).fill(0xee);
			expect([name, p.process.ioctl(vcpu, Ioctl[name], bytes)]).toEqual([name, -22]);
			expect(bytes.every((byte) => byte === 0xee)).toBe(true);
		}
		expect(p.process.ioctl(vcpu, Ioctl.KVM_GET_MP_STATE, new Uint8Array(4))).toBe(0);
	});
});

describe('a kernel with patch v12', () => {
	it('reports the feature in KVM_GET_SUPPORTED_CPUID', () => {
		const p = program({ abi: 'v12' });
		const bytes = new Uint8Array(8 + 40 * 20);
		bytes.set(kvmCpuid2.encode({ nent: 20 }));
		expect(p.process.ioctl(p.kvmFd, Ioctl.KVM_GET_SUPPORTED_CPUID, bytes)).toBe(0);
		const { nent } = kvmCpuid2.decodePrefix(bytes);
		const entries = Array.from({ length: nent }, (_, i) => kvmCpuidEntry2.decodePrefix(bytes.subarray(8 + 40 * i)));
		expect(entries.find((entry) => entry.function === 0x40000001)?.eax).toBe(1 << 16);
	});

	it('cannot pin in EFAULT, and has no other error for it', () => {
		const p = program({ abi: 'v12' });
		const { vm } = running(p);
		expect(vmOf(p, vm).sev.sendStart(certificatesOf(bootHost({ seed: 'target' }))).ret).toBe(0);
		const there = p.put(new Uint8Array(PAGE));
		const packet = { hdrUaddr: there, hdrLen: 52, guestUaddr: NOWHERE, guestLen: 16, transUaddr: there, transLen: 16 };
		const refused = { ret: -14, error: UNTOUCHED };
		expect(p.sev(vm, SevCommand.SEND_UPDATE_DATA, kvmSevSendUpdateData.encode(packet))).toMatchObject(refused);
		const other = launching(p).vm;
		expect(p.sev(other, SevCommand.RECEIVE_UPDATE_DATA, kvmSevReceiveUpdateData.encode(packet))).toMatchObject(refused);
	});

	it('initialises a VM that has vCPUs, and says EBUSY the second time', () => {
		const p = program({ abi: 'v12' });
		const vm = p.createVm();
		p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
		expect(p.sev(vm, SevCommand.INIT).ret).toBe(0);
		expect(p.sev(vm, SevCommand.INIT)).toMatchObject({ ret: -16, error: UNTOUCHED });
		expect(p.createVm(2)).toBe(-22);
	});
});

describe('KVM_CREATE_IRQCHIP', () => {
	it('is there once, before vCPUs, and takes any argument', () => {
		const p = program();
		const vm = p.createVm();
		expect([p.process.ioctl(vm, Ioctl.KVM_CREATE_IRQCHIP, 5), p.process.ioctl(vm, Ioctl.KVM_CREATE_IRQCHIP)]).toEqual([
			0, -17,
		]);
		const vcpu = p.process.ioctl(vm, Ioctl.KVM_CREATE_VCPU, 0);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_GET_LAPIC, new Uint8Array(1024))).toBe(0);
		const late = p.createVm();
		const without = p.process.ioctl(late, Ioctl.KVM_CREATE_VCPU, 0);
		expect(p.process.ioctl(late, Ioctl.KVM_CREATE_IRQCHIP)).toBe(-22);
		expect(p.process.ioctl(without, Ioctl.KVM_GET_LAPIC, new Uint8Array(1024))).toBe(-22);
	});
});
