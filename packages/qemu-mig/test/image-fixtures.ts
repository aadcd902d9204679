import { PAGE_SIZE } from '@cvm/layout';
import type { ImageInput, OpenOptions, StreamImage, WriteImageOptions, WrittenImage } from '../src/image.js';
import { createMemoryStore, openImage, writeImage } from '../src/image.js';
import type { StreamWriter } from '../src/index.js';
import { describeSections } from '../src/index.js';
import { createCollectingSink, TOY_PREFIX } from '../src/testing.js';
import { device, ramEnd, ramPart, ramStart, written } from './streams.js';

/** Reproducible numbers from 0 to 2^32: xorshift. */
export function createRandom(seed: number): () => number {
	let state = seed | 1;
	return () => {
		state ^= state << 13;
		state ^= state >>> 17;
		state ^= state << 5;
		return state >>> 0;
	};
}

/** A page of few or many distinct bytes, or of zeros. */
function randomPage(random: () => number): Uint8Array {
	const out = new Uint8Array(PAGE_SIZE);
	const style = random() % 4;
	if (style === 0) return out;
	if (style === 1) return out.fill(random() % 256, random() % PAGE_SIZE);
	for (let i = 0; i < PAGE_SIZE; i += 4) out.set([random(), random() >> 8, i, style === 2 ? 0 : random() >> 16], i);
	return out;
}

/** What a stream of {@link contentStream} says. */
export interface Content {
	readonly blocks: readonly { readonly idstr: string; readonly pages: readonly Uint8Array[] }[];
	readonly devices: readonly { readonly idstr: string; readonly body: Uint8Array }[];
}

export function randomContent(seed: number, sizes: readonly number[] = [9, 5, 1]): Content {
	const random = createRandom(seed);
	return {
		blocks: sizes.map((pages, i) => ({
			idstr: i === 0 ? 'pc.ram' : `rom${i}`,
			pages: Array.from({ length: pages }, () => randomPage(random)),
		})),
		devices: ['timer', '0000:00:01.0/vga', 'globalstate'].map((idstr) => ({
			idstr,
			body: Uint8Array.from({ length: 1 + (random() % 50) }, random),
		})),
	};
}

const isZero = (page: Uint8Array): boolean => page.every((byte) => byte === 0);

/** Header, configuration and block list. */
export function writeBeginning(writer: StreamWriter, content: Content, machineType = 'pc-i440fx-7.2'): void {
	writer.header();
	writer.configuration({ machineType, subsections: [] });
	writer.sectionBegin(ramStart);
	writer.blockList(content.blocks.map(({ idstr, pages }) => ({ idstr, usedLength: pages.length * PAGE_SIZE })));
	writer.endOfRecords();
	writer.sectionEnd(ramStart);
}

/** Devices, EOF and description. */
export function writeEnding(writer: StreamWriter, content: Content): void {
	for (const [i, { idstr, body }] of content.devices.entries()) {
		writer.sectionBegin(device(10 + i, idstr));
		writer.opaqueBody(body);
		writer.sectionEnd(device(10 + i, idstr));
	}
	writer.eof();
	const sections = content.devices.map(({ idstr, body }) => ({ idstr, instanceId: 0, size: body.length }));
	writer.vmDescription(describeSections(sections));
}

/** A plain stream of the content; with `sealed`, every third page is sealed. */
export const contentStream = (content: Content, sealed = false): Promise<Uint8Array> =>
	written((writer) => {
		writeBeginning(writer, content);
		writer.sectionBegin(ramPart);
		let count = 0;
		for (const { idstr, pages } of content.blocks) {
			for (const [i, page] of pages.entries()) {
				if (sealed && i % 3 === 0) {
					const header = new Uint8Array(52).fill(i + 1);
					writer.encryptedPage(idstr, i * PAGE_SIZE, header, page, count++ === 0 ? TOY_PREFIX : undefined);
				} else if (isZero(page)) writer.zeroPage(idstr, i * PAGE_SIZE, 0);
				else writer.rawPage(idstr, i * PAGE_SIZE, page);
			}
		}
		writer.endOfRecords();
		writer.sectionEnd(ramPart);
		writer.sectionBegin(ramEnd);
		if (sealed) writer.sharedRegions('pc.ram', 0, [{ gfnStart: 1, gfnEnd: 3 }]);
		writer.endOfRecords();
		writer.sectionEnd(ramEnd);
		writeEnding(writer, content);
	});

/** An image with its contents in memory. */
export const opened = (inputs: ImageInput['source'] | ImageInput[], options: OpenOptions = {}): Promise<StreamImage> =>
	openImage(inputs, { store: createMemoryStore(), ...options });

/** A stream of the image and its channels, as inputs. */
export async function rewritten(
	image: StreamImage,
	options: WriteImageOptions,
): Promise<{ inputs: ImageInput[]; result: WrittenImage; main: Uint8Array }> {
	const main = createCollectingSink();
	const channels = new Map<number, ReturnType<typeof createCollectingSink>>();
	const result = await writeImage(
		image,
		{
			main,
			channel: (index) => {
				const sink = createCollectingSink();
				channels.set(index, sink);
				return sink;
			},
		},
		options,
	);
	const inputs = [main, ...channels.values()].map((sink) => ({ source: sink.bytes() }));
	return { inputs, result, main: main.bytes() };
}

/** In pieces of `size` bytes, as one `Buffer` that is reused, which is what Node's streams may do. */
export async function* pieces(data: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
	const buffer = Buffer.alloc(size);
	for (let at = 0; at < data.length; at += size) {
		const piece = buffer.subarray(0, Math.min(size, data.length - at));
		piece.set(data.subarray(at, at + size));
		yield piece;
	}
}
