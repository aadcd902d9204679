import { nobleProvider, seededRandom } from '@cvm/crypto';
import { describe, expect, it } from 'vitest';
import { cpuid8000001F, GENERATIONS, generationOf, MemoryFeature, type SevGeneration } from './generations.js';
import { createSevMachine } from './machine.js';

describe('CPUID Fn8000_001F', () => {
	it.each([
		['naples-early', { eax: 0xf, ebx: 0x16f, ecx: 15, edx: 5 }],
		['naples', { eax: 0xf, ebx: 0x16f, ecx: 15, edx: 5 }],
		['rome', { eax: 0xf, ebx: 0x16f, ecx: 509, edx: 100 }],
		['milan', { eax: 0xc0f, ebx: 0x173, ecx: 509, edx: 100 }],
		['genoa', { eax: 0xc0f, ebx: 0x173, ecx: 1006, edx: 100 }],
		['turin', { eax: 0xc0f, ebx: 0x173, ecx: 1006, edx: 100 }],
	] as const)('of %s', (name, registers) => {
		expect(cpuid8000001F(name)).toEqual(registers);
	});

	it('of a generation of one’s own', () => {
		const own: SevGeneration = { ...GENERATIONS.rome, cbitPosition: 50, physAddrReduction: 1, maxAsid: 3, features: 3 };
		expect(cpuid8000001F({ ...own, physAddrWidth: 51, minSevNoEsAsid: 4 })).toEqual({
			...{ eax: MemoryFeature.SME | MemoryFeature.SEV, ebx: 50 | 0x40, ecx: 3, edx: 4 },
		});
	});
});

describe('a generation', () => {
	it.each([
		['physAddrWidth', 53, 'generation.physAddrWidth: expected 33 … 52, got 53'],
		['physAddrWidth', 32, 'generation.physAddrWidth: expected 33 … 52, got 32'],
		['physAddrReduction', 17, 'generation.physAddrReduction: expected 0 … 16, got 17'],
		['cbitPosition', 42, 'generation.cbitPosition: expected 43 … 51, got 42'],
		['cbitPosition', 52, 'generation.cbitPosition: expected 43 … 51, got 52'],
		['maxAsid', 0, 'generation.maxAsid: expected 1 … 65535, got 0'],
		['maxAsid', 65536, 'generation.maxAsid: expected 1 … 65535, got 65536'],
		['minSevNoEsAsid', 0, 'generation.minSevNoEsAsid: expected 1 … 510, got 0'],
		['minSevNoEsAsid', 511, 'generation.minSevNoEsAsid: expected 1 … 510, got 511'],
		['features', -1, 'generation.features: expected 0 … 4294967295, got -1'],
		['features', 0.5, 'generation.features: expected 0 … 4294967295, got 0.5'],
	] as const)('cannot have %s = %d', (field, value, message) => {
		expect(() => generationOf({ ...GENERATIONS.rome, [field]: value })).toThrow(new RangeError(message));
	});

	it.each(Object.values(GENERATIONS))('that has a name is one that can be', (generation) => {
		expect(generationOf({ ...generation })).toEqual(generation);
	});

	it('can be given to a machine, which has no more memory than its addresses reach', () => {
		const machine = (reduction: number, dramBytes: number) => {
			const generation = { ...GENERATIONS.rome, physAddrWidth: 33, physAddrReduction: reduction, maxAsid: 200 };
			const random = seededRandom('generation');
			return createSevMachine({ dramBytes, provider: nobleProvider, random, chipSeed: 'a', generation });
		};
		expect(machine(1, 2 ** 20).cpuid).toMatchObject({ maxAsid: 200, physAddrWidth: 33 });
		expect(() => machine(1, 2 ** 32 + 4096)).toThrow('dramBytes: expected at most 2^32, got 4294971392');
	});
});
