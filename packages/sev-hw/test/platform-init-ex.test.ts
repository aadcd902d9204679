import { describe, expect, it } from 'vitest';
import { expectRefusal } from './refusal.js';
import { certificatesOf, createRig, initialised, memoryStorage, type Rig } from './rig.js';

const NV = { length: 36, nvPaddr: 0x200000n, nvLength: 0x8000 };
const NV_TMR = { ...NV, flags: 1, tmrPaddr: 0x300000n, tmrLength: 0x100000 };

describe('INIT_EX', () => {
	/** A machine whose storage in memory is erased. */
	function erased(o: Parameters<typeof createRig>[0] = {}): Rig {
		const rig = createRig(o);
		rig.machine.dram.fill(0xff, 0x200000, 0x208000);
		return rig;
	}
	const area = (rig: Rig) => rig.at(0x200000, 0x8000);

	it.each([
		['a flag that is not ES', { flags: 2 }, 'INVALID_CONFIG'],
		['the reserved bytes behind the flags', { reserved: Uint8Array.of(0, 1) }, 'INVALID_CONFIG'],
		['the reserved bytes behind TMR_LENGTH', { reserved2: Uint8Array.of(0, 0, 0, 1) }, 'INVALID_CONFIG'],
		['a LENGTH that is too small', { length: 35 }, 'INVALID_LENGTH'],
		['a LENGTH that is too large', { length: 37 }, 'INVALID_LENGTH'],
		['the flags before LENGTH', { flags: 2, length: 0 }, 'INVALID_CONFIG'],
		['NV_PADDR that is not on a page', { nvPaddr: 0x200800n }, 'INVALID_ADDRESS'],
		['an NV_LENGTH that is too small', { nvLength: 0x7fff }, 'INVALID_LENGTH'],
		['an NV_LENGTH that is too large', { nvLength: 0x8001 }, 'INVALID_LENGTH'],
		['storage that runs into ASEG', { nvPaddr: 0x99000n }, 'INVALID_ADDRESS'],
		['storage that runs out of DRAM', { nvPaddr: 0x3f9000n }, 'INVALID_ADDRESS'],
		['a TMR that is not aligned to 1 MiB', { ...NV_TMR, tmrPaddr: 0x301000n }, 'INVALID_ADDRESS'],
		['a TMR of another length than 1 MiB', { ...NV_TMR, tmrLength: 0x200000 }, 'INVALID_LENGTH'],
		['a TMR behind DRAM', { ...NV_TMR, tmrPaddr: 0x400000n }, 'INVALID_ADDRESS'],
		['storage at the start of the TMR', { ...NV_TMR, nvPaddr: 0x2f9000n }, 'INVALID_ADDRESS'],
		['storage at the end of the TMR', { ...NV_TMR, nvPaddr: 0x2ff000n, tmrPaddr: 0x200000n }, 'INVALID_ADDRESS'],
	])('refuses %s', (_, change, status) => {
		const rig = createRig();
		rig.machine.dram.fill(0xff, 0x90000, 0x98000);
		rig.machine.dram.fill(0xff, 0x200000);
		expectRefusal(rig, 'INIT_EX', { ...NV, ...change }, status);
	});

	it('takes storage that ends where the TMR begins, or begins where it ends', () => {
		const before = erased();
		before.machine.dram.fill(0xff);
		before.must('INIT_EX', { ...NV_TMR, nvPaddr: 0x2f8000n });
		before.must('SHUTDOWN');
		before.must('INIT_EX', { ...NV_TMR, tmrPaddr: 0x100000n });
	});

	it('uses the flash without NV_PADDR, and then looks at no NV_LENGTH', () => {
		const rig = createRig();
		rig.must('INIT_EX', { length: 36, nvLength: 1 });
		const made = certificatesOf(rig);
		rig.must('SHUTDOWN');
		rig.must('INIT');
		expect(certificatesOf(rig)).toEqual(made);
	});

	it('reports the flags, and protects the TMR', () => {
		const rig = erased();
		rig.must('INIT_EX', NV_TMR);
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ state: 1, config: 1 });
		expectRefusal(rig, 'GET_ID', { idPaddr: 0x300000n, idLen: 64 }, 'INVALID_ADDRESS');
		expect(rig.command('GET_ID', { idPaddr: 0x210000n, idLen: 64 }).status).toBe('SUCCESS');
	});

	it('keeps keys in memory and none in the flash, sealed as in the flash', () => {
		const rig = erased();
		rig.must('INIT_EX', NV);
		const made = certificatesOf(rig);
		expect(rig.nv.content).toBeUndefined();
		const saved = area(rig);
		rig.must('SHUTDOWN');
		expect(area(rig)).toEqual(saved);
		rig.must('INIT_EX', NV);
		expect(certificatesOf(rig)).toEqual(made);
		expect(area(rig)).toEqual(saved);
		const nv = memoryStorage();
		nv.content = saved;
		const other = createRig({ nv });
		other.must('INIT');
		expect(certificatesOf(other)).toEqual(made);
	});

	it('takes storage at an address with the C-bit', () => {
		const rig = erased();
		rig.must('INIT_EX', { ...NV, nvPaddr: NV.nvPaddr | (1n << 51n) });
		expect(new TextDecoder().decode(rig.at(0x200000, 8))).toBe('CVMSEVN2');
	});

	it.each(['PDH_GEN', 'PEK_GEN'] as const)('keeps what %s makes in memory too', (name) => {
		const rig = erased();
		rig.must('INIT_EX', NV);
		rig.must(name);
		const made = certificatesOf(rig);
		expect(rig.nv.content).toBeUndefined();
		rig.must('SHUTDOWN');
		rig.must('INIT_EX', NV);
		expect(certificatesOf(rig)).toEqual(made);
	});

	it('is over with SHUTDOWN: the next INIT and its commands use the flash again', () => {
		const rig = erased();
		rig.must('INIT_EX', NV);
		const inMemory = certificatesOf(rig);
		rig.must('SHUTDOWN');
		const saved = area(rig);
		rig.must('INIT');
		expect(certificatesOf(rig).exported).not.toEqual(inMemory.exported);
		rig.must('PDH_GEN');
		expect(area(rig)).toEqual(saved);
	});

	it('leaves the memory to itself at PLATFORM_RESET', () => {
		const rig = erased();
		rig.must('INIT_EX', NV);
		const made = certificatesOf(rig);
		rig.must('SHUTDOWN');
		const saved = area(rig);
		rig.must('PLATFORM_RESET');
		expect(area(rig)).toEqual(saved);
		rig.must('INIT_EX', NV);
		expect(certificatesOf(rig)).toEqual(made);
	});

	it.each<[string, (rig: Rig) => void]>([
		['zeros', (rig) => rig.machine.dram.fill(0, 0x200000, 0x208000)],
		['a changed byte', (rig) => rig.machine.dram.set([rig.at(0x200064, 1)[0] ? 0 : 1], 0x200064)],
		[
			"another chip's keys",
			(rig) => {
				const other = erased({ seed: 'other' });
				other.must('INIT_EX', NV);
				rig.machine.dram.set(area(other), 0x200000);
			},
		],
	])('erases memory with %s and answers SECURE_DATA_INVALID, so that the next one succeeds', (_, spoil) => {
		const rig = erased();
		rig.must('INIT_EX', NV);
		rig.must('SHUTDOWN');
		spoil(rig);
		expect(rig.command('INIT_EX', NV).status).toBe('SECURE_DATA_INVALID');
		expect(area(rig)).toEqual(new Uint8Array(0x8000).fill(0xff));
		expect(rig.must('PLATFORM_STATUS')).toMatchObject({ state: 0 });
		rig.must('INIT_EX', NV);
	});

	it('does not destroy guests when it comes at a wrong moment', () => {
		const rig = initialised();
		rig.must('LAUNCH_START');
		expectRefusal(rig, 'INIT_EX', NV, 'INVALID_PLATFORM_STATE');
	});
});
