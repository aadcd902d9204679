import { readFileSync } from 'node:fs';
import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { contentStream, createRandom, opened, randomContent, rewritten } from '../../test/image-fixtures.js';
import type { Salvage } from '../image.js';
import { bytesSource, createMemoryStore, pageAt, salvage } from '../image.js';
import type { Dialect } from '../index.js';
import { StreamReader } from '../index.js';

/** Where each record of a page begins and ends, and what it says. */
interface Sent {
	readonly block: string;
	readonly address: number;
	readonly from: number;
	readonly to: number;
	readonly content: Uint8Array;
}

function pagesOf(data: Uint8Array, dialect: Dialect = 'qemu-7.2'): Sent[] {
	const sent: Sent[] = [];
	const reader = new StreamReader({
		dialect,
		handler: {
			rawPage: (block, address, page, at) =>
				sent.push({ block, address, from: at.offset, to: at.offset + at.length, content: page.slice() }),
			zeroPage: (block, address, _fill, at) =>
				sent.push({ block, address, from: at.offset, to: at.offset + at.length, content: new Uint8Array(PAGE_SIZE) }),
			encryptedPage: (block, address, _header, page, at) =>
				sent.push({ block, address, from: at.offset, to: at.offset + at.length, content: page.slice() }),
		},
	});
	reader.push(data);
	reader.end();
	return sent;
}

const keyOf = ({ block, address }: { block: string; address: number }): string => `${block} ${address}`;

/** The pages in an image by key: `sure` or `recovered`. */
function stateOf({ image }: Salvage): Map<string, string> {
	const state = new Map<string, string>();
	for (const block of image.blocks) {
		for (let page = 0; page < block.facts.pages; page++) {
			if (block.facts.kindAt(page) === 0) continue;
			const key = keyOf({ block: block.idstr, address: page * PAGE_SIZE });
			state.set(key, block.facts.recoveredAt(page) ? 'recovered' : 'sure');
		}
	}
	return state;
}

function contentMatches({ image }: Salvage, { block: idstr, address, content }: Sent): boolean {
	const block = image.blocks.find((one) => one.idstr === idstr);
	return block !== undefined && Buffer.compare(pageAt(image, block, address / PAGE_SIZE), content) === 0;
}

const saved = (data: Uint8Array, dialect?: Dialect): Promise<Salvage> =>
	salvage(bytesSource(data), { store: createMemoryStore(), ...(dialect === undefined ? {} : { dialect }) });

it('finds nothing missing in a whole stream', async () => {
	const result = await saved(await contentStream(randomContent(1)));
	expect(result).toMatchObject({ complete: true, gaps: [], missing: { bytes: 0, pages: [], sections: [] } });
});

describe.each([
	['plain', 'qemu-7.2'],
	['sealed', 'sev-v4'],
] as const)('a %s stream cut at any place', (_name, dialect) => {
	it('gives exactly the pages before the cut, and lists the rest', async () => {
		const data = await contentStream(randomContent(77, [24, 6, 1]), dialect === 'sev-v4');
		const sent = pagesOf(data, dialect);
		const random = createRandom(99);
		const cuts = Array.from({ length: 150 }, () => random() % data.length);
		for (const cut of [0, 1, 8, 40, ...cuts, data.length - 1]) {
			const result = await saved(data.subarray(0, cut), dialect);
			const before = sent.filter(({ to }) => to <= cut);
			expect([...stateOf(result)], `cut at ${cut}`).toEqual(before.map((one) => [keyOf(one), 'sure']));
			for (const one of before) expect(contentMatches(result, one), `cut at ${cut}`).toBe(true);
			expect(result.complete).toBe(false);
			expect(result.gaps.length, `cut at ${cut}`).toBe(1);
			expect(result.gaps[0]?.to).toBe(cut);
			const lost = result.missing.pages.reduce((sum, { start, end }) => sum + (end - start) / PAGE_SIZE, 0);
			const listed = result.image.blocks.length > 0;
			expect(lost).toBe(listed ? sent.length - before.length : 0);
			expect(result.missing.sections.map(({ text }) => text)).toContain('the end of the stream');
		}
	});
});

describe('a stream with a hole', () => {
	it('is read again after it, and what was read so is marked', async () => {
		const data = await contentStream(randomContent(5, [60, 6, 1]));
		const sent = pagesOf(data);
		const random = createRandom(3);
		const ram = { from: sent[3]?.from ?? 0, to: sent.at(-8)?.from ?? 0 };
		let again = 0;
		for (let round = 0; round < 60; round++) {
			const from = ram.from + (random() % (ram.to - ram.from));
			const length = 1 + (random() % 12000);
			const to = Math.min(from + length, data.length);
			const result = await saved(Buffer.concat([data.subarray(0, from), data.subarray(to)]));
			const state = stateOf(result);
			// Right before the hole one record may be taken for whole that is not: it is marked.
			for (const one of sent.filter((page) => page.to <= from)) {
				expect(contentMatches(result, one), `hole ${from}..${to}`).toBe(true);
				expect(state.has(keyOf(one))).toBe(true);
			}
			for (const one of sent.filter((page) => page.from >= to)) {
				if (!state.has(keyOf(one))) continue;
				if (contentMatches(result, one)) again++;
				// A hole of whole records leaves no trace but pages that never came.
				if (result.gaps.length > 0) expect(state.get(keyOf(one)), `hole ${from}..${to}`).toBe('recovered');
			}
			for (const one of sent) {
				if (state.get(keyOf(one)) !== 'sure') continue;
				expect(contentMatches(result, one), `hole ${from}..${to}, page ${keyOf(one)}`).toBe(true);
			}
			expect(result.complete).toBe(false);
			expect(result.image.devices.map(({ section }) => section.idstr)).toEqual([
				'timer',
				'0000:00:01.0/vga',
				'globalstate',
			]);
		}
		expect(again).toBeGreaterThan(60 * 20);
	});
});

