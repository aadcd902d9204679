import { readFileSync } from 'node:fs';
import { fc } from '@fast-check/vitest';
import type { WriteImageOptions } from '../../src/image.js';
import { openImage } from '../../src/image.js';
import type { DeviceDescription, Dialect, StreamHandler } from '../../src/index.js';
import { createRelay, encodeReturn, findDevice, StreamReader, StreamWriter } from '../../src/index.js';
import { createCollectingSink } from '../../src/testing.js';
import { ALL_DIALECTS, dialectStream, mappedStream } from '../dialect-streams.js';
import { contentStream, opened, randomContent, rewritten } from '../image-fixtures.js';
import { smallStream } from '../streams.js';
import { ZSTD_PACKETS } from '../zstd-vectors.js';

/** Inputs that go together and are read without error as they are. */
export interface Seed {
	readonly name: string;
	readonly dialect: Dialect;
	/** The main stream first, then channels. */
	readonly inputs: readonly Uint8Array[];
	/** Offsets in the main stream at which an element or record begins: damage there meets lengths and flags. */
	readonly marks: readonly number[];
}

const FIXTURE = new URL('../../../../apps/cvm/fixtures/qemu-7.2-pc-16m.qevm', import.meta.url);
/** Pages of each kind that are left of the fixture. */
const PAGES_KEPT = 6;

/** QEMU's stream of a PC, with all of its devices and a few of its pages. */
async function shortFixture(): Promise<Uint8Array> {
	const sink = createCollectingSink();
	const writer = new StreamWriter(sink);
	const relay = createRelay(writer);
	let [raw, zero] = [0, 0];
	const handler: StreamHandler = {
		...relay,
		rawPage: (block, address, page, at) => {
			if (raw++ < PAGES_KEPT) relay.rawPage?.(block, address, page, at);
		},
		zeroPage: (block, address, fill, at) => {
			if (zero++ < PAGES_KEPT) relay.zeroPage?.(block, address, fill, at);
		},
	};
	const reader = new StreamReader({ dialect: 'qemu-7.2', handler });
	reader.push(readFileSync(FIXTURE));
	reader.end();
	await writer.flush();
	return sink.bytes();
}

/** A device of QEMU's stream of a PC. */
export interface DeviceSeed {
	readonly description: DeviceDescription;
	readonly body: Uint8Array;
	readonly version: number;
}

export async function devicesOfFixture(): Promise<DeviceSeed[]> {
	const { devices, description } = await openImage(await shortFixture());
	const parsed = description?.parsed;
	return devices.flatMap(({ section, body }) => {
		const found = parsed && findDevice(parsed, section.idstr, section.instanceId);
		return found === undefined ? [] : [{ description: found, body, version: section.version }];
	});
}

/** Tells `seen` the name and offset of each event. */
export const watching = (seen: (name: string, offset: number) => void): StreamHandler =>
	new Proxy<StreamHandler>(
		{},
		{
			get:
				(_, name) =>
				(...values: readonly unknown[]) => {
					const at = values.find((value) => typeof value === 'object' && value !== null && 'inBody' in value);
					seen(String(name), (at as { offset: number } | undefined)?.offset ?? 0);
				},
		},
	);

function marksOf(stream: Uint8Array, dialect: Dialect): number[] {
	const marks = new Set<number>();
	const reader = new StreamReader({ dialect, handler: watching((_name, offset) => marks.add(offset)) });
	try {
		reader.push(stream);
	} catch {
		// A libvirt header in front: its beginning is the mark.
		marks.add(0);
	}
	return [...marks];
}

const seed = (name: string, dialect: Dialect, inputs: readonly Uint8Array[]): Seed => ({
	name,
	dialect,
	inputs,
	marks: marksOf(inputs[0] ?? new Uint8Array(0), dialect),
});

const xml = new Uint8Array([60, 97, 62]);
const ENCODINGS: readonly [name: string, options: WriteImageOptions][] = [
	['raw', {}],
	['named', { continued: false, partBytes: 5000 }],
	['xbzrle', { encoding: 'xbzrle' }],
	['zlib', { encoding: 'zlib' }],
	['multifd', { encoding: 'multifd' }],
	['multifd zlib', { encoding: 'multifd', multifd: { compression: 'zlib' } }],
	['multifd zstd', { encoding: 'multifd', multifd: { channels: 1, compression: 'zstd' } }],
	['multifd zero', { encoding: 'multifd', dialect: 'qemu-9', multifd: { zeroPages: true }, partBytes: 9000 }],
	['mapped', { encoding: 'mapped-ram', dialect: 'qemu-9' }],
	['libvirt', { libvirt: { xml } }],
	['libvirt gzip', { libvirt: { xml, format: 'gzip' } }],
	['libvirt zstd', { libvirt: { xml, format: 'zstd' } }],
];

/** Streams of every dialect and encoding, of QEMU and of our own; the same each time. */
export async function fuzzSeeds(): Promise<Seed[]> {
	const seeds = [seed('fixture', 'qemu-7.2', [await shortFixture()]), seed('small', 'sev-v4', [await smallStream()])];
	for (const dialect of ALL_DIALECTS) {
		for (const [i, made] of fc.sample(dialectStream(dialect), { seed: 6, numRuns: 6 }).entries()) {
			seeds.push(seed(`${dialect} ${i}`, dialect, [await made]));
		}
	}
	seeds.push(seed('mapped blocks', 'qemu-9', [await mappedStream([3, 1])]));
	seeds.push(seed('sealed', 'sev-v4', [await contentStream(randomContent(3, [4, 1]), true)]));
	const image = await opened(await contentStream(randomContent(5, [6, 2, 1])));
	for (const [name, options] of ENCODINGS) {
		const { inputs } = await rewritten(image, options);
		seeds.push(
			seed(
				name,
				options.dialect ?? 'qemu-7.2',
				inputs.map(({ source }) => source as Uint8Array),
			),
		);
	}
	return seeds;
}

/** The reverse direction: a message of each type. */
export const returnSeed = (): Uint8Array =>
	Buffer.concat([
		encodeReturn({ type: 2, value: 1 }),
		encodeReturn({ type: 3, start: 0n, length: 4096, block: 'pc.ram' }),
		encodeReturn({ type: 4, start: 8192n, length: 4096 }),
		encodeReturn({ type: 5, block: 'pc.ram', bitmap: new Uint8Array(16).fill(0x5a) }),
		encodeReturn({ type: 6, value: 1 }),
		encodeReturn({ type: 7 }),
		encodeReturn({ type: 0x4357, message: new Uint8Array(40).fill(0xa5) }),
		encodeReturn({ type: 1, value: 0 }),
	]);

/** A channel's Zstandard stream, by libzstd. */
export const zstdSeeds: readonly Uint8Array[] = Object.values(ZSTD_PACKETS).map((packets) =>
	Buffer.concat(packets.map((text) => Buffer.from(text, 'base64'))),
);
