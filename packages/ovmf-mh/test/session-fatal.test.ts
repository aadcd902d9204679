import { describe, expect, it } from 'vitest';
import { HelperGeometry } from '../src/geometry.js';
import { HelperPhase, HelperStatus, statusName } from '../src/mailbox/abi.js';
import { createHelperCore } from '../src/session/core.js';
import type { HelperMemory } from '../src/session/ports.js';
import { SECRETS } from '../src/session/state.js';
import { messageHeader } from '../src/session/wire.js';
import { freshRandom, handshake, move, Side, type SideOptions, type WireRecord } from './session-rig.js';

const BASE = 0x1000000;
const STREAM_1 = BASE + 128 * 4096;
const S = HelperStatus;
const session = (options: SideOptions = {}, label = 'x') => {
	const s = new Side('idle', { random: freshRandom(`s ${label}`), ...options });
	const t = new Side('empty', { random: freshRandom(`t ${label}`), ...options });
	for (let i = 0; i < 256; i++) s.fill(BASE + i * 4096, i % 4);
	handshake(s, t, 2);
	return { s, t };
};
const patched = (record: WireRecord, at: number, ...values: number[]): WireRecord => {
	const header = record.header.slice();
	header.set(values, at);
	return { ...record, header };
};

/** The session is over: nothing of the guest changed, no key is left, and the source can have its guest back. */
function expectAborted(t: Side, before: Side): void {
	expect(t.phase).toBe('aborted');
	expect(t.stateBytes.subarray(SECRETS.offset).every((b) => b === 0)).toBe(true);
	const changed = t.memory.differences(before.memory).map((frame) => frame * 4096);
	const isState = (gpa: number) => gpa >= HelperGeometry.state && gpa < HelperGeometry.stacks;
	expect(changed.filter((gpa) => !isState(gpa))).toEqual([]);
	expect(t.gate).toBe(1);
	expect(t.must('abort').length).toBe(messageHeader.size);
}

/** The target ends its session with this status. */
function fatal(t: Side, status: number, work: () => number): void {
	const before = t.clone();
	expect(statusName(work())).toBe(statusName(status));
	expectAborted(t, before);
}

/** What comes last, after something was done first. */
const after = <T>(_: unknown, value: T): T => value;

