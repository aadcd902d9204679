import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { KvmError, loadVcpuState, saveVcpuState } from '../src/index.js';
import { hiddenFpu } from '../src/registers/fpu.js';
import { packAttributes } from '../src/registers/segments.js';
import { openVcpuState, Register } from '../src/vm/vcpu-state.js';
import { contextOf } from '../src/vm/vm.js';
import { bootHost, pattern, vmWithRam } from './host.js';

const EINVAL = -22;
const bit = fc.integer({ min: 0, max: 1 });
/** Segments as a VMM can set them and find them again. */
const segments = fc
	.record({
		base: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
		limit: fc.integer({ min: 0, max: 0xffffffff }),
		selector: fc.integer({ min: 0, max: 0xffff }),
		type: fc.integer({ min: 0, max: 15 }),
		dpl: fc.integer({ min: 0, max: 3 }),
		...{ present: bit, db: bit, s: bit, avl: bit },
	})
	.map((segment) => ({ ...segment, l: 0, g: segment.limit > 0xfffff ? 1 : 0, unusable: 1 - segment.present }));

const created = () => {
	const { vm } = vmWithRam(bootHost());
	return { vm, vcpu: vm.createVcpu(0, []) };
};
/** One for the properties: they set all that they look at. */
const shared = created().vcpu;

describe('KVM_SET_SREGS', () => {
	test.prop([segments, segments, segments, segments], { numRuns: 50 })(
		'keeps segments as they were given',
		(cs, ds, ss, tr) => {
			expect(shared.setSregs({ cs, ds, ss, tr, gdt: { base: 1n, limit: 0xffff } })).toBe(0);
			expect(shared.getSregs()).toMatchObject({ cs, ds, ss, tr, gdt: { base: 1n, limit: 0xffff } });
			expect(shared.getSregs().cpl).toBe(BigInt(ss.dpl));
		},
	);

	test.prop([segments], { numRuns: 50 })('packs attributes into 12 bits, "present" only if it is usable', (segment) => {
		const packed = packAttributes(segment);
		expect(packed).toBeLessThan(0x1000);
		expect((packed >> 7) & 1).toBe(segment.present);
		expect(packAttributes({ ...segment, unusable: 1 }) & 0x80).toBe(0);
	});

	it('sets CPL by SS, and SS by CPL', () => {
		const { vcpu } = created();
		expect(vcpu.setSregs({ cpl: 3n })).toBe(0);
		expect([vcpu.getSregs().cpl, vcpu.getSregs().ss.dpl]).toEqual([3n, 3]);
		vcpu.setSregs({ ss: { ...vcpu.getSregs().ss, dpl: 1 } });
		expect(openVcpuState(vcpu.share()).registers[Register.cpl]).toBe(1n);
	});

	it.each([
		['long mode without PAE', { cr0: 0x80000001n, efer: 0x500n, cr4: 0n }],
		['long mode that is not active', { cr0: 0x80000001n, efer: 0x100n, cr4: 0x20n }],
		['active long mode without paging', { cr0: 1n, efer: 0x500n, cr4: 0x20n }],
		['a 64-bit code segment outside of long mode', { cs: { ...shared.getSregs().cs, l: 1 } }],
		['reserved bits of APIC_BASE', { apicBase: 0xfee00a00n }],
	])('is EINVAL for %s, and sets nothing', (_, sregs) => {
		const { vcpu } = created();
		const before = vcpu.getSregs();
		expect(vcpu.setSregs(sregs)).toBe(EINVAL);
		expect(vcpu.getSregs()).toEqual(before);
	});

	it('takes long mode', () => {
		const { vcpu } = created();
		const mode = { cr0: 0x80000011n, cr3: 0x3000n, cr4: 0x20n, efer: 0x500n, cr8: 4n };
		expect(vcpu.setSregs({ ...mode, cs: { ...vcpu.getSregs().cs, l: 1 } })).toBe(0);
		expect(vcpu.getSregs()).toMatchObject(mode);
	});
});

