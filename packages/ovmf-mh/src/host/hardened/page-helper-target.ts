import { PAGE_SIZE } from '@cvm/layout';
import { BATCH_PAGES } from '../../geometry.js';
import { HelperCommand, HelperStatus } from '../../mailbox/abi.js';
import type { Channel } from './channel.js';
import { unwrap, wrap } from './envelope.js';
import { HelperError, statusError } from './error.js';
import type { HelperHost } from './helper-host.js';
import {
	type BatchHeader,
	continuation,
	continuationCounter,
	continuationIndex,
	continuationStream,
	readBatchHeader,
	streamsOfHello,
} from './record.js';

/** Sends a message back to the source's host. */
type Reply = (message: Uint8Array) => void;

/** The target's helpers as the loader of `@cvm/qemu-mig` drives them: structurally its `PageHelperTarget`. */
export interface HardenedPageHelperTarget {
	open(block: number, page: number, header: Uint8Array, bytes: Uint8Array): void;
	flush(): void;
	message(data: Uint8Array, reply: Reply): void;
	failed(reply: Reply): void;
}

export interface PageHelperTargetOptions {
	/** Guest-physical address of a page of a block. */
	readonly gpaOf: (block: number, page: number) => number;
	/** The guest may run here: START was taken. After the reply was sent. */
	readonly onRun?: () => void;
	/** The proof failed, after `message` returned. The source learns it from the helper's ABORT. */
	readonly onFailure?: (error: unknown) => void;
}

/** A batch of which some bodies are there. */
interface Assembly {
	readonly bytes: Uint8Array;
	readonly gpas: Float64Array;
	/** The batch that is with the helper. */
	readonly posted: Float64Array;
	postedCount: number;
	header: Uint8Array;
	record: BatchHeader | undefined;
	got: number;
}

const badRecord = (expected: string, got: string, gpa?: number): HelperError =>
	new HelperError('bad-record', { nr: HelperCommand.restore, expected, got, ...(gpa !== undefined && { gpa }) });

/**
 * Gives records to the helpers of a target: puts batches together again, one helper for each stream. Whatever does not open
 * throws HelperError, of this record or of an earlier one.
 */
