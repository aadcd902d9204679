import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { HelperCommand, HelperStatus } from '../src/mailbox/abi.js';
import { commandName, nextPhase, phaseName, SESSION_TABLE } from '../src/session/transitions.js';
import { handshake, Side, type WireRecord } from './session-rig.js';

const BASE = 0x1000000;
const ram = [{ start: 0, end: 0x1200000 }];
const PHASE_COMMANDS = Object.values(HelperCommand);
/** A state may change under these only as the table says that a fatal refusal does. */
const HARMLESS: readonly number[] = [HelperStatus.phase, HelperStatus.busy, HelperStatus.invalidFunction];

/** A side in each phase, and every message and record on the way there, of two sessions. */
function worlds() {
	const sides: Side[] = [];
	const messages: Uint8Array[] = [new Uint8Array()];
	const records: WireRecord[] = [];
	for (const label of ['one', 'two']) {
		const [s, t] = [new Side('idle', { ram }), new Side('empty', { ram })];
		for (const side of [s, t]) side.must('reset');
		const keep = (message: Uint8Array): Uint8Array => {
			messages.push(message);
			sides.push(s.clone(), t.clone());
			return message;
		};
		sides.push(s.clone(), t.clone());
		if (label === 'two') {
			// Other draws of the generators, so that the second session is another one.
			s.must('hello', undefined, 1);
			s.must('cancel');
		}
		const accept = keep(t.must('accept', keep(s.must('hello', undefined, 2))));
		t.must('establish', keep(s.must('confirm', accept)));
		sides.push(t.clone());
		records.push(s.seal([BASE]).record, s.seal([BASE + 128 * 4096], 1).record);
		for (const record of records.slice(-2)) t.open(record);
		t.must('nextEpoch', keep(s.must('epoch')));
		s.must('freeze');
		for (const stream of [0, 1]) s.must('digest', undefined, 0, stream);
		sides.push(s.clone());
		t.must('verify', keep(s.must('manifest')));
		sides.push(t.clone());
		for (const stream of [0, 1]) t.must('digest', undefined, 0, stream);
		const ready = keep(t.must('verify'));
		const other = t.clone();
		keep(other.must('abort'));
		sides.push(other);
		const running = keep(t.must('run', keep(s.must('start', ready))));
		s.must('retire', running);
		sides.push(s.clone(), t.clone());
	}
	return { sides, messages, records };
}
const { sides, messages, records } = worlds();
const sending = new Side('idle', { ram });
handshake(sending, new Side('empty', { ram }), 2);

const input = fc.oneof(
	{ weight: 1, arbitrary: fc.uint8Array({ maxLength: 700 }) },
	{ weight: 2, arbitrary: fc.constantFrom(...messages) },
	{
		weight: 3,
		arbitrary: fc
			.tuple(fc.constantFrom(...messages), fc.nat(), fc.integer({ min: 1, max: 255 }), fc.integer({ min: -2, max: 2 }))
			.map(([message, at, change, longer]) => {
				const out = new Uint8Array(Math.max(0, message.length + longer));
				out.set(message.subarray(0, out.length));
				if (out.length > 0) out[at % out.length] = (out[at % out.length] ?? 0) ^ change;
				return out;
			}),
	},
);
const hostNumber = fc.oneof(fc.nat({ max: 9 }), fc.constantFrom(-1, 0.5, Number.NaN, 2 ** 31, 2 ** 53));
const isOneOf = (all: readonly Uint8Array[], data: Uint8Array): boolean =>
	all.some((one) => Buffer.compare(one, data) === 0);