describe('a record that is not the next one ends the session', () => {
	const { s, t } = session();
	const first = s.seal([BASE, BASE + 4096, BASE + 8192]).record;
	const second = s.seal([BASE + 0x3000]).record;
	const other = s.seal([STREAM_1], 1).record;
	const foreign = session({}, 'y').s.seal([BASE, BASE + 4096, BASE + 8192]).record;
	s.must('epoch');
	const late = s.seal([BASE + 0x4000]).record;
	const two = { ...first, gpas: first.gpas.slice(0, 2) };
	const longer = { ...first, gpas: [...first.gpas, BASE + 0x3000] };

	it.each<[string, WireRecord, number]>([
		['an older one is missing', second, S.order],
		['of a later epoch', late, S.order],
		['of another session', foreign, S.authentication],
		['of another stream', { ...other, stream: 0 }, S.stream],
		['given to another stream', { ...first, stream: 1 }, S.stream],
		['given to a stream not in use', { ...first, stream: 5 }, S.stream],
		['for other pages', { ...first, gpas: [BASE, BASE + 8192, BASE + 4096] }, S.list],
		['for fewer pages', two, S.length],
		['for more pages', longer, S.length],
		['for no pages', { ...first, gpas: [] }, S.length],
		['with a body missing', { ...first, bodies: first.bodies.subarray(0, 4096) }, S.length],
		['with a shorter header', { ...first, header: first.header.subarray(0, 95) }, S.length],
		['with a longer header', { ...first, header: Uint8Array.from([...first.header, 0]) }, S.length],
		['with another magic', patched(first, 0, 0), S.length],
		['of another version', patched(first, 4, 9), S.peer],
		['of another type', patched(first, 6, 1), S.length],
		['with a reserved byte', patched(first, 7, 1), S.length],
		['with another count', patched(first, 0x22, 2), S.length],
		['with a reserved word', patched(first, 0x27, 1), S.length],
		['with another IV counter', patched(first, 0x28, 7), S.authentication],
		['with a huge IV counter', patched(first, 0x2f, 0x80), S.order],
		['with a zero map beyond its list', patched(first, 0x47, 0x80), S.length],
		['with another zero map', patched(first, 0x40, 2), S.authentication],
		['with another tag', patched(first, 0x3f, first.header[0x3f] === 0 ? 1 : 0), S.authentication],
		['with other bytes', { ...first, bodies: first.bodies.map((b, i) => (i === 5000 ? b ^ 1 : b)) }, S.authentication],
		[
			'with bodies exchanged',
			{ ...first, bodies: Uint8Array.from([...first.bodies.subarray(4096), ...first.bodies.subarray(0, 4096)]) },
			S.authentication,
		],
	])('%s', (_, record, status) => {
		const target = t.clone();
		fatal(target, status, () => target.open(record).status);
	});

	it('of an epoch that was not told, though it is the next of its stream', () => {
		const target = t.clone();
		for (const record of [first, second]) expect(target.open(record).status).toBe(S.success);
		fatal(target, S.order, () => target.open(late).status);
	});

	it('and comes only once', () => {
		const target = t.clone();
		expect(target.open(first).status).toBe(S.success);
		fatal(target, S.order, () => target.open(first).status);
	});

	it.each<[string, number, number]>([
		['the helper itself', HelperGeometry.state, S.address],
		['an unaligned address', BASE + 1, S.address],
		['what is no RAM', 0x7ffff000, S.address],
		['bit 47', 2 ** 47 + BASE, S.address],
	])('that names %s, though it were authentic', (_, gpa, status) => {
		const target = t.clone();
		const list = new Uint8Array(BigUint64Array.of(BigInt(gpa)).buffer);
		fatal(
			target,
			status,
			() => target.open({ ...patched(patched(second, 0x48, ...list), 0x1c, 0), gpas: [gpa] }).status,
		);
	});

	it('that brings a second version of a page in one epoch', () => {
		// A source that lost its map, as if it were older and broken.
		const { s: broken, t: target } = session();
		expect(target.open(broken.seal([BASE]).record).status).toBe(S.success);
		broken.memory.write(HelperGeometry.epochMap, new Uint8Array(1024));
		const { record } = broken.seal([BASE]);
		fatal(target, S.duplicate, () => target.open(record).status);
	});

	it('but not before or after its phase', () => {
		const target = t.clone();
		target.must('abort');
		expect(target.open(first).status).toBe(S.phase);
		expect(s.open(first).status).toBe(S.phase);
	});

	it('and one helper ends it for all', () => {
		const target = t.clone();
		expect(target.open({ ...other, header: other.header.map((b, i) => (i === 0x30 ? b ^ 1 : b)) }).status).toBe(
			S.authentication,
		);
		expect(target.open(first).status).toBe(S.phase);
	});
});

describe('helpers side by side', () => {
	it('that fail at the same time leave the one ABORT that counts', () => {
		const { s, t } = session();
		const wanted = t.clone().must('abort');
		const bad = (stream: number, gpa: number): WireRecord => {
			const { record } = s.seal([gpa], stream);
			return { ...record, bodies: record.bodies.map((b) => b ^ 1) };
		};
		const [first, second] = [bad(0, BASE + 8192), bad(1, STREAM_1 + 8192)];
		// The second helper comes in the middle of the first one's work: after each of its reads once.
		for (let when = 0; when < 8; when++) {
			const target = t.clone();
			let reads = 0;
			const memory: HelperMemory = {
				ram: target.memory.ram,
				read: (gpa, out) => {
					target.memory.read(gpa, out);
					if (reads++ === when) target.open(second);
				},
				write: (gpa, data) => target.memory.write(gpa, data),
				exchange: (gpa, value) => target.memory.exchange(gpa, value),
			};
			const other = createHelperCore({ ...target.platform, memory });
			const { status } = other.open(0, Float64Array.of(BASE + 8192), 1, first.header.slice(), first.bodies);
			expect([S.authentication, S.phase]).toContain(status);
			expect(target.phase).toBe('aborted');
			expect(target.must('abort')).toEqual(wanted);
		}
	});
});

