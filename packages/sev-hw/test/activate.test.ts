import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import { type Case, changed, expectRefusal, FORBIDDEN } from './refusal.js';
import { ASID, controllerOf, createRig, ES_ASID, GuestState, guestIn, initialised, type Rig } from './rig.js';

/** A list of APIC ids in DRAM. */
const ids = (rig: Rig, ...list: number[]) => ({
	numIds: list.length,
	idsPaddr: rig.put(new Uint8Array(Uint32Array.from(list).buffer)),
});

/** Two core complexes, cores 0 … 7 and 8 … 15, and a guest without ASID. */
function setUp(policy = 0, coreComplexes = 2) {
	const rig = initialised({ coreComplexes, es: true });
	const { handle = 0 } = rig.must('LAUNCH_START', { policy });
	return { rig, sound: { exLen: 24, handle, asid: ASID, ...ids(rig, 0) } };
}

/** Brings a guest that is being launched to RUNNING. */
function finish(rig: Rig, handle: number): void {
	rig.must('LAUNCH_MEASURE', { handle, paddr: BigInt(rig.allocate(48)), length: 48 });
	rig.must('LAUNCH_FINISH', { handle });
}

const stateOn = (rig: Rig, asid = ASID) => {
	const { asids } = rig.platform;
	return asids.complexes.map((complex) => asids.stateOf(asid, complex));
};

describe('ACTIVATE_EX', () => {
	const cases: readonly Case[] = [
		['a shorter command', { exLen: 23 }, 'INVALID_PARAM'],
		['a longer command', { exLen: 25 }, 'INVALID_PARAM'],
		['its length before the handle', { exLen: 0, handle: 99 }, 'INVALID_PARAM'],
		['a handle that nobody has', { handle: 99 }, 'INVALID_GUEST'],
		['ASID 0', { asid: 0 }, 'INVALID_ASID'],
		['an ASID above the highest', { asid: 510 }, 'INVALID_ASID'],
		['the ASID before the list', { asid: 0, numIds: 0 }, 'INVALID_ASID'],
		['an empty list', { numIds: 0 }, 'INVALID_PARAM'],
		['a list of more than 1024 cores', { numIds: 1025 }, 'INVALID_PARAM'],
		['a core that is not there', (rig) => ids(rig, 0, 16), 'INVALID_PARAM'],
		['an ASID kept for ES guests', { asid: ES_ASID }, 'INVALID_ASID'],
		...FORBIDDEN.map(([where, idsPaddr]): Case => [`a list ${where}`, { idsPaddr, numIds: 8 }, 'INVALID_ADDRESS']),
	];
	it.each(cases)('refuses %s', (_, change, status) => {
		const { rig, sound } = setUp();
		expectRefusal(rig, 'ACTIVATE_EX', changed(rig, sound, change), status);
	});
	it('refuses an ASID that another guest has on any complex, even to a bound guest', () => {
		const { rig, sound } = setUp();
		rig.must('ACTIVATE_EX', sound);
		const other = { ...sound, handle: rig.must('LAUNCH_START').handle ?? 0, ...ids(rig, 8) };
		expectRefusal(rig, 'ACTIVATE_EX', other, 'ASID_OWNED');
		rig.must('ACTIVATE_EX', { ...other, asid: ASID + 1 });
		expectRefusal(rig, 'ACTIVATE_EX', other, 'ASID_OWNED');
	});
	it('refuses another ASID to a guest that has one', () => {
		const { rig, sound } = setUp();
		rig.must('ACTIVATE_EX', sound);
		expectRefusal(rig, 'ACTIVATE_EX', { ...sound, asid: ASID + 1 }, 'ACTIVE');
	});
	it('refuses a guest that was sent, after it has looked at the ASID', () => {
		const { rig } = setUp();
		const { handle } = guestIn(rig, GuestState.SENT);
		const fields = { exLen: 24, handle, ...ids(rig, 0) };
		expectRefusal(rig, 'ACTIVATE_EX', { ...fields, asid: 200 }, 'ACTIVE');
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, 'ACTIVATE_EX', { ...fields, asid: 200 }, 'INVALID_GUEST_STATE');
	});
	it('refuses an ASID without ES to an ES guest', () => {
		const { rig, sound } = setUp(Policy.ES);
		expectRefusal(rig, 'ACTIVATE_EX', sound, 'INVALID_ASID');
		rig.must('ACTIVATE_EX', { ...sound, asid: ES_ASID });
	});
	it('takes the lowest and the highest ASID', () => {
		const es = setUp(Policy.ES);
		es.rig.must('ACTIVATE_EX', { ...es.sound, asid: 1 });
		const plain = setUp();
		plain.rig.must('ACTIVATE_EX', { ...plain.sound, asid: 509 });
	});
	it('wants only the listed complexes clean', () => {
		const { rig, sound } = setUp();
		rig.must('ACTIVATE_EX', sound);
		finish(rig, sound.handle);
		rig.must('DEACTIVATE', { handle: sound.handle });
		expect(stateOn(rig)).toEqual(['dirty', 'clean']);
		expectRefusal(rig, 'ACTIVATE_EX', sound, 'DF_FLUSH_REQUIRED');
		expectRefusal(rig, 'ACTIVATE_EX', { ...sound, ...ids(rig, 8, 7) }, 'DF_FLUSH_REQUIRED');
		expectRefusal(rig, 'ACTIVATE', { handle: sound.handle, asid: ASID }, 'DF_FLUSH_REQUIRED');
		rig.must('ACTIVATE_EX', { ...sound, ...ids(rig, 8, 15) });
		expect(stateOn(rig)).toEqual(['dirty', 'in-use']);
	});
	it('takes the last core of the last complex, and up to 1024 names', () => {
		const { rig, sound } = setUp();
		rig.must('ACTIVATE_EX', { ...sound, ...ids(rig, ...new Array<number>(1024).fill(15)) });
		expect(stateOn(rig)).toEqual(['clean', 'allocated']);
	});
	it('adds complexes when it is repeated, and blocks no guest that runs', () => {
		const { rig, sound } = setUp();
		rig.must('ACTIVATE_EX', sound);
		expect([stateOn(rig), controllerOf(rig).isRunnable(ASID)]).toEqual([['allocated', 'clean'], false]);
		finish(rig, sound.handle);
		expect([stateOn(rig), controllerOf(rig).isRunnable(ASID)]).toEqual([['in-use', 'clean'], true]);
		rig.must('ACTIVATE_EX', sound);
		expect(controllerOf(rig).isRunnable(ASID)).toBe(true);
		rig.must('ACTIVATE_EX', { ...sound, ...ids(rig, 0, 8) });
		expect([stateOn(rig), controllerOf(rig).isRunnable(ASID)]).toEqual([['in-use', 'in-use'], true]);
	});
	it('keeps the key when it is repeated', () => {
		const { rig, sound } = setUp();
		rig.must('ACTIVATE_EX', sound);
		const page = rig.put(new Uint8Array(16).fill(3));
		rig.must('LAUNCH_UPDATE_DATA', { handle: sound.handle, paddr: page, length: 16 });
		rig.must('ACTIVATE_EX', { ...sound, ...ids(rig, 8) });
		const out = new Uint8Array(16);
		controllerOf(rig).read(ASID, Number(page), out);
		expect(out).toEqual(new Uint8Array(16).fill(3));
	});
});

