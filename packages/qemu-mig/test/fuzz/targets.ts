import { PAGE_SIZE } from '@cvm/layout';
import type { ImageInput, WriteImageOptions } from '../../src/image.js';
import {
	bytesSource,
	createMemoryStore,
	devicesJson,
	diffImages,
	elfCore,
	openImage,
	salvage,
	verifyStream,
} from '../../src/image.js';
import {
	createLoader,
	createRelay,
	decodeReturn,
	decodeXbzrle,
	deviceLengths,
	deviceToJson,
	diffDevices,
	inflatePage,
	parseVmDescription,
	ReturnPathReader,
	readStream,
	StreamReader,
	StreamWriter,
	walkDevice,
	ZstdDecoder,
} from '../../src/index.js';
import { createCollectingSink, createFakeTarget } from '../../src/testing.js';
import { rewritten } from '../image-fixtures.js';
import type { Dice } from './damage.js';
import { damaged } from './damage.js';
import type { Seed } from './seeds.js';
import { devicesOfFixture, returnSeed, watching, zstdSeeds } from './seeds.js';

/** One damaged migration. */
export interface FuzzCase {
	readonly seed: Seed;
	readonly inputs: readonly Uint8Array[];
	readonly dice: Dice;
}

/** Page contents a case may make anyone keep. */
const STORE_LIMIT = 16 * 2 ** 20;
const RAM_LIMIT = 2 ** 40;

function* cut(data: Uint8Array, size: number): Generator<Uint8Array> {
	for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

const CHUNKS = [61, 4096, 100_000, 2 ** 30];
const main = ({ inputs }: FuzzCase): Uint8Array => inputs[0] ?? new Uint8Array(0);

function sources({ inputs, dice, seed }: FuzzCase): ImageInput[] {
	const size = dice.oneOf(CHUNKS);
	return inputs.map((data, i) => ({
		source: cut(data, size),
		...(dice.below(2) === 0 && !seed.name.startsWith('libvirt') && { kind: i === 0 ? 'migration' : 'multifd' }),
	}));
}

/** Throws if there are more events than bytes: the parser would be going round in circles. */
function counted(limit: number): () => void {
	let steps = 0;
	return () => {
		steps += 1;
		if (steps > limit) throw new Error(`more than ${limit} events`);
	};
}

/** Absent pages of mapped-ram take no bytes: eight per byte of bitmap. */
const EVENTS_PER_BYTE = 9;

function readWith(c: FuzzCase, writer?: StreamWriter): void {
	const { dice, seed } = c;
	const data = main(c);
	const step = counted(EVENTS_PER_BYTE * data.length + 100);
	const relay = writer && createRelay(writer);
	const reader = new StreamReader({
		dialect: seed.dialect,
		handler: relay ?? watching(step),
		check: dice.oneOf(['syntax', 'target']),
		compress: dice.below(4) > 0,
	});
	for (const piece of cut(data, dice.oneOf(CHUNKS))) reader.push(piece);
	reader.end();
}

const ENCODINGS: readonly WriteImageOptions[] = [
	{ missing: 'omit' },
	{ encoding: 'xbzrle', missing: 'zero' },
	{ encoding: 'zlib', missing: 'omit' },
	{ encoding: 'multifd', missing: 'zero', multifd: { compression: 'zlib' } },
	{ encoding: 'mapped-ram', missing: 'omit' },
	{},
];

/** Used length of the blocks of an image at most that is written again: hostile lengths make terabytes of zeros. */
const REWRITE_LIMIT = 64 * PAGE_SIZE;

async function image(c: FuzzCase): Promise<void> {
	const store = createMemoryStore({ limit: STORE_LIMIT });
	const dialect = c.dice.oneOf([c.seed.dialect, 'auto'] as const);
	const opened = await openImage(sources(c), { store, dialect, ramLimit: RAM_LIMIT });
	devicesJson(opened);
	const bytes = opened.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0);
	if (bytes > REWRITE_LIMIT) return;
	if (!diffImages(opened, opened).equal && opened.counts.encrypted === 0)
		throw new Error('an image differs from itself');
	for (const _run of elfCore(opened, { missing: 'zero' }).pieces());
	await rewritten(opened, c.dice.oneOf(ENCODINGS));
}

function load(c: FuzzCase): void {
	const sizes = Object.entries({ 'pc.ram': 6, rom1: 2, rom2: 1 });
	const blocks = sizes.map(([idstr, pages]) => ({ idstr, usedLength: pages * PAGE_SIZE, pageSize: PAGE_SIZE }));
	const target = createFakeTarget(blocks);
	const loader = createLoader({
		sink: target,
		dialect: c.seed.dialect,
		machineType: 'pc-i440fx-7.2',
		device: () => 'loaded',
		finish: () => {},
		compress: true,
		...(c.seed.name === 'mapped' && { mappedRam: true }),
	});
	for (const piece of cut(main(c), c.dice.oneOf(CHUNKS))) loader.push(piece);
	loader.end();
}

