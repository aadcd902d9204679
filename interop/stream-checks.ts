import { join } from 'node:path';
import { createRelay, StreamReader, StreamWriter } from '@cvm/qemu-mig';
import type { ImageInput, StreamImage, WriteImageOptions } from '@cvm/qemu-mig/image';
import { dense, rawBlock, verifyStream, writeImage } from '@cvm/qemu-mig/image';
import { expect } from 'vitest';
import { temporaryFolder } from './programs.js';
import type { Settings } from './qemu-runs.js';
import { memoryAfter, writeFirmware } from './qemu-runs.js';

export const MIB = 2 ** 20;
export const folder = temporaryFolder();
export const firmware = join(folder, 'firmware.bin');
writeFirmware(firmware);

export const pc = (...more: string[]): string[] => [
	'-machine',
	'pc',
	'-nodefaults',
	'-global',
	'apic.vapic=off',
	...more,
];
export const bios = ['-bios', firmware];
export const multifd = (compression: string): Settings => ({
	capabilities: ['multifd'],
	parameters: { 'multifd-channels': 2, 'multifd-compression': compression },
});

export interface Encoding {
	readonly name: string;
	readonly options: WriteImageOptions;
	readonly settings: Settings;
}

const ENCODINGS: readonly Encoding[] = [
	{ name: 'raw', options: { partBytes: MIB }, settings: {} },
	{ name: 'xbzrle', options: { encoding: 'xbzrle' }, settings: { capabilities: ['xbzrle'] } },
	{ name: 'zlib', options: { encoding: 'zlib' }, settings: { capabilities: ['compress'] } },
	...(['none', 'zlib', 'zstd'] as const).map((compression) => ({
		name: `multifd ${compression}`,
		options: { encoding: 'multifd' as const, multifd: { channels: 2, compression } },
		settings: multifd(compression),
	})),
];

/** Three encodings other than the case's own, different ones for each. */
export const otherWays = (index: number, own: string): Encoding[] => {
	const others = ENCODINGS.filter(({ name }) => name !== own);
	return [0, 2, 3].map((step) => others[(index + step) % others.length] as Encoding);
};

export const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Reads a stream to its last byte and writes its events again. */
export async function relayed(stream: Uint8Array): Promise<Uint8Array> {
	const out: Uint8Array[] = [];
	const writer = new StreamWriter({ write: (chunk) => void out.push(chunk.slice()) });
	const reader = new StreamReader({ dialect: 'qemu-7.2', handler: createRelay(writer) });
	for (let at = 0; at < stream.length; at += 65_521) reader.push(stream.subarray(at, at + 65_521));
	reader.end();
	await writer.flush();
	return Buffer.concat(out);
}

/** As {@link relayed}, of a stream that was cut and of the one that continues it. @returns both, the first up to its last whole element */
export async function relayedPieces(cut: Uint8Array, rest: Uint8Array): Promise<readonly [Uint8Array, Uint8Array]> {
	const outs: Uint8Array[][] = [[], []];
	const writers = outs.map((out) => new StreamWriter({ write: (chunk) => void out.push(chunk.slice()) }));
	const [before, after] = writers.map((writer) => createRelay(writer));
	if (before === undefined || after === undefined) throw new Error('two relays');
	const first = new StreamReader({ dialect: 'qemu-7.2', handler: before });
	first.push(cut);
	expect(() => first.end()).toThrow(/expected/);
	const { resumeState } = first;
	const second = new StreamReader({ dialect: 'qemu-7.2', handler: after, stream: 'recovery', resume: resumeState });
	second.push(rest);
	second.end();
	for (const writer of writers) await writer.flush();
	return [Buffer.concat(outs[0] ?? []), Buffer.concat(outs[1] ?? [])];
}

/** No error is found, nor would a QEMU 7.2 find one. */
export async function expectVerified(inputs: readonly Uint8Array[], compress: boolean): Promise<void> {
	const list = inputs.map((source): ImageInput => ({ source }));
	for (const options of [{}, { as: 'qemu-7.2', compress } as const]) {
		const { findings, complete } = await verifyStream(list, options);
		expect(findings.filter(({ severity }) => severity === 'error')).toEqual([]);
		expect(complete).toBe(true);
	}
}

/** Adapter memory and ROMs, which `pmemsave` shows in place of RAM. */
const HOLE = [0xa0000, 0x100000] as const;

/** Whether the main memory of the image is what `pmemsave` gave. */
export function expectMemory(image: StreamImage, memory: Uint8Array): void {
	const block = image.blocks.find(({ idstr }) => /^(pc|microvm)?\.?ram$/.test(idstr));
	if (block === undefined) throw new Error(`no RAM among ${image.blocks.map(({ idstr }) => idstr)}`);
	const ram = Buffer.concat(Array.from(dense(rawBlock(image, block.idstr)), (chunk) => chunk.slice()));
	expect(ram.length).toBe(memory.length);
	expect(same(ram.subarray(0, HOLE[0]), memory.subarray(0, HOLE[0])), 'low memory').toBe(true);
	expect(same(ram.subarray(HOLE[1]), memory.subarray(HOLE[1])), 'memory from 1 MiB on').toBe(true);
}

/** The image in an encoding: the stream and its channels. */
async function encoded(image: StreamImage, options: WriteImageOptions): Promise<Uint8Array[]> {
	const streams: Uint8Array[][] = [[]];
	await writeImage(
		image,
		{
			main: { write: (chunk) => void streams[0]?.push(chunk.slice()) },
			channel: (index) => {
				const chunks: Uint8Array[] = [];
				streams[1 + index] = chunks;
				return { write: (chunk) => void chunks.push(chunk.slice()) };
			},
		},
		options,
	);
	return streams.map((chunks) => Buffer.concat(chunks));
}

/** QEMU takes the image in other encodings, and has the source's memory then. */
export async function expectAccepted(
	image: StreamImage,
	argv: readonly string[],
	memory: Uint8Array,
	ways: readonly Encoding[],
): Promise<void> {
	const results = await Promise.all(
		ways.map(async ({ name, options, settings }) => {
			const streams = await encoded(image, options);
			return [name, same(await memoryAfter(folder, argv, streams, settings, memory.length), memory)];
		}),
	);
	expect(results).toEqual(ways.map(({ name }) => [name, true]));
}
