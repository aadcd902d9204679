import { describe, expect, it } from 'vitest';
import { HelperGeometry, helperRanges, MAX_RAM } from '../src/geometry.js';
import { HelperCommand, HelperStatus, statusName } from '../src/mailbox/abi.js';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID } from '../src/session/secret.js';
import { stateLayout } from '../src/session/state.js';
import { acceptMessage, helloMessage, messageHeader } from '../src/session/wire.js';
import {
	freshRandom,
	GUEST_ID,
	GUEST_SECRET,
	handshake,
	prove,
	Side,
	type SideOptions,
	secretTable,
} from './session-rig.js';

const BASE = 0x1000000;
const S = HelperStatus;
const pair = (source: SideOptions = {}, target: SideOptions = source) =>
	[new Side('idle', source), new Side('empty', target)] as const;
const flip = (data: Uint8Array, bit: number): Uint8Array => {
	const out = data.slice();
	out[bit >>> 3] = (out[bit >>> 3] ?? 0) ^ (1 << (bit & 7));
	return out;
};
/** Every bit of short messages, some of long ones. */
const bits = (data: Uint8Array, step = 11) =>
	Array.from({ length: Math.ceil((data.length * 8) / step) }, (_, i) => i * step);

/** The command is refused so, and nothing at all changes. */
function refused(side: Side, status: number, name: keyof typeof HelperCommand, input?: Uint8Array, argument = 0): void {
	const before = side.memory.clone();
	const answer = side.command(name, input, argument);
	expect(`${name}: ${statusName(answer.status)}`).toBe(`${name}: ${statusName(status)}`);
	expect(answer.output.length).toBe(0);
	expect(side.memory.differences(before)).toEqual([]);
}

const withSecret = (secret: Uint8Array, id = GUEST_ID, minVersion = 1): Uint8Array =>
	secretTable([{ guid: MIGRATION_SECRET_GUID, data: encodeMigrationSecret(id, secret, minVersion) }]);
const OTHER = new Uint8Array(32).fill(0x55);

describe('the source refuses to begin', () => {
	it.each([0, 9, -1, 1.5, Number.NaN, 2 ** 32])('with %d streams', (streams) => {
		refused(new Side('idle'), S.length, 'hello', undefined, streams);
	});

	it.each<[string, Uint8Array]>([
		['nothing', new Uint8Array(64)],
		['a table without it', secretTable([{ guid: '11111111-1111-1111-1111-111111111111', data: OTHER }])],
		[
			'it twice',
			secretTable(
				[...Array(2)].map(() => ({ guid: MIGRATION_SECRET_GUID, data: encodeMigrationSecret(GUEST_ID, OTHER) })),
			),
		],
		['it too short', secretTable([{ guid: MIGRATION_SECRET_GUID, data: new Uint8Array(55).fill(1) }])],
		['another format', secretTable([{ guid: MIGRATION_SECRET_GUID, data: new Uint8Array(56).fill(2) }])],
		['zeros for a secret', withSecret(new Uint8Array(32))],
		['a length beyond the area', withSecret(OTHER).map((b, i) => (i === 17 ? 0xff : b))],
	])('with %s in the secret area', (_, secretArea) => {
		refused(new Side('idle', { secretArea }), S.secret, 'hello', undefined, 1);
		const t = new Side('empty', { secretArea });
		refused(t, S.secret, 'accept', new Side('idle').must('hello', undefined, 1));
	});

	it('if the owner allows none of its versions', () => {
		refused(new Side('idle', { minVersion: 2 }), S.peer, 'hello', undefined, 1);
	});

	it('if the generator gives no key', () => {
		const random = { fill: (out: Uint8Array) => out.fill(0), bytes: (length: number) => new Uint8Array(length) };
		refused(new Side('idle', { random }), S.limit, 'hello', undefined, 1);
		refused(new Side('empty', { random }), S.limit, 'accept', new Side('idle').must('hello', undefined, 1));
	});

	it('with RAM that the maps do not cover', () => {
		refused(new Side('idle', { ram: [{ start: 0, end: MAX_RAM + 4096 }] }), S.limit, 'hello', undefined, 1);
	});

	it('twice', () => {
		const s = new Side('idle');
		s.must('hello', undefined, 1);
		refused(s, S.phase, 'hello', undefined, 1);
	});
});