/** Page deltas, deflated pages and a Zstandard stream, each from damaged bytes. */
function codecs({ dice, inputs }: FuzzCase): void {
	const noise = inputs[0] ?? new Uint8Array(0);
	const page = new Uint8Array(PAGE_SIZE);
	const start = dice.below(noise.length);
	const kind = dice.below(4);
	if (kind === 0) decodeXbzrle(noise.subarray(start, start + dice.below(200)), page);
	else if (kind === 1) inflatePage(Buffer.concat([Buffer.of(0x78, 0x01), noise.subarray(start, start + 900)]), page);
	else {
		const decoder = new ZstdDecoder(() => {});
		for (const piece of cut(damaged(dice, dice.oneOf(zstdSeeds), [0], noise).data, dice.oneOf(CHUNKS)))
			decoder.push(piece);
	}
}

function returnPath({ dice, inputs }: FuzzCase): void {
	const bad = damaged(dice, returnSeed(), [0, 4], inputs[0] ?? new Uint8Array(1)).data;
	const reader = new ReturnPathReader((type, data, bitmap) => void decodeReturn(type, data, bitmap), {
		bitmaps: dice.below(2) === 0,
		helperMessages: dice.below(2) === 0,
	});
	for (const piece of cut(bad, dice.oneOf(CHUNKS))) reader.push(piece);
	reader.end();
}

/** The description, damaged in its text. */
function description({ dice, seed, inputs }: FuzzCase): void {
	const text = (data: Uint8Array): Uint8Array => {
		const from = data.lastIndexOf(0x06);
		const json = data.indexOf(0x7b, from);
		return json < 0 ? data.subarray(-200) : data.subarray(json);
	};
	const whole = text(seed.inputs[0] ?? new Uint8Array(0));
	if (whole.length === 0) return;
	deviceLengths(parseVmDescription(damaged(dice, whole, [], inputs[0] ?? whole).data));
}

/** The fixture's devices: how each is described, and its bytes. */
const DEVICES = devicesOfFixture();

/** The body of a device of QEMU's, damaged, read by its description; and by that of any other device. */
async function deviceState({ dice, inputs }: FuzzCase): Promise<void> {
	const all = await DEVICES;
	const seed = dice.oneOf(all);
	const { body, version } = seed;
	const layout = (dice.below(4) === 0 ? dice.oneOf(all) : seed).description;
	const bad = damaged(dice, body.length === 0 ? new Uint8Array(1) : body, [0], inputs[0] ?? body).data;
	const tree = walkDevice(layout, bad, { version: dice.below(4) === 0 ? dice.below(20) : version });
	deviceToJson(tree);
	if (diffDevices(tree, tree).length > 0) throw new Error('a device differs from itself');
}

/** Everything that takes bytes of others. What each throws must be a typed error. */
export const TARGETS: Readonly<Record<string, (c: FuzzCase) => void | Promise<void>>> = {
	reader: (c) => readWith(c),
	/** What is read at all is written again byte for byte. */
	relay: async (c) => {
		const sink = createCollectingSink();
		const writer = new StreamWriter(sink);
		readWith(c, writer);
		await writer.flush();
		if (Buffer.compare(sink.bytes(), main(c)) !== 0) throw new Error('read without error, but written differently');
	},
	pull: async (c) => {
		const step = counted(EVENTS_PER_BYTE * main(c).length + 100);
		for await (const _event of readStream(cut(main(c), c.dice.oneOf(CHUNKS)), { dialect: 'auto' })) step();
	},
	/** Whatever follows some record, as if it came on the channel of urgent pages. */
	urgent: (c) => {
		const data = main(c).subarray(c.seed.marks.length === 0 ? 0 : c.dice.oneOf(c.seed.marks));
		const handler = watching(counted(EVENTS_PER_BYTE * data.length + 100));
		const reader = new StreamReader({ dialect: c.seed.dialect, stream: 'preempt', handler });
		for (const piece of cut(data, c.dice.oneOf(CHUNKS))) reader.push(piece);
		reader.end();
	},
	image,
	/** It reports, and never throws. */
	verify: async (c) => {
		const as = c.dice.oneOf([undefined, c.seed.dialect]);
		try {
			await verifyStream(sources(c), { ...(as && { as }), ramLimit: RAM_LIMIT });
		} catch (error) {
			throw new Error(`verify threw ${String(error)}`, { cause: error });
		}
	},
	salvage: async (c) => {
		const store = createMemoryStore({ limit: STORE_LIMIT });
		const channels = c.inputs.slice(1).map((source) => ({ source }));
		await salvage(bytesSource(main(c)), { store, channels, ramLimit: RAM_LIMIT, gapLimit: 100 });
	},
	load,
	codecs,
	returnPath,
	description,
	deviceState,
};
