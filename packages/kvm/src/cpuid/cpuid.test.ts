import { describe, expect, it } from 'vitest';
import type { KvmAbi } from '../abi/generation.js';
import { type CpuidOptions, guestCpuid } from './cpuid.js';

const SILICON = { cbitPosition: 51, physAddrReduction: 5 };
const leafOf = (abi: KvmAbi, options: CpuidOptions, number: number) =>
	guestCpuid(abi, SILICON, options).find((e) => e.function === number);
const features = (abi: KvmAbi, options: CpuidOptions, base = 0x40000000) => leafOf(abi, options, base + 1)?.eax;

/** The 12 bytes of a signature from three registers. */
const text = (...words: (number | undefined)[]) =>
	String.fromCharCode(...new Uint8Array(Uint32Array.from(words, (w) => w ?? 0).buffer));

describe('CPUID entries for a guest', () => {
	it('name the processor and KVM in the register order of each leaf', () => {
		const vendor = leafOf('upstream', {}, 0);
		expect(text(vendor?.ebx, vendor?.edx, vendor?.ecx)).toBe('AuthenticAMD');
		const kvm = leafOf('upstream', {}, 0x40000000);
		expect(text(kvm?.ebx, kvm?.ecx, kvm?.edx)).toBe('KVMKVMKVM\0\0\0');
	});

	it('say that there is a hypervisor', () => {
		expect(((leafOf('v12', {}, 1)?.ecx ?? 0) >>> 31) & 1).toBe(1);
	});

	it.each<[KvmAbi, CpuidOptions, number]>([
		['upstream', {}, 0],
		['upstream', { migrationControl: true }, 0x30000],
		['upstream', { migrationControl: true, sev: false }, 0],
		['v12', {}, 0x10000],
		['v12', { migrationControl: true }, 0x10000],
		['v12', { sev: false }, 0],
	])('offer the migration features that %s has with %o', (abi, options, expected) => {
		expect(features(abi, options)).toBe(expected);
	});

	it('put KVM behind Hyper-V at 0x40000100', () => {
		const options = { hyperv: true, migrationControl: true };
		const hyperv = leafOf('upstream', options, 0x40000000);
		expect(text(hyperv?.ebx, hyperv?.ecx, hyperv?.edx)).toBe('Microsoft Hv');
		expect(leafOf('upstream', options, 0x40000100)).toMatchObject({ eax: 0x40000101, ebx: 0x4b4d564b });
		expect(features('upstream', options, 0x40000100)).toBe(0x30000);
	});

	it("show a SEV guest's view of 0x8000001F, without ASIDs", () => {
		expect(leafOf('upstream', {}, 0x8000001f)).toMatchObject({ eax: 2, ebx: 51 | (5 << 6), ecx: 0, edx: 0 });
		expect(leafOf('upstream', { sev: false }, 0x8000001f)).toBeUndefined();
		expect(leafOf('upstream', { sev: false }, 0x80000000)?.eax).toBe(0x80000001);
	});

	it('show a SEV-ES guest that it is one, and XSAVE', () => {
		expect(leafOf('upstream', { es: true }, 0x8000001f)).toMatchObject({
			eax: 0xa,
			ebx: 51 | (5 << 6),
			ecx: 0,
			edx: 0,
		});
		expect(leafOf('upstream', { es: true }, 0)?.eax).toBe(0xd);
		expect(leafOf('upstream', { es: true }, 1)?.ecx).toBe(0x94000000);
		const xsave = guestCpuid('upstream', SILICON, { es: true }).filter((e) => e.function === 0xd);
		expect(xsave.map(({ index, eax, ebx, ecx }) => [index, eax, ebx, ecx])).toEqual([
			[0, 7, 832, 832],
			[1, 0, 0, 0],
			[2, 256, 576, 0],
		]);
		expect(leafOf('upstream', {}, 0xd)).toBeUndefined();
	});
});