describe('whatever a host says', () => {
	test.prop(
		{
			side: fc.constantFrom(...sides),
			command: fc.oneof(fc.constantFrom(...PHASE_COMMANDS), hostNumber),
			input,
			argument: hostNumber,
			stream: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: hostNumber }),
		},
		{ numRuns: 3000 },
	)(
		'a command gives a status, and changes no more than the table says',
		({ side, command, input, argument, stream }) => {
			const work = side.clone();
			const name = commandName(command);
			const from = work.report.phase;
			const result = work.core.control(command, input, argument, stream);
			expect(Object.values(HelperStatus)).toContain(result.status);
			const rule = name === undefined ? undefined : SESSION_TABLE[name];
			if (result.status === HelperStatus.success) {
				expect(name === undefined ? undefined : nextPhase(name, from)).toBe(work.report.phase);
				// Nothing that was made up or changed is ever taken.
				if (rule?.input === 'message') expect(isOneOf(messages, input)).toBe(true);
				return;
			}
			expect([result.output.length, result.more]).toEqual([0, false]);
			const isFatal =
				rule?.fatal === true && !HARMLESS.includes(result.status) && result.status !== HelperStatus.stream;
			if (isFatal) expect(phaseName(work.report.phase)).toBe('aborted');
			else expect(work.memory.differences(side.memory)).toEqual([]);
		},
	);

	test.prop(
		{
			side: fc.constantFrom(...sides),
			record: fc.constantFrom(...records),
			header: fc.oneof(
				fc.constant(undefined),
				fc.uint8Array({ maxLength: 600 }),
				fc.tuple(fc.nat({ max: 79 }), fc.integer({ min: 1, max: 255 })),
			),
			stream: fc.oneof(fc.nat({ max: 2 }), hostNumber),
			count: fc.oneof({ weight: 3, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: hostNumber }),
			gpa: fc.oneof(
				{ weight: 3, arbitrary: fc.constantFrom(BASE, BASE + 128 * 4096) },
				{ weight: 1, arbitrary: fc.double() },
				{ weight: 1, arbitrary: fc.nat().map((n) => n * 4096) },
			),
		},
		{ numRuns: 1500 },
	)('`restore` takes only a record that was sealed, for its page', ({ side, record, header, stream, count, gpa }) => {
		const work = side.clone();
		let given = record.header.slice();
		if (header instanceof Uint8Array) given = header;
		else if (header !== undefined) given[header[0]] = (given[header[0]] ?? 0) ^ header[1];
		const bodies = new Uint8Array(64 * 4096);
		bodies.set(record.bodies);
		const { status } = work.core.open(stream, Float64Array.of(gpa, ...new Array(63).fill(0)), count, given, bodies);
		expect(Object.values(HelperStatus)).toContain(status);
		if (status === HelperStatus.success) {
			expect([stream, count, gpa, header === undefined]).toEqual([record.stream, 1, record.gpas[0], true]);
		} else if (![...HARMLESS, HelperStatus.stream].includes(status)) {
			expect(phaseName(work.report.phase)).toBe('aborted');
		} else if (status !== HelperStatus.stream) expect(work.memory.differences(side.memory)).toEqual([]);
	});

	test.prop(
		{
			gpas: fc.array(
				fc.oneof(
					fc.double(),
					fc.nat({ max: 9000 }).map((n) => n * 4096),
				),
				{ maxLength: 70 },
			),
			stream: hostNumber,
			count: fc.oneof(fc.nat({ max: 70 }), hostNumber),
		},
		{ numRuns: 300 },
	)('`save` seals pages of the guest or changes nothing', ({ gpas, stream, count }) => {
		const s = sending.clone();
		const before = s.memory.clone();
		const out = { header: new Uint8Array(1024), bodies: new Uint8Array(64 * 4096) };
		const { status, bodies } = s.core.seal(stream, Float64Array.from(gpas), count, out);
		expect(Object.values(HelperStatus)).toContain(status);
		if (status !== HelperStatus.success) {
			expect(bodies).toBe(0);
			expect(s.memory.differences(before)).toEqual([]);
		}
	});
});

test('each phase is met', () => {
	const met = new Set(sides.map((side) => side.phase));
	expect(met.size).toBe(13);
});
