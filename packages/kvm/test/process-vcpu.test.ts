import { describe, expect, it } from 'vitest';
import {
	ExitReason,
	Ioctl,
	KVM_RUN_SIZE,
	kvmCpuid2,
	kvmCpuidEntry2,
	kvmDebugregs,
	kvmMpState,
	kvmMsrEntry,
	kvmMsrs,
	kvmRegs,
	kvmSegment,
	kvmSregs,
	kvmXcrs,
	RunOffset,
} from '../src/abi/index.js';
import { guest, program, runs } from './process-rig.js';

describe('a vCPU', () => {
	it('runs, and shows why it stopped in what its descriptor maps', () => {
		const p = runs();
		const { vcpu, vm } = guest(p);
		const run = p.process.mmap(vcpu, KVM_RUN_SIZE, 0);
		if (typeof run === 'number') throw new Error(`mmap: expected bytes, got ${run}`);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_RUN)).toBe(0);
		const view = new DataView(run.buffer, run.byteOffset);
		expect(view.getUint32(RunOffset.exitReason, true)).toBe(ExitReason.IO);
		expect(view.getUint16(RunOffset.ioPort, true)).toBe(0xf4);
		expect(p.process.mmap(vcpu, KVM_RUN_SIZE + 1, 0)).toBe(-22);
		expect(p.process.mmap(vcpu, 1, 1)).toBe(-22);
		expect([p.process.mmap(vm, 4096, 0), p.process.mmap(99, 4096, 0)]).toEqual([-19, -9]);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_RUN, 1)).toBe(-22);
		run[RunOffset.immediateExit] = 1;
		expect(p.process.ioctl(vcpu, Ioctl.KVM_RUN)).toBe(-4);
	});

	it('without a way to run is ENOSYS', () => {
		const p = program();
		expect(p.process.ioctl(guest(p).vcpu, Ioctl.KVM_RUN)).toBe(-38);
	});

	it.each([
		['KVM_GET_REGS', 'KVM_SET_REGS', 144],
		['KVM_GET_SREGS', 'KVM_SET_SREGS', 312],
		['KVM_GET_FPU', 'KVM_SET_FPU', 416],
		['KVM_GET_XSAVE', 'KVM_SET_XSAVE', 4096],
		['KVM_GET_XCRS', 'KVM_SET_XCRS', 392],
		['KVM_GET_DEBUGREGS', 'KVM_SET_DEBUGREGS', 128],
		['KVM_GET_MP_STATE', 'KVM_SET_MP_STATE', 4],
		['KVM_GET_VCPU_EVENTS', 'KVM_SET_VCPU_EVENTS', 64],
	] as const)('%s and %s carry %d bytes there and back', (get, set, size) => {
		const p = program();
		const { vcpu } = guest(p);
		const bytes = new Uint8Array(size + 8).fill(0xee);
		expect(p.process.ioctl(vcpu, Ioctl[get], bytes.subarray(0, size - 1))).toBe(-14);
		expect(p.process.ioctl(vcpu, Ioctl[set], bytes.subarray(0, size - 1))).toBe(-14);
		expect(bytes).toEqual(new Uint8Array(size + 8).fill(0xee));
		expect(p.process.ioctl(vcpu, Ioctl[get], bytes)).toBe(0);
		expect([...bytes.subarray(size)]).toEqual([0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
		const before = bytes.slice();
		expect(p.process.ioctl(vcpu, Ioctl[set], bytes)).toBe(0);
		expect(p.process.ioctl(vcpu, Ioctl[get], bytes)).toBe(0);
		expect(bytes).toEqual(before);
	});

	it('carries general registers, segments and control registers by their names', () => {
		const p = program();
		const { vcpu } = guest(p);
		const regs = kvmRegs.encode({ rax: 1n, r15: 15n, rip: 0x1234n, rflags: 2n });
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_REGS, regs)).toBe(0);
		expect(p.process.vcpuOf(vcpu)?.getRegs()).toMatchObject({ rax: 1n, r15: 15n, rip: 0x1234n });
		const sregs = new Uint8Array(312);
		p.process.ioctl(vcpu, Ioctl.KVM_GET_SREGS, sregs);
		const ds = kvmSegment.encode({ base: 0x55000n, limit: 0xffff, selector: 0x18, type: 3, present: 1, s: 1 });
		kvmSregs.patch(sregs, { ds, cr3: 0x7000n });
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_SREGS, sregs)).toBe(0);
		const facade = p.process.vcpuOf(vcpu)?.getSregs();
		expect(facade?.ds).toMatchObject({ base: 0x55000n, limit: 0xffff, selector: 0x18, type: 3 });
		expect(facade?.cr3).toBe(0x7000n);
		const debug = kvmDebugregs.encode({ db: new Uint8Array(32).fill(1), dr6: 0xffff0ff0n, dr7: 0x400n });
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_DEBUGREGS, debug)).toBe(0);
		expect(p.process.vcpuOf(vcpu)?.getDebugRegs().db[3]).toBe(0x0101010101010101n);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_XCRS, kvmXcrs.encode({ nrXcrs: 17 }))).toBe(-22);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_MP_STATE, kvmMpState.encode({ mpState: 77 }))).toBe(-22);
	});

	it('moves MSRs up to the first that is refused, and tells how many', () => {
		const p = program();
		const { vcpu } = guest(p);
		const bytes = new Uint8Array(8 + 3 * 16);
		bytes.set(kvmMsrs.encode({ nmsrs: 3 }));
		const put = (i: number, index: number, data: bigint) => bytes.set(kvmMsrEntry.encode({ index, data }), 8 + 16 * i);
		put(0, 0xc0000080, 0x500n);
		put(1, 0x4b564d08, 1n);
		put(2, 0xc0000080, 0n);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_MSRS, bytes)).toBe(1);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_GET_MSRS, bytes)).toBe(1);
		expect(kvmMsrEntry.decodePrefix(bytes.subarray(8))).toEqual({ index: 0xc0000080, data: 0x500n });
		bytes.set(kvmMsrs.encode({ nmsrs: 4 }));
		expect(p.process.ioctl(vcpu, Ioctl.KVM_GET_MSRS, bytes)).toBe(-14);
		bytes.set(kvmMsrs.encode({ nmsrs: 257 }));
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_MSRS, bytes)).toBe(-7);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_MSRS, new Uint8Array(7))).toBe(-14);
	});

	it('takes CPUID entries and hands them out', () => {
		const p = program();
		const { vcpu } = guest(p);
		const bytes = new Uint8Array(8 + 2 * 40);
		bytes.set(kvmCpuid2.encode({ nent: 2 }));
		bytes.set(kvmCpuidEntry2.encode({ function: 1, eax: 0xa00f11 }), 8);
		bytes.set(kvmCpuidEntry2.encode({ function: 0xd, index: 1, flags: 1, ebx: 9 }), 48);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_CPUID2, bytes)).toBe(0);
		const out = new Uint8Array(8 + 2 * 40);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_GET_CPUID2, out)).toBe(-7);
		expect(kvmCpuid2.decodePrefix(out).nent).toBe(2);
		expect(p.process.ioctl(vcpu, Ioctl.KVM_GET_CPUID2, out)).toBe(0);
		expect(kvmCpuidEntry2.decodePrefix(out.subarray(48))).toMatchObject({ function: 0xd, index: 1, flags: 1, ebx: 9 });
		bytes.set(kvmCpuid2.encode({ nent: 257 }));
		expect(p.process.ioctl(vcpu, Ioctl.KVM_SET_CPUID2, bytes)).toBe(-7);
	});

	it('is the one that the facade shows', () => {
		const p = program();
		const { vm, vcpu } = guest(p);
		expect(p.process.vcpuOf(vcpu)?.index).toBe(0);
		expect([p.process.vmOf(vcpu), p.process.vcpuOf(vm)]).toEqual([undefined, undefined]);
	});
});
