import { nodeProvider } from '@cvm/crypto/node';
import { PAGE_SIZE } from '@cvm/layout';
import { beforeEach, describe, expect, it } from 'vitest';
import { expectDead, sidesWith } from './attack-rig.js';
import {
	answer,
	filled,
	flipped,
	guestPages,
	handOver,
	makeManifest,
	migrate,
	type Side,
	saveAll,
	shakeHands,
	takeManifest,
} from './migration-rig.js';
import { sealsOf } from './seals.js';

/* The attacks on sessions, A6 … A8, A12, A13 and A15, on the hardened helper: its core as the hosts reach it. */

const RAM = [{ start: 0x1000000, end: 0x1004000 }];
const PAGES = guestPages(RAM);
const [FIRST = 0, SECOND = 0] = PAGES;
const side = sidesWith(RAM);

let source: Side;
let target: Side;
beforeEach(() => {
	source = side('source', 'idle');
	target = side('target', 'empty');
	for (const [i, gpa] of PAGES.entries()) source.memory.write(gpa, filled(0x10 + i));
});

describe('hardened helper: sessions', () => {
	it('A6: records and tokens of one session are nothing in another, of the same guest or of another one', () => {
		const other = side('other source', 'idle', { guest: 'another guest' });
		const otherTarget = side('other target', 'empty', { guest: 'another guest' });
		const twin = side('twin source', 'idle');
		const twinTarget = side('twin target', 'empty');
		shakeHands(other, otherTarget);
		shakeHands(twin, twinTarget);
		for (const foreign of [other, twin]) {
			target = side(`target of ${foreign.options.name}`, 'empty');
			source = side(`source of ${foreign.options.name}`, 'idle');
			shakeHands(source, target);
			const record = foreign.save([FIRST]);
			expect(answer(() => target.restore(record))).toMatch(/^(authentication|order)$/);
			expectDead(target);
			target.run('abort');
			shakeHands(side(`again ${foreign.options.name}`, 'idle'), target);
			expect(answer(() => target.run('nextEpoch', foreign.run('epoch')))).toBe('authentication');
			expectDead(target);
		}
	});

	it('A6: handshake messages of two sessions do not make a third', () => {
		const twin = side('twin', 'idle');
		const hello = source.run('hello', undefined, 1);
		const twinHello = twin.run('hello', undefined, 1);
		const accept = target.run('accept', hello);
		expect(answer(() => twin.run('confirm', accept))).toBe('authentication');
		expect(twin.phase).toBe('offered');
		const otherTarget = side('other target', 'empty');
		const otherAccept = otherTarget.run('accept', twinHello);
		const confirm = twin.run('confirm', otherAccept);
		expect(answer(() => target.run('establish', confirm))).toBe('authentication');
	});

	it('A7: one READY, one START, one target: the second target gets nothing, and the source does not run again', () => {
		const second = side('second target', 'empty');
		shakeHands(source, target);
		source.run('freeze');
		for (const record of saveAll(source, PAGES)) {
			target.restore(record);
			expect(answer(() => second.restore(record))).toBe('phase');
		}
		const ready = takeManifest(target, makeManifest(source));
		const start = source.run('start', ready);
		expect(source.canRun).toBe(false);
		for (const command of ['cancel', 'reset', 'hello', 'freeze'] as const) {
			expect(
				answer(() => source.run(command, undefined, command === 'hello' ? 1 : 0)),
				command,
			).toBe('phase');
		}
		expect(answer(() => source.run('revive', new Uint8Array(96)))).not.toBe('success');
		expect(answer(() => second.run('run', start))).toBe('phase');
		source.run('retire', target.run('run', start));
		expect(answer(() => target.run('abort'))).toBe('phase');
		expect([source.canRun, target.canRun, second.canRun]).toEqual([false, true, false]);
		for (const gpa of PAGES) expect(source.page(gpa)).toEqual(filled(0));
	});

	it('A7: a target that gave out ABORT never runs, so that the source may', () => {
		shakeHands(source, target);
		source.run('freeze');
		for (const record of saveAll(source, PAGES)) target.restore(record);
		const start = source.run('start', takeManifest(target, makeManifest(source)));
		const abort = target.run('abort');
		source.run('revive', abort);
		expect(source.canRun).toBe(true);
		expect(answer(() => target.run('run', start))).toBe('phase');
		shakeHands(source, target);
		expect(answer(() => target.run('run', start))).toBe('phase');
		expect(target.canRun).toBe(false);
	});

	it('A8: a whole recorded migration is nothing to a new target: not one message of it is taken', () => {
		const taken: Uint8Array[] = [];
		const hello = source.run('hello', undefined, 1);
		const accept = target.run('accept', hello);
		const confirm = source.run('confirm', accept);
		target.run('establish', confirm);
		source.run('freeze');
		const records = saveAll(source, PAGES);
		for (const record of records) target.restore(record);
		const manifest = makeManifest(source);
		const start = source.run('start', takeManifest(target, manifest));
		source.run('retire', target.run('run', start));
		taken.push(confirm, manifest, start);
		const again = side('a machine that the host chose', 'empty');
		again.run('accept', hello);
		for (const command of ['establish', 'nextEpoch', 'verify', 'run'] as const) {
			for (const message of taken) {
				expect(answer(() => again.run(command, message))).not.toBe('success');
			}
		}
		for (const record of records) expect(answer(() => again.restore(record))).not.toBe('success');
		expect(again.canRun).toBe(false);
	});

	it('A12: no two records of two sessions and of a chain A → B → C share key and IV', () => {
		const { provider, seals } = sealsOf(nodeProvider);
		const make = (name: string, role: 'idle' | 'empty') => side(name, role, { provider });
		const [a, b, c] = [make('a', 'idle'), make('b', 'empty'), make('c', 'empty')];
		for (const gpa of PAGES) a.memory.write(gpa, filled(3));
		shakeHands(a, b);
		saveAll(a, PAGES);
		a.run('epoch');
		saveAll(a, PAGES);
		a.run('cancel');
		b.run('abort');
		migrate(a, b);
		migrate(b, c);
		expect(c.canRun).toBe(true);
		expect(seals.length).toBeGreaterThan(12);
		expect(new Set(seals).size).toBe(seals.length);
		const keys = new Set(seals.map((seal) => seal.split('/')[0]));
		expect(keys.size, 'three sessions, a key for each direction').toBeGreaterThanOrEqual(3);
	});

	it('A12: a machine that starts again draws other keys, though the owner’s secret is the same', () => {
		const { provider, seals } = sealsOf(nodeProvider);
		for (const boot of ['first boot', 'second boot']) {
			const s = side(`s ${boot}`, 'idle', { provider });
			const t = side(`t ${boot}`, 'empty', { provider });
			migrate(s, t);
		}
		expect(new Set(seals).size).toBe(seals.length);
	});

	it('A13: a peer without the owner’s secret, with another guest’s, or with none, is no peer', () => {
		for (const [more, status] of [
			[{ owner: 'a stranger' }, 'authentication'],
			[{ guest: 'another guest' }, 'peer|authentication'],
		] as const) {
			const rogue = side('rogue', 'empty', more);
			const hello = source.run('hello', undefined, 1);
			expect(answer(() => rogue.run('accept', hello))).toMatch(new RegExp(`^(${status})$`));
			source.run('cancel');
			const rogueSource = side('rogue source', 'idle', more);
			expect(answer(() => target.run('accept', rogueSource.run('hello', undefined, 1)))).toMatch(
				/^(peer|authentication)$/,
			);
			expect(target.phase).toBe('empty');
		}
		const bare = side('bare', 'idle');
		bare.memory.write(0x80c000, new Uint8Array(PAGE_SIZE));
		expect(answer(() => bare.run('hello', undefined, 1))).toBe('secret');
	});

	it('A13: an old helper is refused by version, and nobody can make a HELLO look older or newer on its way', () => {
		const old = side('old', 'empty', { versions: { min: 0, max: 0 } });
		expect(answer(() => old.run('accept', source.run('hello', undefined, 1)))).toBe('peer');
		source.run('cancel');
		const wary = side('wary', 'empty', { minVersion: 2 });
		expect(answer(() => wary.run('accept', source.run('hello', undefined, 1)))).toBe('peer');
		source.run('cancel');
		const hello = source.run('hello', undefined, 1);
		for (let at = 0; at < hello.length; at++) {
			const fresh = side('fresh', 'empty');
			expect(
				answer(() => fresh.run('accept', flipped(hello, at, at % 8))),
				`byte ${at}`,
			).not.toBe('success');
			expect(fresh.phase).toBe('empty');
		}
	});

	it('A15: what is written after the freeze and before the digest is found out at the target', () => {
		shakeHands(source, target);
		source.run('freeze');
		for (const record of saveAll(source, PAGES)) target.restore(record);
		expect(source.write(FIRST, filled(0x77)), 'the guest obeys the gate').toBe(false);
		source.memory.write(FIRST, filled(0x77)); // A host that sets RIP past the gate.
		expect(answer(() => takeManifest(target, makeManifest(source)))).toBe('incomplete');
		expectDead(target);
	});

	it('A15: a page saved before the freeze and written since must come again, or the target does not run', () => {
		shakeHands(source, target);
		for (const record of saveAll(source, PAGES)) target.restore(record);
		source.write(SECOND, filled(0x78));
		target.run('nextEpoch', source.run('epoch'));
		source.run('freeze');
		target.restore(source.save([SECOND]));
		handOver(source, target, takeManifest(target, makeManifest(source)));
		expect(target.page(SECOND)).toEqual(filled(0x78));
		expect(
			answer(() => source.save([FIRST])),
			'no export after the final page',
		).toBe('phase');
	});

	it('A15: not preventable on plain SEV: a vCPU run past the gate after the digest writes into a copy that is given up', () => {
		shakeHands(source, target);
		source.run('freeze');
		for (const record of saveAll(source, PAGES)) target.restore(record);
		const manifest = makeManifest(source);
		source.memory.write(FIRST, filled(0x77)); // A host sets any register on plain SEV; the gate is only guest code.
		expect(
			answer(() => source.save([FIRST])),
			'it cannot be exported',
		).toBe('phase');
		handOver(source, target, takeManifest(target, manifest));
		expect(target.page(FIRST), 'the state that was frozen').toEqual(filled(0x10));
		expect(source.page(FIRST), 'and the write is wiped').toEqual(filled(0));
	});
});