describe('an EPOCH that does not fit ends the session', () => {
	it.each<[string, number, (r: ReturnType<typeof session>) => Uint8Array]>([
		['with a record on its way', S.order, ({ s }) => after(s.seal([BASE]), s.must('epoch'))],
		['with one on its way in the other stream', S.order, ({ s }) => after(s.seal([STREAM_1], 1), s.must('epoch'))],
		['of another session', S.authentication, () => session({}, 'z').s.must('epoch')],
		['one too far', S.order, ({ s }) => after(s.must('epoch'), s.must('epoch'))],
		[
			'that came before',
			S.order,
			({ s, t }) => {
				const epoch = s.must('epoch');
				t.must('nextEpoch', epoch);
				return epoch;
			},
		],
		['with a bit turned', S.authentication, ({ s }) => s.must('epoch').map((b, i) => (i === 100 ? b ^ 1 : b))],
		['cut', S.length, ({ s }) => s.must('epoch').subarray(0, 95)],
		['longer', S.length, ({ s }) => Uint8Array.from([...s.must('epoch'), 0])],
		[
			'that is a MANIFEST',
			S.length,
			({ s }) => {
				s.must('freeze');
				s.must('digest');
				s.must('digest', undefined, 0, 1);
				return s.must('manifest');
			},
		],
		['that is nothing', S.length, () => new Uint8Array()],
	])('%s', (_, status, make) => {
		const both = session();
		const message = make(both);
		fatal(both.t, status, () => both.t.command('nextEpoch', message).status);
	});
});

describe('a MANIFEST that the target does not meet ends the session', () => {
	const manifestOf = (s: Side): Uint8Array => {
		s.must('freeze');
		for (const stream of [0, 1]) s.must('digest', undefined, 0, stream);
		return s.must('manifest');
	};
	const verify = (t: Side, manifest: Uint8Array): number => {
		t.must('verify', manifest);
		for (const stream of [0, 1]) t.must('digest', undefined, 0, stream);
		return t.command('verify').status;
	};
	const all = Array.from({ length: 256 }, (_, i) => BASE + i * 4096);

	it('and READY if it does, whatever it shares', () => {
		const { s, t } = session();
		for (const gpa of [BASE, BASE + 4096, STREAM_1]) s.share(gpa, true);
		move(
			s,
			t,
			all.filter((gpa) => ![BASE, BASE + 4096, STREAM_1].includes(gpa)),
			2,
		);
		t.share(BASE + 8192, true);
		expect(verify(t, manifestOf(s))).toBe(S.success);
		const map = new Uint8Array(1024);
		const own = map.slice();
		s.memory.read(HelperGeometry.sharedMap, map);
		t.memory.read(HelperGeometry.sharedMap, own);
		expect(own).toEqual(map);
	});

	it.each<[string, (r: ReturnType<typeof session>) => void]>([
		['a page never came', ({ s, t }) => move(s, t, all.slice(4, 200), 2)],
		[
			'a page is an older one',
			({ s, t }) => {
				move(s, t, all, 2);
				s.fill(BASE, 0xee);
			},
		],
		[
			'the target has what the source has not',
			({ s, t }) => {
				move(s, t, all, 2);
				t.fill(0x1f00000, 1);
			},
		],
		[
			'one page has the content of another',
			({ s, t }) => {
				move(s, t, all, 2);
				t.fill(all[1] ?? 0, 2);
				t.fill(all[2] ?? 0, 1);
			},
		],
		[
			'a shared page became private',
			({ s, t }) => {
				s.share(BASE + 4096, true);
				move(
					s,
					t,
					all.filter((g) => g !== BASE + 4096),
					2,
				);
				s.share(BASE + 4096, false);
			},
		],
	])('%s', (_, work) => {
		const both = session();
		work(both);
		const manifest = manifestOf(both.s);
		const before = both.t.clone();
		before.must('verify', manifest);
		expect(statusName(verify(both.t, manifest))).toBe('incomplete');
		// Only what the guest shares was taken over; nothing runs.
		expectAborted(both.t, before);
		both.s.must('cancel');
		expect(both.s.phase).toBe('idle');
	});

	it.each<[string, number, (r: ReturnType<typeof session>) => Uint8Array]>([
		['a record is on its way', S.incomplete, ({ s }) => after(s.seal([BASE]), manifestOf(s))],
		['an epoch was not told', S.order, ({ s }) => after(s.must('epoch'), manifestOf(s))],
		['it is of another session', S.authentication, () => manifestOf(session({}, 'w').s)],
		['it is cut', S.length, ({ s }) => manifestOf(s).subarray(1)],
		['a bit is turned', S.authentication, ({ s }) => manifestOf(s).map((b, i) => (i === 300 ? b ^ 4 : b))],
		['it is an EPOCH', S.length, ({ s }) => s.must('epoch')],
		['it is nothing', S.length, () => new Uint8Array()],
	])('%s', (_, status, make) => {
		const both = session();
		const message = make(both);
		fatal(both.t, status, () => both.t.command('verify', message).status);
	});

	it('or another MANIFEST comes', () => {
		const { s, t } = session();
		move(s, t, all, 2);
		const manifest = manifestOf(s);
		t.must('verify', manifest);
		const before = t.clone();
		expect(t.open(s.seal([BASE]).record).status).toBe(S.phase);
		expect(t.command('verify', manifest.subarray(1)).status).toBe(S.order);
		expectAborted(t, before);
	});
});

