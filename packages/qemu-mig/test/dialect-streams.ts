import { PAGE_SIZE } from '@cvm/layout';
import { fc } from '@fast-check/vitest';
import type { Configuration, Dialect, StreamBlock, StreamWriter } from '../src/index.js';
import { Command } from '../src/index.js';
import { TOY_PREFIX } from '../src/testing.js';
import { device, page, ramEnd, ramPart, ramStart, written } from './streams.js';

/** What of a stream's past decides which records are legal. */
interface Progress {
	/** A block was named: CONTINUE is legal. */
	named: boolean;
	/** The session prefix went with a page. */
	session: boolean;
}

type Step = (writer: StreamWriter, progress: Progress) => void;

export const ALL_DIALECTS: readonly Dialect[] = [
	'qemu-7.2',
	'qemu-9',
	'sev-v1',
	'sev-list',
	'sev-v4',
	'mh-v1',
	'mh-v2',
];

const blockName = fc.constantFrom('pc.ram', '/rom@etc/acpi/tables', 'x'.repeat(255), '\u0000\u00ff');
const address = fc.integer({ min: 0, max: 2 ** 30 }).map((number) => number * PAGE_SIZE);
const wide = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const bytes = (maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength });

/** `write` with a block, an address and a legal CONTINUE. */
const record = <T>(
	content: fc.Arbitrary<T>,
	write: (
		writer: StreamWriter,
		block: string,
		at: number,
		content: T,
		cont: boolean | undefined,
		progress: Progress,
	) => void,
): fc.Arbitrary<Step> =>
	fc
		.tuple(content, blockName, address, fc.constantFrom(undefined, false, true))
		.map(([what, block, at, continued]) => (writer, progress) => {
			const legal = progress.named ? continued : continued && undefined;
			progress.named = true;
			write(writer, block, at, what, legal, progress);
		});

const plain: fc.Arbitrary<Step>[] = [
	record(fc.nat(255), (w, block, at, fill, cont) => w.zeroPage(block, at, fill, cont)),
	record(fc.nat(255), (w, block, at, fill, cont) => w.rawPage(block, at, page(fill), cont)),
	record(bytes(4096), (w, block, at, data, cont) => w.encodedPage('xbzrle', block, at, data, cont)),
	record(bytes(4110), (w, block, at, data, cont) => w.encodedPage('zlib', block, at, data, cont)),
];

const flush: fc.Arbitrary<Step> = fc.tuple(address, fc.boolean()).map(
	([at, continued]) =>
		(w) =>
			w.multifdFlush(at, continued),
);

const sealed = record(fc.tuple(bytes(300), bytes(300)), (w, block, at, [header, payload], cont, progress) => {
	w.encryptedPage(block, at, header, payload, progress.session ? undefined : TOY_PREFIX, cont);
	progress.session = true;
});

const helper = (subtype: 4 | undefined): fc.Arbitrary<Step> =>
	record(bytes(1024), (w, block, at, header, cont) => w.migrationHelperPage(block, at, header, page(1), subtype, cont));

const bitmapSlot = fc.tuple(u32, wide, fc.integer({ min: 0, max: 500 })).map(([word, startGpa, pages]) => ({
	word: word === 2 ? 1 : word,
	startGpa,
	pages: BigInt(pages),
	bitmap: new Uint8Array(Math.ceil(pages / 64) * 8).fill(0x5a),
}));
const bitmap = record(fc.array(bitmapSlot, { maxLength: 3 }), (w, block, at, slots, cont) =>
	w.encryptedBitmap(block, at, slots, cont),
);

const hostRegion = fc.tuple(wide, wide).map(([gfnStart, gfnEnd]) => ({ gfnStart, gfnEnd }));
const hostList = fc.oneof(
	fc
		.tuple(fc.array(hostRegion, { maxLength: 4 }), u32)
		.map(([regions, end]) => ({ start: 1, regions, end: end as number | undefined })),
	fc.constantFrom(0, 2, 7).map((start) => ({ start, regions: [], end: undefined })),
);
const hostRegions = record(hostList, (w, block, at, list, cont) => w.hostRegions(block, at, list, cont));

