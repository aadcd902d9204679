import { describe, expect, it } from 'vitest';
import { HelperGeometry } from '../src/geometry.js';
import { SECRETS, stateLayout } from '../src/session/state.js';
import { GUEST_SECRET, handshake, move, prove, Side } from './session-rig.js';

const BASE = 0x1000000;
const KEYS = ['ephemeral', 'confirmKey', 'pageKey', 'outKey', 'inKey'] as const;

/** The secrets that a side holds now, in halves, so that a part that stays is found too. */
function secretsOf(side: Side): Uint8Array[] {
	const state = stateLayout.decode(side.stateBytes);
	const held = KEYS.map((name) => state[name]).filter((key) => key.some((b) => b !== 0));
	return held.flatMap((key) => [key.slice(0, 16), key.slice(16, 32)]);
}

/** No half of a key is anywhere in the guest's memory, and the place of keys is zeros. */
function expectWiped(side: Side, secrets: readonly Uint8Array[]): void {
	expect(secrets.length).toBeGreaterThan(0);
	for (const secret of secrets) expect(side.memory.find(secret)).toEqual([]);
	expect(side.stateBytes.subarray(SECRETS.offset).every((b) => b === 0)).toBe(true);
}

const open = () => {
	const [s, t] = [new Side('idle'), new Side('empty')];
	s.fill(BASE, 0x6b);
	handshake(s, t);
	return { s, t, ofSource: secretsOf(s), ofTarget: secretsOf(t) };
};

describe('keys are wiped', () => {
	it('the ephemeral one once it was used', () => {
		const [s, t] = [new Side('idle'), new Side('empty')];
		const hello = s.must('hello', undefined, 1);
		const ephemeral = secretsOf(s);
		const accept = t.must('accept', hello);
		const confirmKey = stateLayout.decode(t.stateBytes).confirmKey;
		t.must('establish', s.must('confirm', accept));
		expect(ephemeral.length).toBe(2);
		for (const half of ephemeral) expect(s.memory.find(half)).toEqual([]);
		expect(t.memory.find(confirmKey)).toEqual([]);
		// What is being looked for is there while the session lasts.
		for (const half of secretsOf(s)) expect(s.memory.find(half).length).toBe(1);
	});

	it.each(['cancel', 'reset'] as const)('by %s while offered, sending, frozen and proven', (name) => {
		const offered = new Side('idle');
		offered.must('hello', undefined, 1);
		const secrets = secretsOf(offered);
		offered.must(name);
		expectWiped(offered, secrets);
		for (const stop of ['sending', 'frozen', 'proven']) {
			const { s, ofSource } = open();
			if (stop !== 'sending') s.must('freeze');
			if (stop === 'proven') s.must('digest');
			if (stop === 'proven') s.must('manifest');
			expect(s.phase).toBe(stop);
			s.must(name);
			expectWiped(s, ofSource);
			expect([s.phase, s.gate]).toEqual(['idle', 0]);
		}
	});

	it.each(['abort', 'reset'] as const)('by %s while answered, receiving, proving and verified', (name) => {
		const answered = new Side('empty');
		answered.must('accept', new Side('idle').must('hello', undefined, 1));
		const secrets = secretsOf(answered);
		answered.must(name);
		expectWiped(answered, secrets);
		for (const stop of ['receiving', 'proving', 'verified']) {
			const { s, t, ofTarget } = open();
			if (stop !== 'receiving') {
				s.must('freeze');
				s.must('digest');
				move(s, t, [BASE, 0x80c000]);
				t.must('verify', s.must('manifest'));
			}
			if (stop === 'verified') t.must('digest');
			if (stop === 'verified') t.must('verify');
			expect(t.phase).toBe(stop);
			t.must(name);
			expectWiped(t, ofTarget);
			expect([t.phase, t.gate]).toEqual(['aborted', 1]);
		}
	});

	it('by a failure', () => {
		const { s, t, ofTarget } = open();
		const { record } = s.seal([BASE]);
		record.bodies[0] = (record.bodies[0] ?? 0) ^ 1;
		t.open(record);
		expectWiped(t, ofTarget);
		// Nothing that was opened without proof stayed either.
		expect(t.first(BASE)).toBe(0);
	});

	it('by run, of which only RUNNING stays, and by retire with all private memory', () => {
		const { s, t, ofSource, ofTarget } = open();
		const shared = BASE + 0x10000;
		s.share(shared, true);
		s.fill(shared, 0x11);
		const kernel = Uint8Array.from('the guest keeps this to itself', (c) => c.charCodeAt(0));
		s.memory.write(BASE + 100, kernel);
		move(s, t, [BASE]);
		s.must('freeze');
		const start = s.must('start', prove(s, t));
		expect(s.memory.find(GUEST_SECRET).length).toBe(1);
		const running = t.must('run', start);
		expectWiped(t, ofTarget);
		const state = stateLayout.decode(t.stateBytes);
		expect(state.running).toEqual(running);
		for (const name of ['sessionId', 'expected', 'answers', 'start', 'abort', 'vcpuDigest', 'ready'] as const) {
			expect(state[name].every((b) => b === 0)).toBe(true);
		}
		s.must('retire', running);
		expectWiped(s, ofSource);
		expect([s.memory.find(kernel), s.memory.find(GUEST_SECRET)]).toEqual([[], []]);
		expect(s.first(shared)).toBe(0x11);
		expect(t.memory.find(kernel)).toEqual([BASE + 100]);
		const left = [...s.memory.pages].filter(([, page]) => page.some((b) => b !== 0)).map(([frame]) => frame * 4096);
		expect(
			left.every((gpa) => gpa === shared || (gpa >= HelperGeometry.private && gpa < HelperGeometry.privateEnd)),
		).toBe(true);
	});

	it('at once by retire: the first slice ends the session, the memory may take its time', () => {
		const { s, t, ofSource } = open();
		move(s, t, [BASE, 0x80c000]);
		s.must('freeze');
		const running = t.must('run', s.must('start', prove(s, t)));
		const first = s.core.control(0x1e, running, 0);
		expect(first).toMatchObject({ status: 0, more: true });
		expectWiped(s, ofSource);
		expect([s.phase, s.first(BASE)]).toEqual(['retired', 0x6b]);
		s.must('retire');
		expect(s.first(BASE)).toBe(0);
	});

	it('by revive', () => {
		const { s, t, ofSource } = open();
		move(s, t, [BASE, 0x80c000]);
		s.must('freeze');
		s.must('start', prove(s, t));
		s.must('revive', t.must('abort'));
		expectWiped(s, ofSource);
		expect([s.phase, s.gate, s.first(BASE)]).toEqual(['idle', 0, 0x6b]);
	});
});

it('no key of a session is ever in a message or a record', () => {
	const { s, t, ofSource, ofTarget } = open();
	const out = [s.seal([BASE]).record.bodies, s.must('epoch')];
	s.must('freeze');
	s.must('digest');
	out.push(s.must('manifest'), t.must('abort'), s.must('query'));
	for (const secret of [...ofSource, ...ofTarget, GUEST_SECRET.subarray(0, 16)]) {
		for (const data of out) expect(Buffer.from(data).indexOf(secret)).toBe(-1);
	}
});