describe('the target refuses a HELLO', () => {
	it('with any bit turned, cut or longer', () => {
		const [s, t] = pair();
		const hello = s.must('hello', undefined, 2);
		for (const bit of bits(hello, 37)) {
			const { status } = t.command('accept', flip(hello, bit));
			expect([S.length, S.peer, S.authentication]).toContain(status);
		}
		expect(t.phase).toBe('empty');
		for (const length of [1, 64, hello.length - 1]) refused(t, S.length, 'accept', hello.subarray(0, length));
		refused(t, S.length, 'accept', Uint8Array.from([...hello, 0]));
		refused(t, S.length, 'accept', new Uint8Array());
		refused(t, S.length, 'accept', new Uint8Array(60_001));
		t.must('accept', hello);
	});

	it('of a lower version than was offered', () => {
		const [s, t] = pair({ versions: { min: 1, max: 3 } });
		const hello = s.must('hello', undefined, 1);
		const lower = hello.slice();
		helloMessage.patch(lower, { versionMax: 1 });
		refused(t, S.authentication, 'accept', lower);
	});

	it.each<[string, SideOptions, SideOptions, number]>([
		[
			'of another guest',
			{},
			{
				secretArea: withSecret(
					GUEST_SECRET,
					GUEST_ID.map((b) => b ^ 1),
				),
			},
			S.peer,
		],
		['under another secret', {}, { secretArea: withSecret(OTHER) }, S.authentication],
		['of other RAM', {}, { ram: [{ start: 0, end: 48 * 2 ** 20 }] }, S.peer],
		['with other vCPUs', { saveAreas: [BASE] }, { saveAreas: [BASE, BASE + 4096] }, S.peer],
		['with vCPU states that it cannot take', { saveAreas: [BASE] }, { saveAreas: [BASE], capabilities: 1 }, S.peer],
		['without a common version', { versions: { min: 2, max: 3 } }, { versions: { min: 1, max: 1 } }, S.peer],
		['of a version that its owner forbids', {}, { versions: { min: 1, max: 3 }, minVersion: 2 }, S.peer],
	])('%s', (_, source, target, status) => {
		const [s, t] = pair(source, target);
		refused(t, status, 'accept', s.must('hello', undefined, 1));
	});

	it('and answers no other message, and none twice', () => {
		const [s, t] = pair();
		const hello = s.must('hello', undefined, 1);
		const answer = t.must('accept', hello);
		refused(t, S.phase, 'accept', hello);
		refused(s, S.phase, 'accept', hello);
		refused(new Side('empty'), S.length, 'accept', answer);
		refused(
			new Side('empty'),
			S.length,
			'accept',
			Uint8Array.from({ length: 240 }, (_, i) => answer[i] ?? 0),
		);
		refused(s, S.length, 'confirm', hello);
	});
});

describe('versions', () => {
	it('the highest common one is in force', () => {
		const [s, t] = pair({ versions: { min: 1, max: 3 } }, { versions: { min: 1, max: 2 } });
		handshake(s, t);
		for (const side of [s, t]) expect(stateLayout.decode(side.stateBytes).version).toBe(2);
	});
});

describe('the source refuses an ACCEPT', () => {
	it('with any bit turned, or for another HELLO', () => {
		const [s, t] = pair();
		const accept = t.must('accept', s.must('hello', undefined, 1));
		for (const bit of bits(accept, 37)) {
			const { status } = s.command('confirm', flip(accept, bit));
			expect([S.length, S.peer, S.authentication]).toContain(status);
		}
		refused(s, S.length, 'confirm', accept.subarray(1));
		const lower = accept.slice();
		acceptMessage.patch(lower, { version: 0 });
		refused(s, S.authentication, 'confirm', lower);
		s.must('cancel');
		s.must('hello', undefined, 1);
		refused(s, S.authentication, 'confirm', accept);
		expect(s.phase).toBe('offered');
	});

	it('and the target a CONFIRM', () => {
		const [s, t] = pair();
		const hello = s.must('hello', undefined, 1);
		const confirm = s.must('confirm', t.must('accept', hello));
		for (const bit of bits(confirm, 5)) expect(t.command('establish', flip(confirm, bit)).status).not.toBe(S.success);
		refused(t, S.length, 'establish', confirm.subarray(0, 63));
		// A HELLO that somebody recorded starts a session that nobody can confirm.
		const other = new Side('empty', { random: freshRandom('replayed to') });
		other.must('accept', hello);
		refused(other, S.authentication, 'establish', confirm);
		t.must('establish', confirm);
		refused(t, S.phase, 'establish', confirm);
	});
});