const region = fc.tuple(u32, u32).map(([gfnStart, gfnEnd]) => ({ gfnStart, gfnEnd }));
const regions = record(
	fc.tuple(fc.array(region, { maxLength: 4 }), fc.constantFrom(0, 2, 0xffffffff)),
	(w, block, at, [list, end], cont) => w.sharedRegions(block, at, list, end, cont),
);

const RECORDS: Readonly<Record<Dialect, readonly fc.Arbitrary<Step>[]>> = {
	'qemu-7.2': plain,
	'qemu-9': [...plain, flush],
	'sev-v1': [...plain, sealed, bitmap],
	'sev-list': [...plain, sealed, hostRegions],
	'sev-v4': [...plain, sealed, regions],
	'mh-v1': [...plain, helper(undefined)],
	'mh-v2': [...plain, sealed, regions, helper(4)],
};

const ramSection = (dialect: Dialect): fc.Arbitrary<Step> =>
	fc
		.tuple(fc.boolean(), fc.array(fc.oneof(...RECORDS[dialect]), { maxLength: 6 }), fc.boolean())
		.map(([last, records, oddEos]) => (writer, progress) => {
			const section = last ? ramEnd : ramPart;
			writer.sectionBegin(section);
			for (const one of records) one(writer, progress);
			writer.endOfRecords(oddEos ? 0x5000 : 0, oddEos);
			writer.sectionEnd(section);
		});

const range = fc.tuple(wide, wide).map(([start, length]) => ({ start, length }));
const commandStep: fc.Arbitrary<Step> = fc.oneof(
	fc.tuple(fc.constantFrom(1, 2, 4, 5, 8, 9, 10, 11, Command.helperMessage), bytes(20)).map(
		([command, data]): Step =>
			(w) =>
				w.command(command, data),
	),
	fc
		.tuple(
			blockName.filter((name) => name.length > 0),
			fc.array(range, { minLength: 1, maxLength: 12 }),
		)
		.map(
			([block, list]): Step =>
				(w) =>
					w.ramDiscard(block, list),
		),
);

const deviceStep: fc.Arbitrary<Step> = fc
	.tuple(fc.integer({ min: 3, max: 2 ** 32 - 1 }), fc.constantFrom('timer', '0000:00:1f.2/ich9_ahci'), bytes(300))
	.map(([id, idstr, body]) => (writer) => {
		writer.sectionBegin(device(id, idstr));
		writer.opaqueBody(body);
		writer.sectionEnd(device(id, idstr));
	});

/** Bytes of what `write` writes, at once: a package needs its length before its contents. */
export async function packageOf(write: (writer: StreamWriter) => void): Promise<(writer: StreamWriter) => void> {
	const contents = await written(write);
	return (writer) => {
		writer.packaged(contents.length);
		writer.opaqueBody(contents);
	};
}

const packaged = fc.array(deviceStep, { maxLength: 3 }).map((devices) =>
	packageOf((writer) => {
		writer.command(Command.postcopyListen, new Uint8Array(0));
		for (const step of devices) step(writer, { named: false, session: false });
		writer.command(Command.ping, Uint8Array.of(0, 0, 0, 3));
		writer.command(Command.postcopyRun, new Uint8Array(0));
	}),
);

const capabilities = (names: readonly string[]): Configuration['subsections'] => {
	const text = names.map((name) => String.fromCharCode(name.length) + name).join('');
	const data = Uint8Array.of(0, 0, 0, names.length, ...new TextEncoder().encode(text));
	return names.length === 0 ? [] : [{ name: 'configuration/capabilities', version: 1, data }];
};

const blockEntry = fc.tuple(blockName, fc.constantFrom(undefined, 2 ** 21, 2 ** 30), wide);