describe('floating-point state', () => {
	it('of a new vCPU is that after FNINIT', () => {
		const { vcpu } = created();
		expect(vcpu.getFpu()).toEqual({ ...hiddenFpu(), fcw: 0x37f, mxcsr: 0x1f80 });
	});

	it('is one and the same for KVM_SET_FPU and KVM_GET_XSAVE', () => {
		const { vcpu } = created();
		const fpu = {
			fpr: pattern(128),
			fcw: 0x27f,
			fsw: 2,
			ftwx: 5,
			lastOpcode: 7,
			lastIp: 8n,
			lastDp: 9n,
			xmm: pattern(256),
		};
		expect(vcpu.setFpu(fpu)).toBe(0);
		expect(vcpu.getFpu()).toEqual({ ...fpu, mxcsr: 0x1f80 });
		const xsave = vcpu.getXsave();
		expect([xsave.slice(32, 160), xsave.slice(160, 416), xsave[512]]).toEqual([fpu.fpr, fpu.xmm, 3]);
		expect([vcpu.setFpu({ fpr: new Uint8Array(127) }), vcpu.setFpu({ xmm: new Uint8Array(1) })]).toEqual([
			EINVAL,
			EINVAL,
		]);
	});

	it('KVM_SET_XSAVE takes x87, SSE and AVX, and valid bits of MXCSR', () => {
		const { vcpu } = created();
		const data = pattern(4096).fill(0, 24, 28).fill(0, 512, 576);
		data[512] = 7;
		expect([vcpu.setXsave(data), vcpu.getXsave()]).toEqual([0, data]);
		const component = data.slice();
		component[513] = 2;
		const mxcsr = data.slice();
		mxcsr[27] = 1;
		for (const bad of [component, mxcsr, data.subarray(1)]) expect(vcpu.setXsave(bad)).toBe(EINVAL);
		expect(vcpu.getXsave()).toEqual(data);
	});

	it('KVM_SET_XSAVE resets what XSTATE_BV does not name', () => {
		const { vcpu } = created();
		const data = pattern(4096).fill(0, 24, 28).fill(0, 512, 576);
		expect(vcpu.setXsave(data)).toBe(0);
		expect(vcpu.getFpu()).toEqual({ ...hiddenFpu(), fcw: 0x37f, mxcsr: 0x1f80 });
		expect(
			vcpu
				.getXsave()
				.subarray(576, 832)
				.every((byte) => byte === 0),
		).toBe(true);
		data[512] = 2;
		expect(vcpu.setXsave(data)).toBe(0);
		expect(vcpu.getFpu()).toEqual({ ...hiddenFpu(), fcw: 0x37f, xmm: data.slice(160, 416) });
	});

	it.each([
		[[{ xcr: 0, value: 1n }], 0],
		[[{ xcr: 0, value: 7n }], 0],
		[[{ xcr: 1, value: 9n }], 0],
		[[], 0],
		[[{ xcr: 0, value: 0n }], EINVAL],
		[[{ xcr: 0, value: 5n }], EINVAL],
		[[{ xcr: 0, value: 0x207n }], EINVAL],
		[Array.from({ length: 17 }, () => ({ xcr: 0, value: 1n })), EINVAL],
	])('KVM_SET_XCRS %# answers as XSETBV would', (xcrs, ret) => {
		expect(created().vcpu.setXcrs(xcrs)).toBe(ret);
	});
});

describe('debug registers', () => {
	it('are kept, in 32 bits where the processor has no more', () => {
		const { vcpu } = created();
		const regs = { db: [1n, 2n, 3n, 2n ** 64n - 1n], dr6: 0xffff0ff0n, dr7: 0x400n, flags: 0n } as const;
		expect([vcpu.setDebugRegs(regs), vcpu.getDebugRegs()]).toEqual([0, regs]);
		for (const bad of [{ dr6: 2n ** 32n }, { dr7: 2n ** 32n }, { flags: 1n }])
			expect(vcpu.setDebugRegs(bad)).toBe(EINVAL);
		expect(vcpu.getDebugRegs()).toEqual(regs);
	});
});

describe('the local APIC', () => {
	it('has the number of its vCPU and its reset values, and goes with a saved vCPU', () => {
		const { vm } = created();
		const vcpu = vm.createVcpu(5, []);
		contextOf(vm).hasIrqchip = true;
		const lapic = vcpu.getLapic() ?? new Uint8Array(0);
		expect([lapic.length, lapic[0x23], lapic[0xf0], lapic[0x30]]).toEqual([1024, 5, 0xff, 0x14]);
		lapic[0x80] = 0x30;
		const events = pattern(64);
		expect([vcpu.setLapic(lapic), vcpu.setVcpuEvents(events)]).toEqual([0, 0]);
		const other = vm.createVcpu(6, []);
		loadVcpuState(other.share(), saveVcpuState(vcpu.share()));
		expect([other.getLapic(), other.getVcpuEvents()]).toEqual([lapic, events]);
	});

	it('keeps vCPUs other than the first waiting for INIT if it is in the kernel', () => {
		const { vm } = created();
		contextOf(vm).hasIrqchip = true;
		expect([vm.createVcpu(4, []).getMpState(), created().vcpu.getMpState()]).toEqual([1, 0]);
	});
});

describe('a vCPU', () => {
	it('takes new CPUID entries for the threads that open it then, up to 256', () => {
		const { vcpu } = created();
		const entry = { function: 1, eax: 5, ebx: 0, ecx: 0, edx: 0 };
		const before = vcpu.share();
		expect(vcpu.setCpuid([entry])).toBe(0);
		expect([before.cpuid, vcpu.share().cpuid]).toEqual([[], [entry]]);
		expect(vcpu.setCpuid(Array.from({ length: 257 }, () => entry))).toBe(-7);
		expect(vcpu.share().state).toBe(before.state);
	});

	it('of a VM whose context was moved away refuses everything', () => {
		const { vm, vcpu } = created();
		contextOf(vm).sev.dead = true;
		for (const get of [vcpu.getRegs, vcpu.getSregs, vcpu.getXsave, () => vcpu.getMsr(0xc0000080)]) {
			expect(get).toThrow(KvmError);
		}
		const zeros = new Uint8Array(4096);
		const answers = [
			...[vcpu.setRegs({}), vcpu.setSregs({}), vcpu.setXsave(zeros), vcpu.setMsr(0xc0000080, 0n), vcpu.setCpuid([])],
			...[vcpu.setGuestDebug(0), vcpu.setMpState(0), vcpu.setLapic(zeros), vcpu.setVcpuEvents(zeros)],
		];
		expect(answers.every((ret) => ret === -5)).toBe(true);
	});
});
