import { nodeProvider } from '@cvm/crypto/node';
import { PAGE_SIZE } from '@cvm/layout';
import { beforeEach, describe, expect, it } from 'vitest';
import { HelperGeometry, helperRanges } from '../src/geometry.js';
import { expectDead, sidesWith } from './attack-rig.js';
import {
	answer,
	contains,
	filled,
	flipped,
	guestPages,
	type HelperRecord,
	handOver,
	makeManifest,
	type Side,
	saveAll,
	shakeHands,
	takeManifest,
} from './migration-rig.js';

/*
 * The attacks on pages, A1 … A5, A10 and A11, on the hardened helper: its core as the hosts reach it. What they do to the mailbox
 * around it (A9, A14) is in hardened-hostile.test.ts and attacks-mailbox.test.ts; what any order of commands can do, in explorer/.
 */

const RAM = [{ start: 0x1000000, end: 0x1004000 }];
const PAGES = guestPages(RAM);
const [FIRST = 0, SECOND = 0, THIRD = 0] = PAGES;
const side = sidesWith(RAM);

let source: Side;
let target: Side;
beforeEach(() => {
	source = side('source', 'idle');
	target = side('target', 'empty');
	for (const [i, gpa] of PAGES.entries()) source.memory.write(gpa, filled(0x10 + i));
});

const SECRET = new TextEncoder().encode('the secret that the guest keeps in a page of its own');
const altered = (record: HelperRecord, change: Partial<HelperRecord>): HelperRecord => ({ ...record, ...change });

/** All that a guest holds. */
const hashOf = ({ memory }: Side): string => {
	const pages = [...memory.pages].sort(([a], [b]) => a - b).filter(([, bytes]) => bytes.some((byte) => byte !== 0));
	const parts = pages.flatMap(([frame, bytes]) => [new Uint8Array(Uint32Array.of(frame).buffer), bytes]);
	return Buffer.from(nodeProvider.digest('sha256', ...parts)).toString('hex');
};

/** The source goes on as if nothing had been. */
const expectResumes = (): void => {
	source.run('cancel');
	expect(source.canRun).toBe(true);
	for (const [i, gpa] of PAGES.entries()) expect(source.page(gpa)).toEqual(filled(0x10 + i));
};