export function createPageHelperTarget(host: HelperHost, o: PageHelperTargetOptions): HardenedPageHelperTarget {
	const { gpaOf, onRun, onFailure } = o;
	const { channels } = host;
	const assemblies = channels.map(
		(): Assembly => ({
			bytes: new Uint8Array(BATCH_PAGES * PAGE_SIZE),
			gpas: new Float64Array(BATCH_PAGES),
			posted: new Float64Array(BATCH_PAGES),
			...{ postedCount: 0, header: new Uint8Array(0), record: undefined, got: 0 },
		}),
	);

	/** Waits for the batch that is with a helper. */
	const settle = (channel: Channel): void => {
		if (!channel.isPosted) return;
		const { status, detail } = host.answerOf(channel);
		if (status === HelperStatus.success) return;
		const { posted = [], postedCount = 0 } = assemblies[channel.index] ?? {};
		const gpa = detail < postedCount ? posted[detail] : undefined;
		throw statusError(status, { helper: channel.index, nr: HelperCommand.restore, ...(gpa !== undefined && { gpa }) });
	};
	const settleAll = (): void => {
		for (const channel of channels) settle(channel);
	};

	const first = (block: number, page: number, header: Uint8Array, bytes: Uint8Array): void => {
		const copy = header.slice();
		const record = readBatchHeader(copy);
		if (record === undefined) throw badRecord('the header of a batch', `${header.length} bytes`);
		const { stream, count, withBody } = record;
		const assembly = assemblies[stream];
		if (assembly === undefined) throw badRecord(`a stream below ${assemblies.length}`, `${stream}`);
		if (assembly.record !== undefined) throw badRecord('the rest of a batch', 'another batch');
		for (let i = 0; i < count; i++) assembly.gpas[i] = record.gpa(i);
		checkPlace(record, withBody[0] ?? 0, block, page);
		assembly.header = copy;
		assembly.record = record;
		assembly.got = 0;
		take(stream, assembly, record, bytes);
	};
	const rest = (block: number, page: number, header: Uint8Array, bytes: Uint8Array): void => {
		const stream = continuationStream(header);
		const counter = continuationCounter(header);
		const index = continuationIndex(header);
		const assembly = assemblies[stream];
		const record = assembly?.record;
		if (assembly === undefined || record === undefined || record.counter !== counter || assembly.got !== index) {
			throw badRecord('the next body of a batch', `body ${index} of record ${counter} of stream ${stream}`);
		}
		checkPlace(record, record.withBody[index] ?? 0, block, page);
		take(stream, assembly, record, bytes);
	};
	/** The helper goes by the list that it authenticates; a stream that says something else is broken. */
	const checkPlace = (record: BatchHeader, index: number, block: number, page: number): void => {
		const gpa = gpaOf(block, page);
		if (record.gpa(index) !== gpa) throw badRecord('the page that the batch names', 'another', gpa);
	};
	const take = (stream: number, assembly: Assembly, record: BatchHeader, bytes: Uint8Array): void => {
		if (bytes.length !== PAGE_SIZE) throw badRecord(`${PAGE_SIZE} bytes`, `${bytes.length}`);
		const bodies = record.withBody.length;
		if (bodies > 0) assembly.bytes.set(bytes, assembly.got * PAGE_SIZE);
		assembly.got++;
		if (assembly.got < bodies) return;
		assembly.record = undefined;
		const channel = channels[stream];
		if (channel === undefined) return;
		settle(channel);
		assembly.posted.set(assembly.gpas);
		assembly.postedCount = record.count;
		channel.post({
			...{ nr: HelperCommand.restore, gpas: assembly.gpas, count: record.count, header: assembly.header },
			input: assembly.bytes.subarray(0, bodies * PAGE_SIZE),
		});
	};

	/** Streams of the session: a machine may have more helpers than its source, and those rest. */
	let streams = channels.length;
	/** A digest of memory is under way. */
	let proving = false;
	const forget = (): void => {
		host.sessions.count++;
		for (const assembly of assemblies) assembly.record = undefined;
	};
	const settled = (reply: Reply, token: Uint8Array): void => {
		if (token.length > 0) reply(wrap(HelperCommand.revive, token));
	};
	/** Ends the session; the source may have its guest back. */
	const giveUp = (reply: Reply): void => {
		forget();
		if (proving) {
			void giveUpLater(reply);
			return;
		}
		try {
			for (const channel of channels) if (channel.isPosted) host.answerOf(channel);
		} catch {
			// It is the session's end that matters.
		}
		try {
			settled(reply, host.control(HelperCommand.abort));
		} catch {
			// A helper that does not answer has nothing to say to the source either.
		}
	};
	/** The same where the helpers go over all of memory: the host must not stand still for it. The source waits for the proof. */
	const giveUpLater = async (reply: Reply): Promise<void> => {
		const mine = host.sessions.count;
		try {
			await host.idleLater();
			for (const channel of channels) channel.giveUp();
			if (mine === host.sessions.count) settled(reply, await host.controlLater(HelperCommand.abort));
		} catch {
			// As above.
		}
	};
	/** A source with more streams than there are helpers here gets an answer that it can tell its user. */
	const admit = (hello: Uint8Array, reply: Reply): void => {
		const wanted = streamsOfHello(hello);
		if (wanted === undefined || wanted <= channels.length) return;
		reply(wrap(HelperCommand.hello, new Uint8Array(0), channels.length));
		const expected = `a source with at most ${channels.length} helpers, as this machine has`;
		throw new HelperError('peer', { nr: HelperCommand.accept, expected, got: `one with ${wanted}` });
	};
	/** All of memory is read for it: the loader does not wait, since the source sends nothing before it has READY. */
	const prove = async (reply: Reply): Promise<void> => {
		const mine = host.sessions.count;
		try {
			proving = true;
			await host.digestLater(streams).finally(() => {
				proving = false;
			});
			if (mine === host.sessions.count) reply(wrap(HelperCommand.start, host.control(HelperCommand.verify)));
		} catch (error) {
			if (mine !== host.sessions.count) return;
			giveUp(reply);
			onFailure?.(error);
		}
	};

	return {
		open: (block, page, header, bytes) => {
			if (proving) throw badRecord('nothing before the proof', 'a page');
			if (header.length === continuation.size) rest(block, page, header, bytes);
			else first(block, page, header, bytes);
		},
		flush: () => {
			// All pages were settled before the proof began.
			if (!proving) settleAll();
		},
		message: (data, reply) => {
			const { command, argument, message } = unwrap(data);
			// Its source waits for READY. To wait here for the helpers would be to stand still until they are done.
			if (proving)
				throw new HelperError('order', { nr: command, expected: 'nothing before the proof', got: 'a message' });
			settleAll();
			switch (command) {
				case HelperCommand.accept:
					forget();
					admit(message, reply);
					reply(wrap(HelperCommand.confirm, host.control(command, { input: message })));
					streams = streamsOfHello(message) ?? channels.length;
					return;
				case HelperCommand.establish:
				case HelperCommand.nextEpoch:
				case HelperCommand.restoreVcpu:
					host.control(command, { argument, input: message });
					return;
				case HelperCommand.verify:
					host.control(command, { input: message });
					void prove(reply);
					return;
				case HelperCommand.run:
					reply(wrap(HelperCommand.retire, host.control(command, { input: message })));
					onRun?.();
					return;
				default:
					throw new HelperError('bad-record', { nr: command, expected: 'a message for a target', got: 'another' });
			}
		},
		failed: giveUp,
	};
}
