import { PAGE_SIZE } from '@cvm/layout';
import { BATCH_PAGES } from '../../geometry.js';
import { HelperCommand, HelperStatus } from '../../mailbox/abi.js';
import type { Channel } from './channel.js';
import { HelperError, type HelperErrorDetails, statusError } from './error.js';
import type { HelperHost } from './helper-host.js';
import { continuation, readBatchHeader } from './record.js';

/** Takes one record for the stream, as `EmitHelperPage` of `@cvm/qemu-mig`. The arrays are valid during the call. */
export type EmitRecord = (block: number, page: number, header: Uint8Array, bytes: Uint8Array) => void;

const Next = {
	counter: continuation.offsetOf('counter'),
	stream: continuation.offsetOf('stream'),
	index: continuation.offsetOf('index'),
} as const;

/** Pages that were asked for, in order. */
interface Batch {
	readonly gpas: Float64Array;
	readonly blocks: Uint32Array;
	readonly pages: Uint32Array;
	count: number;
}
const newBatch = (): Batch => ({
	gpas: new Float64Array(BATCH_PAGES),
	blocks: new Uint32Array(BATCH_PAGES),
	pages: new Uint32Array(BATCH_PAGES),
	count: 0,
});

/** The way of one stream through its helper: pages wait, are with the helper, or are sealed and on their way out. */
export interface SealLane {
	/** Asks for a page; posts when a batch is full. */
	add(gpa: number, block: number, page: number, emit: EmitRecord): void;
	/** Emits what is there, without waiting. */
	drain(emit: EmitRecord): void;
	/** Posts what waits, if the helper is free. */
	start(emit: EmitRecord): void;
	/** Emits everything that was asked for. */
	finish(emit: EmitRecord): void;
	/** Forgets what was asked for; waits for the helper, up to a time. Never throws. @returns whether the helper is free */
	clear(timeoutMs: number): boolean;
}

/** @param onShared called for a page that the helper did not seal, since the guest shares it */
export function createSealLane(
	host: Pick<HelperHost, 'answerOf'>,
	channel: Channel,
	onShared: (block: number, page: number) => void,
): SealLane {
	const nr = HelperCommand.save;
	const sealed = new Uint8Array(BATCH_PAGES * PAGE_SIZE);
	const zeros = new Uint8Array(PAGE_SIZE);
	const next = new Uint8Array(continuation.size);
	const nextView = new DataView(next.buffer);
	let waiting = newBatch();
	let flying = newBatch();

	const detailsOf = (index: number): HelperErrorDetails => {
		const gpa = index < flying.count ? flying.gpas[index] : undefined;
		return { helper: channel.index, nr, ...(gpa !== undefined && { gpa }) };
	};
	const badAnswer = (expected: string, got: string): HelperError =>
		new HelperError('bad-answer', { helper: channel.index, nr, expected, got });
	const drop = (batch: Batch, index: number): void => {
		for (const list of [batch.gpas, batch.blocks, batch.pages]) list.copyWithin(index, index + 1, batch.count);
		batch.count--;
	};
	const fly = (): void => channel.post({ nr, gpas: flying.gpas, count: flying.count });
	const launch = (): void => {
		[waiting, flying] = [flying, waiting];
		waiting.count = 0;
		fly();
	};

	/** Waits for the batch that is with the helper. @returns bytes of bodies; −1 if no page of it is left */
	const land = (): number => {
		for (;;) {
			const { status, detail, outputLength } = host.answerOf(channel);
			if (status === HelperStatus.success) return outputLength;
			if (status !== HelperStatus.shared || detail >= flying.count) throw statusError(status, detailsOf(detail));
			// The guest shares it since the host last looked: then it is the host's to send.
			onShared(flying.blocks[detail] ?? 0, flying.pages[detail] ?? 0);
			drop(flying, detail);
			if (flying.count === 0) return -1;
			fly();
		}
	};

	/** Collects a batch, gives the helper the next one if that is full or `isLast`, and emits the first meanwhile. */
	const collect = (emit: EmitRecord, isLast: boolean): void => {
		const outputLength = land();
		const batch = flying;
		const more = waiting.count === BATCH_PAGES || (isLast && waiting.count > 0);
		if (outputLength < 0) {
			if (more) launch();
			return;
		}
		const header = channel.header();
		const record = readBatchHeader(header);
		if (record === undefined || record.count !== batch.count) {
			throw badAnswer(`a record of ${batch.count} pages`, record === undefined ? 'none' : `${record.count}`);
		}
		const { withBody } = record;
		if (outputLength !== withBody.length * PAGE_SIZE) {
			throw badAnswer(`${withBody.length} bodies`, `${outputLength} bytes`);
		}
		channel.copyBodies(sealed.subarray(0, outputLength));
		// `flying` becomes the list to fill: its places are needed until all is emitted.
		const { blocks, pages } = more ? { blocks: batch.blocks.slice(), pages: batch.pages.slice() } : batch;
		if (more) launch();
		if (withBody.length === 0) emit(blocks[0] ?? 0, pages[0] ?? 0, header, zeros);
		nextView.setUint32(Next.counter, record.counter, true);
		nextView.setUint16(Next.stream, record.stream, true);
		for (let i = 0; i < withBody.length; i++) {
			nextView.setUint16(Next.index, i, true);
			const index = withBody[i] ?? 0;
			const body = sealed.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
			emit(blocks[index] ?? 0, pages[index] ?? 0, i === 0 ? header : next, body);
		}
	};

	return {
		add: (gpa, block, page, emit) => {
			const at = waiting.count++;
			waiting.gpas[at] = gpa;
			waiting.blocks[at] = block;
			waiting.pages[at] = page;
			if (waiting.count < BATCH_PAGES) return;
			if (channel.isPosted) collect(emit, false);
			else launch();
		},
		drain: (emit) => {
			if (channel.isPosted && channel.isDone()) collect(emit, false);
		},
		start: (emit) => {
			if (channel.isPosted) {
				if (channel.isDone()) collect(emit, true);
			} else if (waiting.count > 0) launch();
		},
		finish: (emit) => {
			while (channel.isPosted || waiting.count > 0) {
				if (channel.isPosted) collect(emit, true);
				else launch();
			}
		},
		clear: (timeoutMs) => {
			waiting.count = 0;
			try {
				if (channel.isPosted) host.answerOf(channel, timeoutMs);
			} catch {
				channel.giveUp();
			}
			return !channel.isAtWork();
		},
	};
}