describe('damage in place', () => {
	const stream = () => contentStream(randomContent(8, [40, 6, 1]));

	it.each([
		['the magic', 0],
		['the block list', 60],
	] as const)('of %s costs no page', async (_name, at) => {
		const data = (await stream()).slice();
		data.fill(0xee, at, at + 12);
		const result = await saved(data, 'qemu-7.2');
		const sent = pagesOf(await stream());
		const matching = sent.filter((one) => contentMatches(result, one));
		// Without names the first records may be lost; the bulk is there.
		expect(matching.length).toBeGreaterThan(sent.length - 3);
		expect([...stateOf(result).values()].every((state) => state === 'recovered')).toBe(true);
	});

	it('of the word of a record costs that page and marks the one before', async () => {
		const data = (await stream()).slice();
		const sent = pagesOf(data);
		const bad = sent.findIndex(({ content }, i) => i > 5 && content.some((byte) => byte !== 0));
		const { from = 0, to = 0 } = sent[bad] ?? {};
		data[from + 6] = 0x01;
		data[from + 7] = 0xff;
		const result = await saved(data);
		expect(result.gaps).toMatchObject([{ from, to, section: 'ram', resumedAt: 'record', assumedBlock: 'pc.ram' }]);
		const state = stateOf(result);
		expect(sent.map((one) => state.get(keyOf(one)) ?? 'lost')).toEqual(
			sent.map((_, i) => (i < bad - 1 ? 'sure' : i === bad ? 'lost' : 'recovered')),
		);
		expect(result.missing.pages[1]).toMatchObject({ block: 'pc.ram', reason: 'never-received' });
		expect(result.missing.sections).toEqual([]);
	});

	it('of the footer of a device costs that device', async () => {
		const data = (await stream()).slice();
		const text = Buffer.from(data);
		const next = text.indexOf('0000:00:01.0/vga') - 6;
		expect(data[next]).toBe(4);
		data[next - 5] = 0x11;
		const result = await saved(data);
		expect(result.image.devices.map(({ section, recovered }) => [section.idstr, recovered])).toEqual([
			['0000:00:01.0/vga', true],
			['globalstate', true],
		]);
		expect(result.missing.sections).toMatchObject([{ idstr: 'timer' }, { idstr: 'timer' }]);
		expect(result.missing.pages).toEqual([]);
	});

	it('of a delta leaves its page marked, and the others as they are', async () => {
		const image = await opened(await stream());
		const { main } = await rewritten(image, { encoding: 'xbzrle' });
		const data = main.slice();
		const deltas: number[] = [];
		const reader = new StreamReader({
			dialect: 'qemu-7.2',
			handler: { encodedPage: (_kind, _block, _address, _data, at) => deltas.push(at.offset) },
		});
		reader.push(data);
		reader.end();
		data.fill(0xff, (deltas[4] ?? 0) + 11, (deltas[4] ?? 0) + 20);
		const result = await saved(data);
		expect(result.gaps.length).toBe(1);
		expect(result.image.end).toBeDefined();
		expect([...stateOf(result).values()].filter((state) => state === 'recovered').length).toBeGreaterThan(20);
	});
});

it('saves what is left of a stream that QEMU 7.2 wrote', async () => {
	const whole = readFileSync(new URL('../../../../apps/cvm/fixtures/qemu-7.2-pc-16m.qevm', import.meta.url));
	expect(await saved(whole)).toMatchObject({ complete: true, gaps: [] });
	const cut = await saved(whole.subarray(0, whole.length - 20_000));
	expect(cut.missing.sections.map(({ text }) => text)).toEqual(
		expect.arrayContaining(['the end of the stream', 'the description']),
	);
	const sent = pagesOf(whole);
	const { from = 0 } = sent[40] ?? {};
	const holed = await saved(Buffer.concat([whole.subarray(0, from + 30), whole.subarray(from + 9000)]));
	expect(holed.image.devices.length).toBe(29);
	expect(holed.gaps.length).toBeGreaterThan(0);
	expect(holed.image.end).toMatchObject({ description: true });
});

it('finds nothing in noise, and says so', async () => {
	const random = createRandom(1);
	const noise = Uint8Array.from({ length: 300_000 }, () => random() >> 3);
	const result = await saved(noise);
	expect(result.image.blocks).toEqual([]);
	expect(result.gaps).toMatchObject([{ from: 0, to: noise.length }]);
});