describe('ACTIVATE and DEACTIVATE on several core complexes', () => {
	it('take and leave all of them', () => {
		const { rig, sound } = setUp(0, 3);
		rig.must('ACTIVATE', { handle: sound.handle, asid: ASID });
		expect(stateOn(rig)).toEqual(['allocated', 'allocated', 'allocated']);
		rig.must('DEACTIVATE', { handle: sound.handle });
		expect(stateOn(rig)).toEqual(['clean', 'clean', 'clean']);
		rig.must('ACTIVATE', { handle: sound.handle, asid: ASID });
		finish(rig, sound.handle);
		rig.must('DEACTIVATE', { handle: sound.handle });
		expect(stateOn(rig)).toEqual(['dirty', 'dirty', 'dirty']);
	});
	it('refuses a guest that ACTIVATE_EX has bound', () => {
		const { rig, sound } = setUp();
		rig.must('ACTIVATE_EX', sound);
		expectRefusal(rig, 'ACTIVATE', { handle: sound.handle, asid: ASID }, 'ASID_OWNED');
		expectRefusal(rig, 'ACTIVATE', { handle: sound.handle, asid: ASID + 1 }, 'ACTIVE');
	});
	it('asks for WBINVD again only where the guest ran', () => {
		const { rig, sound } = setUp();
		rig.must('ACTIVATE_EX', { ...sound, ...ids(rig, 8) });
		finish(rig, sound.handle);
		rig.must('DEACTIVATE', { handle: sound.handle });
		expect(rig.command('DF_FLUSH').status).toBe('WBINVD_REQUIRED');
		rig.machine.wbinvd(1);
		rig.must('DF_FLUSH');
		expect(stateOn(rig)).toEqual(['clean', 'clean']);
	});
});

describe('DF_FLUSH on several core complexes', () => {
	it('cleans those whose cores have executed WBINVD, even if it is refused', () => {
		const rig = createRig({ coreComplexes: 2 });
		rig.must('INIT');
		rig.machine.wbinvd(1);
		expect(rig.command('DF_FLUSH').status).toBe('WBINVD_REQUIRED');
		expect(stateOn(rig)).toEqual(['dirty', 'clean']);
		const { handle = 0 } = rig.must('LAUNCH_START');
		expectRefusal(rig, 'ACTIVATE', { handle, asid: ASID }, 'DF_FLUSH_REQUIRED');
		rig.must('ACTIVATE_EX', { exLen: 24, handle, asid: ASID, ...ids(rig, 8) });
		rig.machine.wbinvd(0);
		rig.must('DF_FLUSH');
		expect(stateOn(rig)).toEqual(['clean', 'allocated']);
	});
	it('is asked for by INIT on every complex', () => {
		const { rig } = setUp();
		rig.must('SHUTDOWN');
		rig.must('INIT');
		rig.machine.wbinvd(0);
		expect(rig.command('DF_FLUSH').status).toBe('WBINVD_REQUIRED');
		rig.machine.wbinvd();
		rig.must('DF_FLUSH');
	});
});

describe('core complexes', () => {
	it.each([0, 129, 1.5])('are not %d', (coreComplexes) => {
		expect(() => createRig({ coreComplexes })).toThrow(`coreComplexes: expected 1 … 128, got ${coreComplexes}`);
	});
	it('are at most 128', () => {
		expect(createRig({ coreComplexes: 128 }).platform.asids.complexes).toHaveLength(128);
	});
	it.each([-1, 2, 0.5])('have no number %d in a machine of two', (complex) => {
		const { rig } = setUp();
		expect(() => rig.machine.wbinvd(complex)).toThrow(`core complex: expected 0 … 1, got ${complex}`);
	});
});
