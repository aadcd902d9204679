import type { Dialect } from '../dialect.js';
import { isStreamError } from '../error.js';
import { DialectProbe } from '../read/detect.js';
import type { ReaderLimits, ReaderOptions, ResumeState } from '../read/options.js';
import { PostcopyState } from '../read/options.js';
import { StreamReader } from '../read/reader.js';
import { ImageBuilder } from './builder.js';
import { ChannelReader } from './channel.js';
import type { StreamImage } from './content.js';
import { ImageError } from './error.js';
import type { FactDetail } from './facts.js';
import { createImageHandler } from './handler.js';
import type { ImageInputs, OpenedInput } from './input.js';
import { listInputs, openInput } from './input.js';
import type { RamStore } from './store.js';

/** Bytes held back at most to find out the dialect. */
const LOOK_AHEAD = 4 * 2 ** 20;

/** Options of {@link openImage}. */
export interface OpenOptions extends Pick<ReaderOptions, 'deviceLength' | 'check' | 'compress' | 'pageSizeListed'> {
	/** Where page contents go. Default: nowhere; the image then has facts alone, and deltas are only checked for their form. */
	readonly store?: RamStore | undefined;
	/** Default `auto`: found out from the first 4 MiB. */
	readonly dialect?: Dialect | 'auto';
	readonly limits?: Partial<ReaderLimits>;
	/** Bytes of guest RAM accepted. Default 16 TiB. */
	readonly ramLimit?: number;
	/** What is kept per page. Default `full`. */
	readonly facts?: FactDetail;
	/** Told after each chunk: bytes of that input so far. */
	readonly progress?: (bytes: number, input: number) => void;
}

/**
 * Reads a migration, in whatever encoding, into what it says: final page contents in a store, and facts. The inputs are one
 * stream or file, with its multifd channels, the connections of a recovery in their order, and the channel of urgent pages.
 * libvirt's header is taken off. Memory does not grow with the stream, but with guest RAM: see {@link FactDetail}.
 *
 * Main stream and multifd channels are read side by side, as a live source needs it; the others one after another.
 *
 * @throws StreamError for a malformed stream, CodecError for a malformed channel or libvirt header, ImageError for inputs that
 * do not go together; what was read until then is in the store. `salvage` reads damaged ones.
 */
export async function openImage(inputs: ImageInputs, options: OpenOptions = {}): Promise<StreamImage> {
	const builder = new ImageBuilder({ store: options.store, facts: options.facts, ramLimit: options.ramLimit });
	await readInputs(inputs, options, builder);
	return builder.finish();
}

/** As {@link openImage}, into a builder of the caller's. */
export async function readInputs(inputs: ImageInputs, options: OpenOptions, builder: ImageBuilder): Promise<void> {
	const opened: OpenedInput[] = [];
	try {
		for (const [index, input] of listInputs(inputs).entries()) {
			opened.push(await openInput(input, index, (bytes) => options.progress?.(bytes, index)));
		}
		await readOpened(opened, options, builder);
	} finally {
		builder.inputs.push(
			...opened.map(({ name, kind, bytes, libvirt }) => ({
				name,
				kind,
				bytes: bytes(),
				...(libvirt === undefined ? {} : { libvirt }),
			})),
		);
		// Not awaited: a source that is stuck must not keep the error back.
		for (const { chunks } of opened) chunks.return().catch(() => {});
	}
}

async function readOpened(opened: readonly OpenedInput[], options: OpenOptions, builder: ImageBuilder): Promise<void> {
	const of = (kind: OpenedInput['kind']): OpenedInput[] => opened.filter((input) => input.kind === kind);
	const [main, ...others] = of('migration');
	if (main === undefined || others.length > 0) {
		throw new ImageError('input', `inputs: expected one migration stream, got ${others.length + (main ? 1 : 0)}`);
	}
	const channels = of('multifd').map((input) => ({ input, reader: new ChannelReader(builder, input) }));
	builder.ordered = channels.length > 0;
	if (builder.frugal && !builder.ordered) builder.blocks.detail = 'kinds';
	const pieces = [...of('recovery'), ...of('preempt')];
	const reading = channels.map(({ input, reader }) => readChannel(input, reader));
	const read = readMain(main, options, builder, of('recovery').length > 0);
	const [resume] = await Promise.all([read, ...reading]);
	for (const { reader } of channels) {
		reader.settle();
		builder.channels.push(reader.info);
	}
	let state = resume;
	for (const [i, piece] of pieces.entries()) {
		const last = i === pieces.length - 1 || pieces[i + 1]?.kind === 'preempt';
		state = (await readPiece(piece, options, builder, state, piece.kind === 'preempt' || !last)) ?? state;
	}
}

