import { type Spa, spa } from '@cvm/layout';
import { fc, it } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { COMMANDS } from '../src/abi/commands.js';
import { PacketContext, sealPacket } from '../src/channel/packet.js';
import { ASID, GuestState, guestIn, initialised, provider, type Rig } from './rig.js';

type Name = 'SEND_UPDATE_DATA' | 'RECEIVE_UPDATE_DATA' | 'LAUNCH_UPDATE_DATA';
const STATES = {
	SEND_UPDATE_DATA: GuestState.SUPDATE,
	RECEIVE_UPDATE_DATA: GuestState.RUPDATE,
	LAUNCH_UPDATE_DATA: GuestState.LUPDATE,
} as const;

/** Where commands, guest pages, headers and payloads lie: close together, so that batches often trip over themselves. */
const AREA = 0x300000;
const AREA_SIZE = 0x10000;

interface Step {
	readonly guest: number;
	readonly header: number;
	readonly trans: number;
	readonly length: number;
	readonly second: boolean;
	readonly buffer: number;
	readonly packet: number;
}

const place = (align: number) => fc.integer({ min: 0, max: AREA_SIZE / align - 1 }).map((n) => AREA + n * align);
/** Packets have to be sound most of the time, or no batch of RECEIVE_UPDATE_DATA gets far. */
const lengthsOf = (name: Name) =>
	name === 'RECEIVE_UPDATE_DATA'
		? fc.oneof({ weight: 40, arbitrary: fc.constantFrom(16, 1024) }, { weight: 1, arbitrary: fc.constant(24) })
		: fc.constantFrom(16, 16, 16, 64, 64, 4096, 4096, 0, 24);
const stepOf = (name: Name) =>
	fc.record({
		guest: place(16),
		header: place(4),
		trans: place(4),
		length: lengthsOf(name),
		second: fc.boolean(),
		buffer: fc.oneof({ weight: 3, arbitrary: fc.constant(-1) }, { weight: 1, arbitrary: place(4) }),
		packet: fc.integer({ min: 0, max: 60 }),
	});

/** A machine with two guests, handles 1 and 2, in the state that a command wants. */
function machineFor(name: Name): Rig {
	const rig = initialised({ dramBytes: 0x400000 });
	guestIn(rig, STATES[name]);
	guestIn(rig, STATES[name], 0, ASID + 1);
	return rig;
}

/** Lays out memory for the steps, always the same, and returns where the command buffers are. */
function prepare(rig: Rig, name: Name, steps: readonly Step[]): Spa[] {
	const { dram } = rig.machine;
	rig.random.reseed('a run');
	if (name === 'LAUNCH_UPDATE_DATA') relaunch(rig);
	for (let i = 0; i < AREA_SIZE; i++) dram[AREA + i] = i % 241;
	const spas: Spa[] = [];
	for (const [i, s] of steps.entries()) {
		const handle = s.second ? 2 : 1;
		if (name === 'RECEIVE_UPDATE_DATA' && s.length > 0 && s.packet > 0) plant(rig, handle, s, i);
		const at = s.buffer >= 0 ? s.buffer : 0x320000 + 64 * i;
		const [guestPaddr, hdrPaddr, transPaddr] = [BigInt(s.guest), BigInt(s.header), BigInt(s.trans)];
		const lengths = { hdrLen: 52, guestLen: s.length, transLen: s.length };
		dram.set(
			name === 'LAUNCH_UPDATE_DATA'
				? COMMANDS[name].buffer.encode({ handle, paddr: guestPaddr, length: s.length })
				: COMMANDS[name].buffer.encode({ handle, guestPaddr, hdrPaddr, transPaddr, ...lengths }),
			at,
		);
		spas.push(spa(at));
	}
	return spas;
}

/** Fresh guests, so that both digests start anew. */
function relaunch(rig: Rig): void {
	for (const handle of [1, 2]) {
		rig.must('DEACTIVATE', { handle });
		rig.must('DECOMMISSION', { handle });
	}
	for (const handle of [1, 2]) {
		rig.must('LAUNCH_START');
		rig.must('ACTIVATE', { handle, asid: ASID + handle });
	}
}