describe('hardened helper: pages', () => {
	it('A1: what the hosts see of a migration has no planted secret in it, and a helper without session gives nothing', () => {
		source.memory.write(SECOND + 100, SECRET);
		expect(answer(() => source.save([SECOND]))).toBe('phase');
		const seen: Uint8Array[] = [];
		const hello = source.run('hello', undefined, 1);
		const accept = target.run('accept', hello);
		const confirm = source.run('confirm', accept);
		target.run('establish', confirm);
		source.run('freeze');
		for (const record of saveAll(source, PAGES)) {
			target.restore(record);
			seen.push(record.header, record.bodies);
		}
		const manifest = makeManifest(source);
		const ready = takeManifest(target, manifest);
		const start = source.run('start', ready);
		const running = target.run('run', start);
		source.run('retire', running);
		seen.push(hello, accept, confirm, manifest, ready, start, running);
		const all = Buffer.concat(seen);
		expect(contains(all, SECRET)).toBe(false);
		expect(contains(all, SECRET.subarray(0, 16))).toBe(false);
		expect(target.page(SECOND).subarray(100, 100 + SECRET.length)).toEqual(SECRET);
	});

	it('A1: neither end gives out its own state, keys or secret: its ranges are no pages to save', () => {
		shakeHands(source, target);
		for (const { start, end } of helperRanges()) {
			expect(answer(() => source.save([start]))).toBe('address');
			expect(answer(() => source.save([end - PAGE_SIZE]))).toBe('address');
		}
		expect(answer(() => target.save([FIRST]))).toBe('phase');
	});

	it('A2: bytes of the host do not get into private memory: made up, or a genuine record with any part altered', () => {
		const before = target.page(FIRST);
		const header = new Uint8Array(80);
		const made: HelperRecord = { stream: 0, gpas: [FIRST], header, bodies: filled(0x66) };
		expect(
			answer(() => target.restore(made)),
			'without a session',
		).toBe('phase');
		for (const where of [...Array(80).keys(), 'body', 'short'] as const) {
			source = side(`source ${where}`, 'idle');
			source.memory.write(FIRST, filled(0x55));
			target = side(`target ${where}`, 'empty');
			shakeHands(source, target);
			const record = source.save([FIRST]);
			const change =
				where === 'body'
					? { bodies: flipped(record.bodies, 4000) }
					: where === 'short'
						? { bodies: record.bodies.subarray(0, 2048) }
						: { header: flipped(record.header, where, where % 8) };
			expect(
				answer(() => target.restore(altered(record, change))),
				`${where}`,
			).not.toBe('success');
			expectDead(target);
			expect(target.page(FIRST)).toEqual(before);
		}
	});

	it('A2: a guest that runs takes no pages', () => {
		shakeHands(source, target);
		const record = source.save([FIRST]);
		expect(answer(() => source.restore(record))).toBe('phase');
	});

	it('A3: an older version of a page is refused, in its epoch, in a later one, and in a later session', () => {
		for (const when of ['same epoch', 'later epoch', 'later session'] as const) {
			source = side(`source ${when}`, 'idle');
			target = side(`target ${when}`, 'empty');
			shakeHands(source, target);
			const old = source.save([FIRST]);
			target.restore(old);
			if (when === 'later epoch') target.run('nextEpoch', source.run('epoch'));
			if (when === 'later session') {
				source.run('cancel');
				target.run('abort');
				shakeHands(source, target);
			}
			source.write(FIRST, filled(0x77));
			expect(
				answer(() => target.restore(old)),
				when,
			).toMatch(/^(order|authentication)$/);
			expectDead(target);
		}
	});

	it('A3: a host that never sends the newer version is found out by the manifest, before the target runs', () => {
		shakeHands(source, target);
		for (const record of saveAll(source, PAGES)) target.restore(record);
		target.run('nextEpoch', source.run('epoch'));
		source.write(FIRST, filled(0x77));
		source.run('freeze');
		expect(answer(() => takeManifest(target, makeManifest(source)))).toBe('incomplete');
		expectDead(target);
	});

	it('A4: the content of one page does not get to the address of another', () => {
		for (const where of ['list', 'header', 'both', 'order'] as const) {
			source = side(`source ${where}`, 'idle');
			target = side(`target ${where}`, 'empty');
			source.memory.write(FIRST, filled(1));
			source.memory.write(SECOND, filled(2));
			shakeHands(source, target);
			const record = source.save(where === 'order' ? [FIRST, SECOND] : [FIRST]);
			const header = record.header.slice();
			if (where !== 'list') new DataView(header.buffer).setBigUint64(0x48, BigInt(SECOND), true);
			if (where === 'order') new DataView(header.buffer).setBigUint64(0x50, BigInt(FIRST), true);
			const gpas = where === 'order' ? [SECOND, FIRST] : where === 'header' ? [FIRST] : [SECOND];
			expect(
				answer(() => target.restore(altered(record, { header, gpas }))),
				where,
			).not.toBe('success');
			expectDead(target);
			expect(target.page(SECOND)).toEqual(filled(0));
		}
	});

	it('A5: a record that is left out is missed by the next record, by the epoch token, or by the manifest', () => {
		for (const [missed, status] of [
			['next record', 'order'],
			['epoch', 'order|incomplete'],
			['manifest', 'incomplete'],
		] as const) {
			source = side(`source ${missed}`, 'idle');
			target = side(`target ${missed}`, 'empty');
			for (const gpa of PAGES) source.memory.write(gpa, filled(9));
			shakeHands(source, target);
			source.save([FIRST]);
			const rest = source.save([SECOND, THIRD]);
			const attempt = {
				'next record': () => target.restore(rest),
				epoch: () => target.run('nextEpoch', source.run('epoch')),
				manifest: () => {
					source.run('freeze');
					takeManifest(target, makeManifest(source));
				},
			}[missed];
			expect(answer(attempt), missed).toMatch(new RegExp(`^(${status})$`));
			expectDead(target);
		}
	});

	it('A5: a page that the source was never asked for is missed by the manifest, even if it is zero here and not there', () => {
		target.memory.write(FIRST, filled(0x99));
		source.memory.write(FIRST, filled(0));
		shakeHands(source, target);
		source.run('freeze');
		for (const record of saveAll(source, PAGES.slice(1))) target.restore(record);
		expect(answer(() => takeManifest(target, makeManifest(source)))).toBe('incomplete');
		expectDead(target);
		source.run('cancel');
		expect(source.canRun).toBe(true);
	});

	it('A11: a shared page is not sealed though the host calls it private', () => {
		source.setShared(SECOND, true);
		shakeHands(source, target);
		expect(answer(() => source.save([SECOND]))).toBe('shared');
		expect(answer(() => source.save([FIRST, SECOND]))).toBe('shared');
		source.run('freeze');
		for (const record of saveAll(source, [FIRST, THIRD, PAGES[3] ?? 0])) target.restore(record);
		handOver(source, target, takeManifest(target, makeManifest(source)));
		expect(target.isShared(SECOND), 'the status map is the source guest’s').toBe(true);
	});

	it('A11: a private page that the host calls shared is missed by the manifest', () => {
		shakeHands(source, target);
		source.run('freeze');
		for (const record of saveAll(source, PAGES.slice(1))) target.restore(record);
		expect(answer(() => takeManifest(target, makeManifest(source)))).toBe('incomplete');
		expectDead(target);
		expectResumes();
	});

	it('A11: a page that becomes private late must be sent before the target runs', () => {
		source.setShared(SECOND, true);
		shakeHands(source, target);
		for (const record of saveAll(source, PAGES)) target.restore(record);
		target.run('nextEpoch', source.run('epoch'));
		source.setShared(SECOND, false);
		source.run('freeze');
		expect(answer(() => takeManifest(target, makeManifest(source)))).toBe('incomplete');
		expectDead(target);
	});

	it('A10: no address gets past the checks, in either direction: not aligned, not RAM, aliases, C-bits, the helper’s own', () => {
		const bad = [
			...[FIRST + 1, FIRST + 4095, FIRST - 1, 0x81ffff, 0x820000, 0x821000, 0x822000, 0x823000],
			...[HelperGeometry.state, HelperGeometry.gate, HelperGeometry.sharedMap, HelperGeometry.windows],
			...[0xc00000, 0xc0a000, 0xe00000, 0xe03000, 0x1004000, 0xfff000, 0, -4096, -(2 ** 39), 2 ** 39],
			...[2 ** 39 + FIRST, 2 ** 47 + FIRST, 2 ** 51 + FIRST, 2 ** 52, 2 ** 53, 2 ** 63, FIRST + 0.5],
			...[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
		];
		shakeHands(source, target);
		const before = hashOf(source);
		for (const gpa of bad) {
			expect(
				answer(() => source.save([gpa])),
				`${gpa}`,
			).toBe('address');
			expect(
				answer(() => source.save([FIRST, gpa])),
				`${gpa}`,
			).toBe('address');
		}
		expect(hashOf(source)).toBe(before);
		for (const gpa of bad) {
			const s = side(`source ${gpa}`, 'idle');
			const t = side(`target ${gpa}`, 'empty');
			shakeHands(s, t);
			const record = s.save([FIRST]);
			const header = record.header.slice();
			if (gpa >= 0 && Number.isInteger(gpa)) new DataView(header.buffer).setBigUint64(0x48, BigInt(gpa), true);
			const untouched = t.page(HelperGeometry.sharedMap);
			for (const gpas of [[gpa], [FIRST]])
				expect(answer(() => t.restore({ ...record, header, gpas }))).not.toBe('success');
			expect(t.phase).toBe('aborted');
			expect(t.page(HelperGeometry.sharedMap)).toEqual(untouched);
		}
	});

	it('A10: a page twice in one list, and more than a batch, are refused', () => {
		shakeHands(source, target);
		expect(answer(() => source.save([FIRST, SECOND, FIRST]))).toBe('list');
		expect(answer(() => source.save([]))).toBe('length');
		expect(answer(() => source.save(Array<number>(65).fill(FIRST)))).toBe('length');
	});
});
