import { createSaveUnpacker } from '../codec/libvirt/body.js';
import type { SaveImage } from '../codec/libvirt/header.js';
import { decodeSaveHeader, decodeSaveImage, SAVE_HEADER_SIZE, saveFormatOf } from '../codec/libvirt/header.js';
import { classify, HEAD_BYTES } from '../read/probe-head.js';
import type { ByteSource } from '../read/source.js';
import { chunksOf } from '../read/source.js';
import type { InputKind } from './content.js';
import { ImageError } from './error.js';

/** A file or connection of a migration. */
export interface ImageInput {
	readonly source: ByteSource | Uint8Array;
	/** For messages. Default: its number. */
	readonly name?: string;
	/** Default: found out from its first bytes. */
	readonly kind?: InputKind;
}

/** One input, or several of one migration. An array of nothing but `Uint8Array`s is one input in chunks. */
export type ImageInputs = ByteSource | Uint8Array | ImageInput | readonly (ByteSource | Uint8Array | ImageInput)[];

/** An input whose kind is known, without libvirt's header. */
export interface OpenedInput {
	readonly index: number;
	readonly name: string;
	readonly kind: InputKind;
	readonly libvirt: SaveImage | undefined;
	readonly chunks: AsyncGenerator<Uint8Array, void, undefined>;
	/** Bytes read so far, as they come from the source. */
	bytes(): number;
}

/** The inputs as a list. */
export function listInputs(inputs: ImageInputs): ImageInput[] {
	const list: readonly (ByteSource | Uint8Array | ImageInput)[] =
		Array.isArray(inputs) && !inputs.every((one) => one instanceof Uint8Array)
			? inputs
			: [inputs as ByteSource | Uint8Array | ImageInput];
	return list.map((one) => (!(one instanceof Uint8Array) && 'source' in one ? one : { source: one }));
}

/** Reads the beginning of an input and finds out what it is. @throws ImageError, CodecError for libvirt's header */
export async function openInput(
	input: ImageInput,
	index: number,
	progress: (bytes: number) => void = () => {},
): Promise<OpenedInput> {
	const name = input.name ?? `input ${index + 1}`;
	let bytes = 0;
	const source = counted(input.source instanceof Uint8Array ? [input.source] : input.source, (length) => {
		bytes += length;
		progress(bytes);
	});
	const head = await takeHead(source, HEAD_BYTES);
	const found = classify(head.bytes);
	const rest = joinedChunks(head.held, source);
	const opened = { index, name, bytes: () => bytes };
	if (found === 'libvirt-save') {
		const { image, chunks } = await unwrap(rest, name);
		return { ...opened, kind: input.kind ?? 'migration', libvirt: image, chunks };
	}
	return { ...opened, kind: input.kind ?? found, libvirt: undefined, chunks: rest };
}

async function* counted(
	source: ByteSource,
	count: (length: number) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
	for await (const chunk of chunksOf(source)) {
		count(chunk.length);
		yield chunk;
	}
}

type Chunks = AsyncGenerator<Uint8Array, void, undefined>;

/** The first `wanted` bytes, or all there are, and the chunks they came in, copied: the source may reuse them. */
async function takeHead(chunks: Chunks, wanted: number): Promise<{ bytes: Uint8Array; held: Uint8Array }> {
	let buffer = new Uint8Array(wanted);
	let filled = 0;
	while (filled < wanted) {
		const step = await chunks.next();
		if (step.done === true) break;
		const end = filled + step.value.length;
		if (end > buffer.length) {
			const grown = new Uint8Array(end);
			grown.set(buffer.subarray(0, filled));
			buffer = grown;
		}
		buffer.set(step.value, filled);
		filled = end;
	}
	return { bytes: buffer.subarray(0, Math.min(wanted, filled)), held: buffer.subarray(0, filled) };
}

async function* joinedChunks(held: Uint8Array, rest: Chunks): Chunks {
	if (held.length > 0) yield held;
	yield* rest;
}

/** Takes libvirt's header off and unpacks what follows. libvirt src/qemu/qemu_saveimage.c. */
async function unwrap(chunks: Chunks, name: string): Promise<{ image: SaveImage; chunks: Chunks }> {
	const first = await takeHead(chunks, SAVE_HEADER_SIZE);
	const header = decodeSaveHeader(first.bytes);
	const size = SAVE_HEADER_SIZE + header.dataLength;
	const whole = await takeHead(joinedChunks(first.held, chunks), size);
	if (whole.bytes.length < size) {
		throw new ImageError('input', `${name}: expected ${size} bytes before the stream, got ${whole.bytes.length}`);
	}
	const image = decodeSaveImage(whole.bytes);
	const rest = joinedChunks(whole.held.subarray(size), chunks);
	const format = saveFormatOf(header);
	// `sparse` is a mapped-ram file, which the stream reader reads in one go.
	return { image, chunks: format === 'raw' || format === 'sparse' ? rest : unpacked(rest, image, size) };
}

async function* unpacked(chunks: Chunks, image: SaveImage, offset: number): Chunks {
	const out: Uint8Array[] = [];
	const unpacker = createSaveUnpacker(saveFormatOf(image.header), (data) => out.push(data.slice()), offset);
	for await (const chunk of chunks) {
		unpacker.push(chunk);
		yield* out.splice(0);
	}
	unpacker.end();
	yield* out.splice(0);
}