describe('the source refuses to seal', () => {
	const END = 32 * 2 ** 20;
	const [s, t] = pair({ ram: [{ start: 0, end: END - 2048 }] });
	handshake(s, t, 2);
	s.share(BASE, true);

	const own = helperRanges().flatMap(({ start, end }) => [start, end - 4096]);
	it.each<[string, number[], number, number, number]>([
		['nothing', [], 0, S.length, 0],
		['65 pages', Array.from({ length: 65 }, (_, i) => BASE + 4096 * (i + 1)), 0, S.length, 0],
		['an unaligned address', [BASE + 4096, BASE + 8193], 0, S.address, 1],
		['half a byte', [BASE + 0.5], 0, S.address, 0],
		['no number', [Number.NaN], 0, S.address, 0],
		['what lies below', [-4096], 0, S.address, 0],
		['what lies above', [END], 0, S.address, 0],
		['a page that RAM ends in', [END - 4096], 1, S.address, 0],
		['bit 47', [2 ** 47 + BASE], 0, S.address, 0],
		['2^53', [2 ** 53], 0, S.address, 0],
		['an infinity', [Number.POSITIVE_INFINITY], 0, S.address, 0],
		['what the guest shares', [BASE + 4096, BASE], 0, S.shared, 1],
		['a frame of the other stream', [BASE + 128 * 4096], 0, S.stream, 0],
		['a page twice', [BASE + 4096, BASE + 8192, BASE + 4096], 0, S.list, 2],
		['for a stream not in use', [BASE + 4096], 2, S.stream, 0],
		['for a stream that never is', [BASE + 4096], 8, S.stream, 0],
		['for half a stream', [BASE + 4096], 0.5, S.stream, 0],
		...own.map((gpa): [string, number[], number, number, number] => [
			`the helper's own page 0x${gpa.toString(16)}`,
			[gpa],
			Math.floor(gpa / 4096 / 128) % 2,
			S.address,
			0,
		]),
	])('%s', (_, gpas, stream, status, detail) => {
		const before = s.memory.clone();
		const result = s.seal(gpas, stream);
		expect([statusName(result.status), result.detail]).toEqual([statusName(status), detail]);
		expect([result.record.header.length, result.record.bodies.length]).toEqual([0, 0]);
		expect(s.memory.differences(before)).toEqual([]);
	});

	it('a page again in one epoch', () => {
		expect(s.seal([BASE + 4096]).status).toBe(S.success);
		expect(s.seal([BASE + 8192, BASE + 4096])).toMatchObject({ status: S.duplicate, detail: 1 });
		s.must('epoch');
		expect(s.seal([BASE + 8192, BASE + 4096]).status).toBe(S.success);
	});

	it('outside its phases', () => {
		for (const side of [new Side('idle'), new Side('empty'), t]) expect(side.seal([BASE]).status).toBe(S.phase);
	});
});

describe('commands', () => {
	it('of no number, of another helper, with input that is not theirs', () => {
		const s = new Side('idle');
		const nothing = new Uint8Array();
		for (const nr of [1, 2, 4, 0xf, 0x23, -1, 2 ** 32, Number.NaN]) {
			expect(s.core.control(nr, nothing, 0).status).toBe(S.invalidFunction);
		}
		for (const stream of [1, 8, -1, 0.5]) {
			expect(s.core.control(HelperCommand.hello, nothing, 1, stream).status).toBe(S.stream);
		}
		refused(s, S.length, 'hello', Uint8Array.of(0), 1);
		refused(s, S.length, 'reset', Uint8Array.of(0));
		expect(s.core.control(HelperCommand.query, nothing, 0, 5).status).toBe(S.success);
	});

	it('digest wants a stream in use, the manifest all digests', () => {
		const [s, t] = pair();
		handshake(s, t, 2);
		s.must('freeze');
		refused(s, S.incomplete, 'manifest');
		expect(s.command('digest', undefined, 0, 2).status).toBe(S.stream);
		s.must('digest');
		refused(s, S.incomplete, 'manifest');
		s.must('digest', undefined, 0, 1);
		const manifest = s.must('manifest');
		t.must('verify', manifest);
		refused(t, S.phase, 'verify');
		refused(t, S.phase, 'verify', manifest);
		expect(t.phase).toBe('proving');
	});

	it('the manifest has room for 2048 runs of shared pages', () => {
		const [s, t] = pair();
		const share = (runs: number) => {
			const map = new Uint8Array(1024);
			for (let i = 0; i < runs; i++) map[(2 * i) >>> 3] = (map[(2 * i) >>> 3] ?? 0) | (1 << ((2 * i) & 7));
			s.memory.write(HelperGeometry.sharedMap, map);
		};
		handshake(s, t);
		s.must('freeze');
		s.must('digest');
		share(2049);
		refused(s, S.limit, 'manifest');
		share(2048);
		expect(s.must('manifest').length).toBe(messageHeader.size + 336 + 2048 * 8);
	});
});