/** Puts a good packet where the step will look for one; a later step may spoil it. */
function plant(rig: Rig, handle: number, { header, trans, length }: Step, i: number): void {
	const guest = rig.platform.guests.get(handle);
	if (guest === undefined) throw new Error('guest');
	const packet = sealPacket(provider, guest.channel, {
		context: PacketContext.data,
		iv: new Uint8Array(16).fill(i),
		plaintext: new Uint8Array(length).fill(i + 1),
	});
	rig.machine.dram.set(packet.payload, trans);
	rig.machine.dram.set(packet.header, header);
}

describe.each(['SEND_UPDATE_DATA', 'RECEIVE_UPDATE_DATA', 'LAUNCH_UPDATE_DATA'] as const)('a batch of %s', (name) => {
	const one = machineFor(name);
	const all = machineFor(name);
	const { id } = COMMANDS[name];

	it.prop([fc.array(stepOf(name), { minLength: 1, maxLength: 12 })], { numRuns: 200 })(
		'gives what the same commands give one by one, even where they overwrite each other',
		(steps) => {
			const spas = prepare(one, name, steps);
			prepare(all, name, steps);
			const expected: number[] = [];
			for (const at of spas) {
				expected.push(one.machine.psp.submit(id, at));
				if (expected.at(-1) !== 0) break;
			}
			const statuses = new Uint16Array(steps.length);
			const ran = all.machine.psp.submitBatch(id, spas, statuses);
			expect([...statuses.subarray(0, ran)]).toEqual(expected);
			expect(memoryOf(all)).toEqual(memoryOf(one));
			if (name === 'LAUNCH_UPDATE_DATA') expect(measure(all)).toEqual(measure(one));
		},
	);

	it('of 100 pages gives what 100 commands give', () => {
		const steps = Array.from({ length: 100 }, (_, i): Step => {
			const at = 0x200000 + i * 0x2000;
			return {
				guest: at,
				header: at + 0x1000,
				trans: 0x300000 + i * 0x2000,
				length: 4096,
				second: false,
				buffer: 0x2000 + 64 * i,
				packet: 1,
			};
		});
		const spas = prepare(one, name, steps);
		prepare(all, name, steps);
		for (const at of spas) expect(one.machine.psp.submit(id, at)).toBe(0);
		const statuses = new Uint16Array(100).fill(0xffff);
		expect(all.machine.psp.submitBatch(id, spas, statuses)).toBe(100);
		expect(statuses).toEqual(new Uint16Array(100));
		expect(all.snapshot()).toEqual(one.snapshot());
	});
});

/** The memory that the steps can reach; the whole machine is compared where the steps are fixed. */
const memoryOf = (rig: Rig) => Buffer.from(rig.at(AREA, 0x40000)).toString('base64');

const measure = (rig: Rig) => {
	rig.must('LAUNCH_MEASURE', { handle: 1, paddr: 0x3f0000n, length: 48 });
	return rig.at(0x3f0000, 48);
};

describe('a batch', () => {
	it('of any other command stops at the first that fails', () => {
		const { psp, dram } = initialised().machine;
		const { id, buffer } = COMMANDS.GET_ID;
		for (const [i, idLen] of [64, 64, 0, 64].entries())
			dram.set(buffer.encode({ idPaddr: 0x300000n, idLen }), 0x200000 + 16 * i);
		const statuses = new Uint16Array(4).fill(0xffff);
		expect(
			psp.submitBatch(
				id,
				[0, 16, 32, 48].map((at) => spa(0x200000 + at)),
				statuses,
			),
		).toBe(3);
		expect([...statuses]).toEqual([0, 0, 4, 0xffff]);
	});
	it('of an unknown command fails at once, and an empty one does nothing', () => {
		const { psp } = initialised().machine;
		const statuses = new Uint16Array(2);
		expect(psp.submitBatch(0x99, [spa(0), spa(0)], statuses)).toBe(1);
		expect(statuses[0]).toBe(0x11);
		expect(psp.submitBatch(0x99, [], statuses)).toBe(0);
		expect(psp.submitBatch(COMMANDS.SEND_UPDATE_DATA.id, [], statuses)).toBe(0);
	});
	it('needs room for all statuses', () => {
		expect(() => initialised().machine.psp.submitBatch(0x0e, [spa(0), spa(0)], new Uint16Array(1))).toThrow(RangeError);
	});
});
