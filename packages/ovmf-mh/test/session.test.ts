import { nobleProvider, seededRandom } from '@cvm/crypto';
import { describe, expect, it } from 'vitest';
import { HelperGeometry, MAX_HELPERS } from '../src/geometry.js';
import { HelperStatus } from '../src/mailbox/abi.js';
import { streamAddress } from '../src/session/state.js';
import { Capability, recordHeader } from '../src/session/wire.js';
import { freshRandom, handOver, handshake, move, prove, Side, type SideOptions } from './session-rig.js';

const BASE = 0x1000000;
const SECRET_PAGE = 0x80c000;
const gpas = (pages: number, from = BASE) => Array.from({ length: pages }, (_, i) => from + i * 4096);
const pair = (options: SideOptions = {}) => [new Side('idle', options), new Side('empty', options)] as const;

/** The whole way, with whatever `work` does between the rounds. */
function migrate(s: Side, t: Side, pages: readonly number[], streams = 1): void {
	handshake(s, t, streams);
	move(s, t, pages, streams);
	s.must('freeze');
	handOver(s, t, prove(s, t, streams));
}

describe('a session', () => {
	it.each([1, 3, MAX_HELPERS])('takes a guest over in %i streams', (streams) => {
		const [s, t] = pair();
		const all = gpas(1100);
		for (const [i, gpa] of all.entries()) s.fill(gpa, i % 5 === 0 ? 0 : i % 251);
		handshake(s, t, streams);
		expect([s.phase, t.phase]).toEqual(['sending', 'receiving']);
		move(s, t, all, streams);
		s.fill(BASE, 0x77);
		t.must('nextEpoch', s.must('epoch'));
		move(s, t, [BASE], streams);
		s.must('freeze');
		expect([s.gate, t.gate]).toEqual([1, 1]);
		const ready = prove(s, t, streams);
		expect([s.phase, t.phase]).toEqual(['proven', 'verified']);
		handOver(s, t, ready);
		expect([s.phase, t.phase, s.gate, t.gate]).toEqual(['retired', 'idle', 1, 0]);
		expect(all.map((gpa) => t.first(gpa))).toEqual(all.map((_, i) => (i === 0 ? 0x77 : i % 5 === 0 ? 0 : i % 251)));
		expect(all.every((gpa) => s.first(gpa) === 0)).toBe(true);
	});

	it('works with the provider in plain JavaScript, and between the two', () => {
		const s = new Side('idle', { provider: nobleProvider, random: seededRandom('noble') });
		const t = new Side('empty');
		s.fill(BASE, 1);
		migrate(s, t, [BASE]);
		expect(t.first(BASE)).toBe(1);
	});

	it('goes on from A to B to C, with other keys', () => {
		const [a, b, c] = [new Side('idle'), new Side('empty'), new Side('empty', { random: freshRandom('c') })];
		a.fill(BASE, 0x31);
		handshake(a, b);
		const first = a.stateBytes;
		move(a, b, [BASE]);
		a.must('freeze');
		handOver(a, b, prove(a, b));
		b.fill(BASE + 4096, 0x32);
		handshake(b, c);
		const page = first.subarray(0x4d0, 0x4f0);
		expect(page.some((byte) => byte !== 0)).toBe(true);
		expect(b.memory.find(page)).toEqual([]);
		move(b, c, [BASE, BASE + 4096]);
		b.must('freeze');
		handOver(b, c, prove(b, c));
		expect([a.phase, b.phase, c.phase]).toEqual(['retired', 'retired', 'idle']);
		expect([c.first(BASE), c.first(BASE + 4096), b.first(BASE), b.gate, c.gate]).toEqual([0x31, 0x32, 0, 1, 0]);
	});

	it('begins anew after a cancel, with an id and keys of its own', () => {
		const [s, t] = pair();
		handshake(s, t);
		const before = s.stateBytes.slice(0x28, 0x38);
		move(s, t, [BASE]);
		s.must('freeze');
		s.must('cancel');
		expect([s.phase, s.gate]).toEqual(['idle', 0]);
		t.must('abort');
		s.fill(BASE, 9);
		handshake(s, t);
		expect(s.stateBytes.slice(0x28, 0x38)).not.toEqual(before);
		expect(t.stateBytes.slice(0x28, 0x38)).toEqual(s.stateBytes.slice(0x28, 0x38));
		move(s, t, [BASE]);
		s.must('freeze');
		handOver(s, t, prove(s, t));
		expect([s.phase, t.phase, t.first(BASE)]).toEqual(['retired', 'idle', 9]);
	});

	it('carries vCPU states in order, each once', () => {
		const saveAreas = [0x1c00000, 0x1c01000, 0x1c02000];
		const [s, t] = pair({ saveAreas });
		for (const [i, area] of saveAreas.entries()) s.fill(area, 0x40 + i);
		handshake(s, t);
		s.must('freeze');
		expect(s.command('saveVcpu', undefined, 1).status).toBe(HelperStatus.order);
		expect(s.command('saveVcpu', undefined, 3).status).toBe(HelperStatus.address);
		s.must('digest');
		expect(s.command('manifest').status).toBe(HelperStatus.incomplete);
		const ready = prove(s, t);
		expect(s.command('saveVcpu', undefined, 2).status).toBe(HelperStatus.phase);
		// A vCPU that ran after its state was sealed: the source does not commit, and can still keep its guest.
		s.fill(0x1c01000, 0x99);
		expect(s.command('start', ready).status).toBe(HelperStatus.incomplete);
		expect(s.phase).toBe('proven');
		s.fill(0x1c01000, 0x41);
		handOver(s, t, ready);
		expect(saveAreas.map((area) => t.first(area))).toEqual([0x40, 0x41, 0x42]);
	});

	it('says in QUERY where it stands', () => {
		const [s, t] = pair();
		handshake(s, t, 3);
		s.fill(BASE, 1);
		move(s, t, gpas(200), 3);
		t.must('nextEpoch', s.must('epoch'));
		expect(s.report).toEqual({ ...t.report, phase: s.report.phase });
		expect(s.report).toMatchObject({ phase: 2, streams: 3, epoch: 1, pages: 200n, zeroPages: 199n });
	});

	it('sends zero pages without bodies only if both sides can', () => {
		for (const capabilities of [0, Capability.zeroPages]) {
			const [s, t] = [new Side('idle'), new Side('empty', { capabilities })];
			handshake(s, t);
			const { record } = s.seal(gpas(3));
			expect(record.bodies.length).toBe(capabilities === 0 ? 3 * 4096 : 0);
			expect(recordHeader.decodePrefix(record.header).zeroMap).toBe(capabilities === 0 ? 0n : 7n);
			t.fill(BASE, 5);
			expect(t.open(record).status).toBe(HelperStatus.success);
			expect(t.first(BASE)).toBe(0);
		}
	});

	it('knows a zero page by all its words', () => {
		const [s, t] = pair();
		handshake(s, t);
		// Minus zero as a float, and single bits at both ends.
		s.memory.write(BASE + 8 * 100, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0x80));
		s.memory.write(BASE + 2 * 4096 - 1, Uint8Array.of(0x80));
		s.memory.write(BASE + 2 * 4096, Uint8Array.of(1));
		const { record } = s.seal(gpas(4));
		expect(recordHeader.decodePrefix(record.header).zeroMap).toBe(0b1000n);
	});

	it('digests in slices of at most 128 frames, and wipes in such', () => {
		const [s, t] = pair();
		handshake(s, t);
		move(s, t, [SECRET_PAGE]);
		s.must('freeze');
		const groups = (32 * 2 ** 20) / 4096 / 128;
		const { slices } = s.command('digest');
		// Some groups are all the helper's.
		expect(slices).toBeGreaterThan(groups - 16);
		expect(slices).toBeLessThanOrEqual(groups);
		expect(s.command('digest').slices).toBe(1);
		const ready = prove(s, t);
		const retired = s.command('retire', t.must('run', s.must('start', ready)));
		expect(retired.slices).toBeGreaterThan(groups - 16);
		expect(s.command('retire').slices).toBe(1);
	});

	it('gives `busy` while a helper is at work, and changes nothing', () => {
		const [s, t] = pair();
		handshake(s, t, 3);
		s.memory.exchange(streamAddress(1), 1);
		const before = s.stateBytes;
		for (const name of ['epoch', 'freeze', 'cancel', 'reset'] as const) {
			expect(s.command(name).status).toBe(HelperStatus.busy);
		}
		expect(s.seal([BASE + 256 * 4096], 1).status).toBe(HelperStatus.busy);
		expect(s.seal([BASE], 2).status).toBe(HelperStatus.success);
		expect(s.stateBytes).toEqual(before);
		s.memory.exchange(streamAddress(1), 0);
		s.must('cancel');
		for (let i = 0; i < MAX_HELPERS; i++) expect(s.memory.exchange(streamAddress(i), 0)).toBe(0);
	});

	it('goes on in another thread or a copy: all state is in memory', () => {
		const [s, t] = pair();
		s.fill(BASE, 4);
		handshake(s, t);
		const { record } = s.seal([BASE]);
		const [s2, t2] = [s.clone(), t.clone()];
		expect(t2.open(record).status).toBe(HelperStatus.success);
		s2.must('freeze');
		handOver(s2, t2, prove(s2, t2));
		expect([s2.phase, t2.phase, s.phase, t.phase]).toEqual(['retired', 'idle', 'sending', 'receiving']);
	});

	it('does nothing before it is installed', () => {
		const s = new Side('idle');
		s.memory.write(HelperGeometry.state, new Uint8Array(8));
		expect(s.command('hello', undefined, 1).status).toBe(HelperStatus.phase);
		expect(s.command('query').status).toBe(HelperStatus.phase);
		expect(s.seal([BASE]).status).toBe(HelperStatus.phase);
	});
});