describe('a vCPU state that does not fit ends the session', () => {
	const saveAreas = [0x1c00000, 0x1c01000];
	const make = () => {
		const { s, t } = session({ saveAreas });
		for (const [i, area] of saveAreas.entries()) s.fill(area, 0x50 + i);
		s.must('freeze');
		return { t, states: [s.must('saveVcpu', undefined, 0), s.must('saveVcpu', undefined, 1)] as const };
	};

	it.each<[string, number, number, (states: readonly [Uint8Array, Uint8Array]) => Uint8Array]>([
		['of another vCPU', S.order, 0, ([, b]) => b],
		['before its turn', S.order, 1, ([, b]) => b],
		['for a vCPU that is not there', S.address, 2, ([a]) => a],
		['with a bit turned', S.authentication, 0, ([a]) => a.map((b, i) => (i === 2000 ? b ^ 1 : b))],
		['with another index', S.length, 0, ([a]) => a.map((b, i) => (i === 0x48 ? 1 : b))],
		['with another IV', S.length, 0, ([a]) => a.map((b, i) => (i === 0x28 ? 1 : b))],
		['cut', S.length, 0, ([a]) => a.subarray(1)],
	])('%s', (_, status, vcpu, choose) => {
		const { t, states } = make();
		fatal(t, status, () => t.command('restoreVcpu', choose(states), vcpu).status);
	});

	it('or comes again', () => {
		const { t, states } = make();
		t.must('restoreVcpu', states[0], 0);
		fatal(t, S.order, () => t.command('restoreVcpu', states[0], 0).status);
	});

	it('or is missing', () => {
		const { s, t } = session({ saveAreas });
		s.must('freeze');
		t.must('restoreVcpu', s.must('saveVcpu', undefined, 0), 0);
		s.must('saveVcpu', undefined, 1);
		for (const stream of [0, 1]) s.must('digest', undefined, 0, stream);
		const manifest = s.must('manifest');
		fatal(t, S.incomplete, () => t.command('verify', manifest).status);
	});
});

it('a failure at the target never changes what phase the source is in', () => {
	const { s, t } = session();
	t.command('nextEpoch', new Uint8Array(5));
	expect([t.report.phase, s.report.phase]).toEqual([HelperPhase.aborted, HelperPhase.sending]);
});
