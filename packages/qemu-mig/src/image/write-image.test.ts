import { readFileSync } from 'node:fs';
import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import type { Content } from '../../test/image-fixtures.js';
import { contentStream, opened, pieces, randomContent, rewritten } from '../../test/image-fixtures.js';
import { written } from '../../test/streams.js';
import type { StreamImage, WriteImageOptions } from '../image.js';
import { diffImages, openImage, PageKind, pageAt } from '../image.js';

const ENCODINGS: readonly [string, WriteImageOptions][] = [
	['raw pages', {}],
	['raw pages, every record named', { continued: false }],
	['raw pages in many parts', { partBytes: 5000 }],
	['raw pages, other block order', { blockOrder: ['rom2', 'pc.ram'] }],
	['XBZRLE', { encoding: 'xbzrle' }],
	['compressed pages', { encoding: 'zlib', level: 6 }],
	['multifd', { encoding: 'multifd' }],
	['multifd, one channel, zlib', { encoding: 'multifd', multifd: { channels: 1, compression: 'zlib' } }],
	['multifd, zstd', { encoding: 'multifd', multifd: { channels: 3, compression: 'zstd' } }],
	[
		'multifd of QEMU 9 with zero pages in packets',
		{ encoding: 'multifd', dialect: 'qemu-9', multifd: { zeroPages: true }, partBytes: 9000 },
	],
	['mapped-ram', { encoding: 'mapped-ram', dialect: 'qemu-9' }],
	['libvirt, raw', { libvirt: { xml: new Uint8Array([60, 97, 62]) } }],
	['libvirt, gzip', { libvirt: { xml: new Uint8Array([60, 97, 62]), format: 'gzip', running: true } }],
	['libvirt, zstd', { libvirt: { xml: new Uint8Array([60, 97, 62]), format: 'zstd' } }],
	['no description', { description: 'drop' }],
	['a new description', { description: 'generate' }],
];

/** Whether the image holds the content; comparing bytes with `toEqual` takes seconds. */
const holds = (image: StreamImage, content: Content): boolean =>
	content.blocks.every(({ idstr, pages }) => {
		const block = image.blocks.find((one) => one.idstr === idstr);
		return (
			block?.facts.pages === pages.length &&
			pages.every((page, i) => Buffer.compare(page, pageAt(image, block, i)) === 0)
		);
	});

describe.each(ENCODINGS)('an image written as %s', (_name, options) => {
	it.each([1, 2, 3])('is the same image again (content %i)', async (seed) => {
		const content = randomContent(seed * 7919, [140, 5, 1]);
		const image = await opened(await contentStream(content));
		const { inputs, result } = await rewritten(image, options);
		const again = await opened(inputs);
		expect(diffImages(image, again)).toMatchObject({ equal: true, differingPages: 0, devices: [], bodies: [] });
		// The comparison could be wrong in both directions: the pages themselves.
		expect(holds(again, content)).toBe(true);
		expect(result.channels.length).toBe(inputs.length - 1);
		expect(again.blocks.map(({ idstr }) => idstr).sort()).toEqual(image.blocks.map(({ idstr }) => idstr).sort());
	});
});

it('really uses the encoding asked for', async () => {
	const image = await opened(await contentStream(randomContent(5, [140])));
	const kinds = async (options: WriteImageOptions) => (await opened((await rewritten(image, options)).inputs)).counts;
	expect((await kinds({ encoding: 'xbzrle' })).xbzrle).toBeGreaterThan(50);
	expect((await kinds({ encoding: 'zlib' })).zlib).toBeGreaterThan(20);
	expect((await kinds({ encoding: 'multifd' })).multifd).toBeGreaterThan(50);
	expect((await kinds({ encoding: 'mapped-ram', dialect: 'qemu-9' })).mapped).toBeGreaterThan(50);
	const nine = await kinds({ encoding: 'multifd', dialect: 'qemu-9', multifd: { zeroPages: true } });
	expect(nine.multifdZero).toBeGreaterThan(10);
	expect(nine.zero).toBe(0);
});