describe('the hand-over', () => {
	const verified = (label: string) => {
		const [s, t] = [
			new Side('idle', { random: freshRandom(`s ${label}`) }),
			new Side('empty', { random: freshRandom(`t ${label}`) }),
		];
		handshake(s, t);
		s.must('freeze');
		const ready = prove(s, t);
		return { s, t, ready };
	};

	it('takes only the READY of this session, and gives the same START again', () => {
		const { s, ready } = verified('one');
		const { ready: foreign } = verified('two');
		refused(s, S.authentication, 'start', foreign);
		refused(s, S.length, 'start');
		for (const bit of bits(ready, 13)) expect(s.command('start', flip(ready, bit)).status).not.toBe(S.success);
		expect(s.phase).toBe('proven');
		const start = s.must('start', ready);
		expect(s.must('start', ready)).toEqual(start);
		expect(s.must('start')).toEqual(start);
		refused(s, S.authentication, 'start', flip(ready, 700));
		for (const name of ['cancel', 'reset', 'freeze', 'epoch', 'manifest', 'digest'] as const) refused(s, S.phase, name);
		expect(s.seal([BASE]).status).toBe(S.phase);
	});

	it('refuses START before READY, RUNNING before START, and what is reflected', () => {
		const { s, t, ready } = verified('one');
		refused(t, S.length, 'run', ready);
		refused(s, S.phase, 'retire', ready);
		const start = s.must('start', ready);
		refused(s, S.length, 'retire', start);
		refused(s, S.length, 'revive', start);
		refused(s, S.length, 'retire');
		const early = verified('three');
		refused(early.t, S.authentication, 'run', start);
		for (const bit of bits(start, 13)) expect(t.command('run', flip(start, bit)).status).not.toBe(S.success);
		expect(t.phase).toBe('verified');
		const running = t.must('run', start);
		expect(t.must('run', start)).toEqual(running);
		refused(t, S.phase, 'run', flip(start, 3));
		refused(t, S.phase, 'abort');
		refused(s, S.length, 'revive', running);
		for (const bit of bits(running, 13)) expect(s.command('retire', flip(running, bit)).status).not.toBe(S.success);
		expect(s.phase).toBe('committed');
		s.must('retire', running);
		for (const name of Object.keys(HelperCommand) as (keyof typeof HelperCommand)[]) {
			if (['init', 'query', 'save', 'restore', 'retire'].includes(name)) continue;
			refused(s, S.phase, name, start);
		}
	});

	it('comes back only with the ABORT of this session', () => {
		const { s, t, ready } = verified('one');
		const other = verified('two');
		const start = s.must('start', ready);
		refused(s, S.authentication, 'revive', other.t.must('abort'));
		const abort = t.must('abort');
		expect(t.must('abort')).toEqual(abort);
		expect(t.must('reset')).toEqual(abort);
		refused(t, S.phase, 'run', start);
		for (const bit of bits(abort, 13)) expect(s.command('revive', flip(abort, bit)).status).not.toBe(S.success);
		expect([s.phase, s.gate]).toEqual(['committed', 1]);
		s.must('revive', abort);
		expect([s.phase, s.gate]).toEqual(['idle', 0]);
		refused(s, S.phase, 'revive', abort);
		handshake(s, t);
		s.must('freeze');
		const again = prove(s, t);
		refused(s, S.authentication, 'start', ready);
		s.must('start', again);
		refused(s, S.authentication, 'revive', abort);
		refused(t, S.authentication, 'run', start);
	});

	it('the START of a session that was aborted starts nothing later', () => {
		const { s, t, ready } = verified('one');
		const start = s.must('start', ready);
		s.must('revive', t.must('abort'));
		refused(t, S.phase, 'run', start);
		t.must('accept', s.must('hello', undefined, 1));
		refused(t, S.phase, 'run', start);
	});

	it('reset does what the phase allows', () => {
		expect(new Side('idle').must('reset').length).toBe(0);
		expect(new Side('empty').must('reset').length).toBe(0);
		expect(new Side('empty').must('abort').length).toBe(0);
		const [s, t] = pair();
		handshake(s, t);
		s.must('freeze');
		expect(s.must('reset').length).toBe(0);
		expect([s.phase, s.gate]).toEqual(['idle', 0]);
		expect(t.must('reset').length).toBe(messageHeader.size);
		expect([t.phase, t.gate]).toEqual(['aborted', 1]);
	});
});
