import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createPageHelper, createPageHelperTarget } from '../src/host/index.js';
import {
	commandExtension,
	EXTENSION_OFFSET,
	GPA_LIST_OFFSET,
	HelperCommand,
	HelperStatus,
	IO_HEADER_OFFSET,
} from '../src/mailbox/abi.js';
import { codeOf, guestOf, PAGE } from './hardened-fake-guest.js';

const { save } = HelperCommand;

describe('batches', () => {
	const gpaOf = (block: number, page: number) => (block * 0x10000 + page) * PAGE;

	/** Seals pages of block 0; the body of a page is its number, zero where `isZero`. */
	function source(helpers: number, isZero: (page: number) => boolean = () => false) {
		let counter = 0;
		const { host, guests } = guestOf((g, nr) => {
			if (nr !== save) throw new Error('unexpected');
			let zeroMap = 0n;
			let body = 0;
			for (let i = 0; i < g.count; i++) {
				const page = Number(g.view.getBigUint64(GPA_LIST_OFFSET + 8 * i, true)) / PAGE;
				if (isZero(page)) zeroMap |= 1n << BigInt(i);
				else g.bodies.fill(page & 0xff, PAGE * body, PAGE * ++body);
			}
			g.sealed(zeroMap, counter++);
			g.view.setUint16(IO_HEADER_OFFSET + 4 + 0x20, guests.indexOf(g), true);
		}, helpers);
		const records: { page: number; header: Uint8Array; bytes: Uint8Array }[] = [];
		const emit = (_block: number, page: number, header: Uint8Array, bytes: Uint8Array) =>
			records.push({ page, header: header.slice(), bytes: bytes.slice() });
		const shared: number[] = [];
		const helper = createPageHelper(host, { gpaOf, onShared: (_block, page) => shared.push(page) });
		return { helper, records, emit, guests, host, shared };
	}

	/** Opens records; gives what each helper was asked for. */
	function target(helpers: number, gpas = gpaOf) {
		const seen: { stream: number; gpas: number[]; bodies: number[] }[] = [];
		const { host, guests } = guestOf((g) => {
			const gpa = (i: number) => Number(g.view.getBigUint64(GPA_LIST_OFFSET + 8 * i, true));
			const length = g.view.getUint32(EXTENSION_OFFSET + commandExtension.offsetOf('inputLength'), true);
			seen.push({
				stream: guests.indexOf(g),
				gpas: Array.from({ length: g.count }, (_, i) => gpa(i)),
				bodies: Array.from({ length: length / PAGE }, (_, i) => g.bodies[i * PAGE] ?? -1),
			});
			g.finish(0);
		}, helpers);
		return { helper: createPageHelperTarget(host, { gpaOf: gpas }), seen, guests, host };
	}

	it.each([1, 3])('of %i helpers come together again at the target, whatever order pages were asked in', (helpers) => {
		const { helper, records, emit } = source(helpers, (page) => page % 5 === 0);
		const pages = Uint32Array.from({ length: 1000 }, (_, i) => (i * 7) % 1000);
		for (let at = 0; at < pages.length; at += 100) helper.seal(0, pages.subarray(at, at + 100), 100, emit);
		helper.flush(emit);
		expect(records.length).toBeGreaterThanOrEqual(800);
		expect(records.every(({ header }) => header.length <= 584)).toBe(true);
		const { helper: opener, seen } = target(helpers);
		for (const { page, header, bytes } of records) opener.open(0, page, header, bytes);
		opener.flush();
		const opened = seen.flatMap(({ gpas }) => gpas).map((gpa) => gpa / PAGE);
		expect(opened.sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
		for (const { stream, gpas, bodies } of seen) {
			expect(gpas.every((gpa) => Math.floor(gpa / PAGE / 128) % helpers === stream)).toBe(true);
			const withBody = gpas.map((gpa) => gpa / PAGE).filter((page) => page % 5 !== 0);
			expect(bodies).toEqual(withBody.map((page) => page & 0xff));
			expect(gpas.length).toBeLessThanOrEqual(64);
		}
	});

	it('of zero pages alone are one record with an empty page', () => {
		const { helper, records, emit } = source(1, () => true);
		helper.seal(0, Uint32Array.of(9, 3, 4), 3, emit);
		helper.flush(emit);
		expect(records.map(({ page, header, bytes }) => [page, header.length, bytes.every((b) => b === 0)])).toEqual([
			[9, 96, true],
		]);
		const { helper: opener, seen } = target(1);
		for (const { page, header, bytes } of records) opener.open(0, page, header, bytes);
		opener.flush();
		expect(seen).toEqual([{ stream: 0, gpas: [9 * PAGE, 3 * PAGE, 4 * PAGE], bodies: [] }]);
	});

	it('are with the helper while the engine goes on, and are emitted by later calls', () => {
		const { helper, records, emit, guests } = source(1);
		const pages = Uint32Array.from({ length: 64 }, (_, i) => i);
		helper.seal(0, pages, 64, emit);
		expect(records).toHaveLength(0);
		expect(guests[0]?.go).toBe(1);
		helper.seal(0, Uint32Array.of(64), 1, emit);
		expect(records).toHaveLength(0);
		helper.flush(emit);
		expect(records.map(({ page }) => page)).toEqual(Array.from({ length: 65 }, (_, i) => i));
	});

	it('A11: leave out a page that the guest shares by now, and name it to the host', () => {
		const refused = new Set([3, 10]);
		const { host } = guestOf((g) => {
			const at = Array.from({ length: g.count }, (_, i) =>
				Number(g.view.getBigUint64(GPA_LIST_OFFSET + 8 * i, true) / 4096n),
			).findIndex((page) => refused.has(page));
			if (at >= 0) g.finish(HelperStatus.shared, 0, at);
			else g.sealed();
		});
		const shared: number[] = [];
		const sealed: number[] = [];
		const helper = createPageHelper(host, { gpaOf, onShared: (_block, page) => shared.push(page) });
		const emit = (_block: number, page: number) => sealed.push(page);
		helper.seal(0, Uint32Array.of(3, 4, 10, 11), 4, emit);
		helper.flush(emit);
		expect([shared, sealed]).toEqual([
			[3, 10],
			[4, 11],
		]);
		helper.seal(0, Uint32Array.of(3), 1, emit);
		helper.flush(emit);
		expect([shared, sealed]).toEqual([
			[3, 10, 3],
			[4, 11],
		]);
	});

	it('that do not go together are refused by the target', () => {
		const { helper, records, emit } = source(1);
		helper.seal(0, Uint32Array.of(1, 2, 3), 3, emit);
		helper.flush(emit);
		const [a, b, c] = records;
		if (a === undefined || b === undefined || c === undefined) throw new Error('three records');
		const play = (...list: readonly (readonly [typeof a, number?])[]) =>
			codeOf(() => {
				const { helper: opener } = target(1);
				for (const [{ page, header, bytes }, at = page] of list) opener.open(0, at, header, bytes);
			});
		expect(play([a], [b], [c])).toBe('none');
		expect(play([b])).toBe('bad-record');
		expect(play([a], [c])).toBe('bad-record');
		expect(play([a], [a])).toBe('bad-record');
		expect(play([a], [b], [b])).toBe('bad-record');
		expect(play([a, 2])).toBe('bad-record');
		expect(play([a], [b, 3])).toBe('bad-record');
		expect(play([{ ...a, header: a.header.subarray(0, 95) }])).toBe('bad-record');
		expect(play([{ ...a, bytes: a.bytes.subarray(1) }])).toBe('bad-record');
		const otherStream = a.header.slice();
		otherStream[0x20] = 1;
		expect(play([{ ...a, header: otherStream }])).toBe('bad-record');
	});

	test.prop([fc.array(fc.uint8Array({ maxLength: 700 }), { maxLength: 6 })], { numRuns: 200 })(
		'of any bytes are refused with a name, or are for the helper to refuse',
		(headers) => {
			const { helper } = target(2, () => 0);
			const body = new Uint8Array(PAGE);
			for (const header of headers)
				expect(['none', 'bad-record']).toContain(codeOf(() => helper.open(0, 0, header, body)));
		},
	);

	it('whose session failed leave nothing behind: the helper is reset', () => {
		const seen: number[] = [];
		const { host } = guestOf((g, nr) => {
			seen.push(nr);
			g.finish(nr === save ? HelperStatus.phase : 0);
		});
		const helper = createPageHelper(host, { gpaOf });
		helper.seal(
			0,
			Uint32Array.from({ length: 65 }, (_, i) => i),
			65,
			() => undefined,
		);
		helper.failed();
		expect(seen).toEqual([save, HelperCommand.reset]);
		helper.flush(() => expect.unreachable());
	});
});