describe('sealed pages', () => {
	const sealedImage = async (): Promise<StreamImage> =>
		opened(await contentStream(randomContent(11), true), { dialect: 'sev-v4' });

	it.each([{}, { encoding: 'zlib' }, { encoding: 'multifd' }, { encoding: 'xbzrle' }] as const)(
		'go unchanged with %o',
		async (options) => {
			const image = await sealedImage();
			const again = await opened((await rewritten(image, options)).inputs, { dialect: 'sev-v4' });
			expect(diffImages(image, again).equal).toBe(true);
			expect(again.session).toEqual(image.session);
			expect(again.pageStatus).toMatchObject({ regions: [{ gfnStart: 1, gfnEnd: 3 }] });
			expect(again.counts.encrypted).toBe(6);
		},
	);

	it('go to another dialect of the same firmware, with their list', async () => {
		const image = await sealedImage();
		const { inputs } = await rewritten(image, { dialect: 'sev-list' });
		const again = await opened(inputs, { dialect: 'sev-list' });
		expect(again.pageStatus).toMatchObject({ kind: 'host-regions', list: { regions: [{ gfnStart: 1n, gfnEnd: 3n }] } });
		const back = await opened((await rewritten(again, { dialect: 'sev-v4' })).inputs, { dialect: 'sev-v4' });
		expect(back.pageStatus).toMatchObject({ kind: 'regions', regions: [{ gfnStart: 1, gfnEnd: 3 }] });
		expect(diffImages(image, back).equal).toBe(true);
	});

	it('are refused where there is no form for them', async () => {
		const image = await sealedImage();
		const plain = rewritten(image, { dialect: 'qemu-7.2' });
		await expect(plain).rejects.toMatchObject({ name: 'ImageError', code: 'encrypted' });
		await expect(rewritten(image, { encoding: 'mapped-ram' })).rejects.toMatchObject({ code: 'encrypted' });
		await expect(rewritten(image, { dialect: 'sev-v1' })).rejects.toMatchObject({ code: 'dialect' });
	});
});

describe('what cannot be written', () => {
	it('is refused before anything is', async () => {
		const data = await contentStream(randomContent(3));
		const facts = await openImage(data);
		await expect(rewritten(facts, {})).rejects.toMatchObject({ code: 'store' });
		const image = await opened(data);
		await expect(rewritten(image, { blockOrder: ['nix'] })).rejects.toMatchObject({ code: 'argument' });
		await expect(
			rewritten(image, { libvirt: { xml: new Uint8Array(1).fill(65), format: 'sparse' } }),
		).rejects.toMatchObject({
			code: 'unsupported',
		});
	});

	it('is a page that never came, unless that is wanted', async () => {
		const content = randomContent(3);
		const less = { ...content, blocks: content.blocks.map((b) => ({ ...b, pages: b.pages.slice(0, -1) })) };
		const { writeBeginning, writeEnding } = await import('../../test/image-fixtures.js');
		const { ramPart } = await import('../../test/streams.js');
		const data = await written((writer) => {
			writeBeginning(writer, content);
			writer.sectionBegin(ramPart);
			for (const { idstr, pages } of less.blocks) {
				for (const [i, one] of pages.entries()) writer.rawPage(idstr, i * PAGE_SIZE, one);
			}
			writer.endOfRecords();
			writer.sectionEnd(ramPart);
			writeEnding(writer, content);
		});
		const image = await opened(data);
		await expect(rewritten(image, {})).rejects.toMatchObject({ code: 'missing-pages' });
		const zero = await opened((await rewritten(image, { missing: 'zero' })).inputs);
		expect(zero.blocks[0]?.facts.kindAt(8)).toBe(PageKind.zero);
		const omitted = await opened((await rewritten(image, { missing: 'omit' })).inputs);
		expect(omitted.blocks[0]?.facts.kindAt(8)).toBe(PageKind.unsent);
		expect(diffImages(zero, omitted).pages.map(({ reason }) => reason)).toEqual(['missing', 'missing', 'missing']);
	});
});

it('reads small chunks of a source that reuses them', async () => {
	const content = randomContent(9, [20, 3]);
	const data = await contentStream(content);
	for (const size of [1, 7, 4096, 65536]) {
		const image = await opened(pieces(data, size));
		expect(holds(image, content)).toBe(true);
	}
});

it('rewrites what QEMU 7.2 wrote of a PC', async () => {
	const data = readFileSync(new URL('../../../../apps/cvm/fixtures/qemu-7.2-pc-16m.qevm', import.meta.url));
	const image = await opened(data);
	expect(image.blocks[0]).toMatchObject({ idstr: 'pc.ram', usedLength: 2 ** 24 });
	expect(image.devices.length).toBe(29);
	for (const options of [{}, { encoding: 'xbzrle' }, { encoding: 'zlib' }, { encoding: 'multifd' }] as const) {
		const again = await opened((await rewritten(image, options)).inputs);
		expect(diffImages(image, again).equal).toBe(true);
		expect(Buffer.from(again.description?.json ?? []).equals(image.description?.json ?? Buffer.of(1))).toBe(true);
	}
});