/** A stream of every kind of element the dialect has, with or without addresses and page sizes in its block list. */
export const dialectStream = (dialect: Dialect): fc.Arbitrary<Promise<Uint8Array>> =>
	fc
		.tuple(
			fc.constantFrom('none', 'pc-q35-7.2', ''),
			fc.constantFrom('plain', 'addresses', 'page sizes'),
			fc.array(blockEntry, { maxLength: 3 }),
			fc.array(fc.oneof(ramSection(dialect), commandStep, deviceStep), { maxLength: 6 }),
			fc.option(packaged),
			fc.array(ramSection(dialect), { maxLength: 2 }),
			fc.option(fc.string({ maxLength: 20 }).map((text) => `{${text}`)),
		)
		.map(async ([machineType, form, entries, steps, bundle, postcopy, json]) => {
			const place = await bundle;
			return written((writer) => {
				writer.header();
				const subsections = capabilities(form === 'addresses' ? ['x-ignore-shared'] : []);
				writer.configuration({ machineType, subsections });
				if (form === 'page sizes') {
					const advise = new DataView(new ArrayBuffer(16));
					advise.setBigUint64(0, 0x40201000n);
					advise.setBigUint64(8, 0x1000n);
					writer.command(Command.postcopyAdvise, new Uint8Array(advise.buffer));
				}
				writer.sectionBegin(ramStart);
				const blocks = entries.map(
					([idstr, pageSize, at], i): StreamBlock => ({
						idstr,
						usedLength: (i + 1) * PAGE_SIZE,
						...(form === 'page sizes' && pageSize !== undefined ? { pageSize } : {}),
						...(form === 'addresses' ? { address: at } : {}),
					}),
				);
				writer.blockList(blocks);
				writer.endOfRecords();
				writer.sectionEnd(ramStart);
				const progress: Progress = { named: false, session: false };
				for (const step of steps) step(writer, progress);
				place?.(writer);
				for (const step of postcopy) step(writer, progress);
				writer.eof();
				if (json !== null) writer.vmDescription(new TextEncoder().encode(json));
			});
		});

/** A mapped-ram stream whose blocks have 1 to 70 pages, which begins `base` bytes into its file. */
export async function mappedStream(sizes: readonly number[], base = 0, align = 0x2000): Promise<Uint8Array> {
	const out: Uint8Array[] = [];
	let position = 0;
	const append = async (write: (writer: StreamWriter) => void): Promise<void> => {
		const part = await written(write);
		out.push(part);
		position += part.length;
	};
	const total = sizes.reduce((sum, pages) => sum + pages * PAGE_SIZE, 0);
	await append((w) => {
		w.header();
		w.configuration({ machineType: 'pc-q35-9.0', subsections: capabilities(['mapped-ram']) });
		w.sectionBegin(ramStart);
		if (total === 0) w.blockList([]);
		else w.mappedListBegin(total);
	});
	for (const [index, pages] of sizes.entries()) {
		const present = new Uint8Array(Math.ceil(pages / 64) * 8).fill(0xa5);
		const idstr = `ram${index}`;
		const bitmapOffset = base + position + 1 + idstr.length + 8 + 28;
		const pagesOffset = Math.ceil((bitmapOffset + present.length) / align) * align;
		const offsets = { bitmapOffset: BigInt(bitmapOffset), pagesOffset: BigInt(pagesOffset) };
		await append((w) => {
			const mapped = { version: 1, pageSize: 4096n, ...offsets };
			w.mappedBlock({ idstr, usedLength: pages * PAGE_SIZE, mapped }, present);
			w.mappedGap(new Uint8Array(pagesOffset - bitmapOffset - present.length));
			for (let i = 0; i < pages; i++) w.mappedPage(page(i));
		});
	}
	await append((w) => {
		w.endOfRecords();
		w.sectionEnd(ramStart);
		w.sectionBegin(ramEnd);
		w.endOfRecords();
		w.sectionEnd(ramEnd);
		w.eof();
		w.vmDescription(new TextEncoder().encode('{"configuration": {}, "page_size": 4096, "devices": []}'));
	});
	return Uint8Array.from(Buffer.concat(out));
}
