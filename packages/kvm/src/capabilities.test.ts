import { describe, expect, it } from 'vitest';
import { bootHost } from '../test/host.js';
import { hasQuirk } from './capabilities.js';
import { VmWord } from './vm/state.js';
import { contextOf } from './vm/vm.js';

const bits = Array.from({ length: 64 }, (_, i) => BigInt(i));
const upstream = () => bootHost().kvm;
const word = (vm: ReturnType<ReturnType<typeof upstream>['createVm']>, at: number) => contextOf(vm).words[at];

describe('KVM_CHECK_EXTENSION', () => {
	it('T-42: offers MSR exits and the MSR filter', () => {
		expect([188, 189].map((cap) => upstream().checkExtension(cap))).toEqual([1, 1]);
	});

	it('answers on a VM as on /dev/kvm', () => {
		const kvm = upstream();
		for (const cap of [10, 98, 116, 143, 188, 189, 190, 201, 213, 9999]) {
			expect([cap, kvm.createVm().checkExtension(cap)]).toEqual([cap, kvm.checkExtension(cap)]);
		}
	});

	it('T-63: offers exits for hypercall 12, upstream', () => {
		expect(upstream().checkExtension(201)).toBe(0x1000);
		expect(bootHost({ abi: 'v12' }).kvm.checkExtension(201)).toBe(0);
	});

	it('T-36: offers the hypercall quirk from 5.18 on', () => {
		expect(upstream().checkExtension(213) & 0x20).toBe(0x20);
		expect(bootHost({ release: '5.16' }).kvm.checkExtension(213)).toBe(0);
		expect(bootHost({ abi: 'v12' }).kvm.checkExtension(213)).toBe(0);
	});

	it.each([0, 9999, -1])('does not know %d', (cap) => {
		expect(upstream().checkExtension(cap)).toBe(0);
	});
});

describe('KVM_ENABLE_CAP', () => {
	// Linux tools/testing/selftests/kvm/x86/userspace_msr_exit_test.c test_user_exit_msr_flags.
	it('T-53: takes bits 0 to 2 of the MSR exit reasons and no other', () => {
		const kvm = upstream();
		for (const bit of bits) {
			const vm = kvm.createVm();
			expect(vm.enableCap(188, [1n << bit])).toBe(bit < 3n ? 0 : -22);
			expect(word(vm, VmWord.msrExitMask)).toBe(bit < 3n ? 1 << Number(bit) : 0);
		}
	});

	it('T-63: takes bit 12 of the exiting hypercalls and no other; the last call wins', () => {
		const vm = upstream().createVm();
		for (const bit of bits) expect(vm.enableCap(201, [1n << bit])).toBe(bit === 12n ? 0 : -22);
		expect(word(vm, VmWord.exitHypercallMask)).toBe(0x1000);
		expect(vm.enableCap(201, [0n])).toBe(0);
		expect(word(vm, VmWord.exitHypercallMask)).toBe(0);
	});

	it('takes the quirks that it offers and no other', () => {
		for (const [release, valid] of [
			['5.18', 6n],
			['6.10', 7n],
		] as const) {
			const vm = bootHost({ release }).kvm.createVm();
			for (const bit of bits) expect(vm.enableCap(213, [1n << bit])).toBe(bit < valid ? 0 : -22);
			expect(vm.enableCap(213, [0x20n])).toBe(0);
			expect(hasQuirk(contextOf(vm).words, 0x20)).toBe(false);
		}
	});

	it('takes any mask of quirks in the old form, which remains', () => {
		const vm = bootHost({ abi: 'v12' }).kvm.createVm();
		expect(vm.enableCap(116, [0xffffffffn])).toBe(0);
		expect(word(vm, VmWord.disabledQuirks)).toBe(-1);
	});

	it('disables exits for good, and upstream only before there are vCPUs', () => {
		const vm = upstream().createVm();
		expect(vm.enableCap(143, [16n])).toBe(-22);
		expect([vm.enableCap(143, [2n]), vm.enableCap(143, [4n])]).toEqual([0, 0]);
		expect(word(vm, VmWord.disabledExits)).toBe(6);
		vm.createVcpu(0, []);
		expect(vm.enableCap(143, [1n])).toBe(-22);
		const old = bootHost({ abi: 'v12' }).kvm.createVm();
		old.createVcpu(0, []);
		expect(old.enableCap(143, [1n])).toBe(0);
	});

	it('refuses every flag, for every capability, and changes nothing', () => {
		const vm = upstream().createVm();
		const vcpu = vm.createVcpu(0, []);
		for (const cap of [116, 143, 188, 201, 213]) {
			for (const flag of [1, 2, 0x80000000]) expect(vm.enableCap(cap, [0n], flag)).toBe(-22);
		}
		expect(vcpu.enableCap(190, [1n], 1)).toBe(-22);
	});

	it.each([
		['v12', 201],
		['upstream', 190],
		['upstream', 189],
		['upstream', 10],
		['upstream', 0],
	] as const)('of a %s VM refuses %d', (abi, cap) => {
		expect(bootHost({ abi }).kvm.createVm().enableCap(cap, [0n])).toBe(-22);
	});

	it('of a vCPU takes the enforcement of CPUID alone', () => {
		const vcpu = upstream().createVm().createVcpu(0, []);
		expect([190, 188, 201, 0].map((cap) => vcpu.enableCap(cap, [1n]))).toEqual([0, -22, -22, -22]);
	});
});

describe('KVM_SET_CPUID2', () => {
	const leaf = (fn: number, eax: number, rest = {}) => ({ function: fn, eax, ebx: 0, ecx: 0, edx: 0, ...rest });
	const KVM = { ebx: 0x4b4d564b, ecx: 0x564b4d56, edx: 0x4d };
	const entries = (features: number, base = 0x40000000) => [leaf(base, base + 1, KVM), leaf(base + 1, features)];

	it('T-41: keeps PV_UNHALT, and drops it where HLT does not exit', () => {
		const kvm = upstream();
		const sticks = kvm.createVm().createVcpu(0, []);
		expect(sticks.setCpuid(entries(1 << 7))).toBe(0);
		expect(sticks.getCpuid()[1]?.eax).toBe(1 << 7);

		const vm = kvm.createVm();
		expect(vm.enableCap(143, [2n])).toBe(0);
		const vcpu = vm.createVcpu(0, entries(0x81));
		expect(vcpu.getCpuid()[1]?.eax).toBe(1);
		expect(vcpu.setCpuid(entries(0x81, 0x40000100))).toBe(0);
		expect(vcpu.getCpuid()[1]?.eax).toBe(1);
	});

	it('leaves alone what is not KVM’s leaf', () => {
		const vm = upstream().createVm();
		vm.enableCap(143, [2n]);
		const other = [leaf(0x40000000, 0x40000001, { ebx: 1 }), leaf(0x40000001, 0x80), leaf(7, 0x80)];
		expect(vm.createVcpu(0, other).getCpuid()).toEqual(other);
	});
});