async function readChannel(input: OpenedInput, reader: ChannelReader): Promise<void> {
	for await (const chunk of input.chunks) reader.push(chunk);
	reader.end();
}

/** Reads the main stream, up to its cut if a recovery follows. */
async function readMain(
	input: OpenedInput,
	options: OpenOptions,
	builder: ImageBuilder,
	mayBeCut: boolean,
): Promise<ResumeState> {
	const held: Uint8Array[] = [];
	const wanted = options.dialect ?? 'auto';
	if (wanted === 'auto') {
		builder.detection = await detect(input, held);
		builder.dialect = builder.detection.best ?? 'qemu-7.2';
	} else builder.dialect = wanted;
	const reader = createReader(input, options, builder, {});
	try {
		for (const chunk of held.splice(0)) reader.push(chunk);
		for await (const chunk of input.chunks) reader.push(chunk);
		builder.end = reader.end();
	} catch (error) {
		const { postcopy } = reader.resumeState;
		const cut = isStreamError(error) && error.code === 'truncated' && postcopy >= PostcopyState.listening;
		if (!mayBeCut || !cut) throw error;
		builder.note(`${input.name}: cut at offset ${error.offset} in postcopy; read on in what follows`);
		builder.cuts.push({ error, input: input.index, urgent: false });
	}
	return reader.resumeState;
}

async function readPiece(
	input: OpenedInput,
	options: OpenOptions,
	builder: ImageBuilder,
	resume: ResumeState,
	mayBeCut: boolean,
): Promise<ResumeState | undefined> {
	const stream = input.kind === 'preempt' ? 'preempt' : 'recovery';
	// A channel of its own has a CONTINUE state of its own.
	const state = stream === 'preempt' ? { ...resume, block: undefined } : resume;
	const reader = createReader(input, options, builder, { stream, resume: state });
	try {
		for await (const chunk of input.chunks) reader.push(chunk);
		const end = reader.end();
		if (stream === 'recovery') builder.end = end;
	} catch (error) {
		if (!mayBeCut || !isStreamError(error) || error.code !== 'truncated') throw error;
		builder.note(`${input.name}: cut at offset ${error.offset}`);
		builder.cuts.push({ error, input: input.index, urgent: stream === 'preempt' });
	}
	return stream === 'recovery' ? reader.resumeState : undefined;
}

function createReader(
	input: OpenedInput,
	options: OpenOptions,
	builder: ImageBuilder,
	kind: Pick<ReaderOptions, 'stream' | 'resume'>,
): StreamReader {
	const { deviceLength, check, compress, pageSizeListed, limits } = options;
	builder.input = input.index;
	return new StreamReader({
		dialect: builder.dialect,
		handler: builder.wrap(createImageHandler(builder, input.index), input.index),
		...(deviceLength === undefined ? {} : { deviceLength }),
		...(check === undefined ? {} : { check }),
		...(compress === undefined ? {} : { compress }),
		...(pageSizeListed === undefined ? {} : { pageSizeListed }),
		...(limits === undefined ? {} : { limits }),
		...kind,
	});
}

/** Reads until the dialect is certain or the look-ahead used up; what was read goes to `held`. */
async function detect(input: OpenedInput, held: Uint8Array[]) {
	const probe = new DialectProbe('migration');
	for (let bytes = 0; bytes < LOOK_AHEAD; ) {
		const step = await input.chunks.next();
		if (step.done === true) return probe.end();
		// A copy: the source may reuse its chunk. `slice` of a Buffer would be none.
		const chunk = new Uint8Array(step.value);
		held.push(chunk);
		bytes += chunk.length;
		if (probe.push(chunk)) break;
	}
	return probe.result();
}
