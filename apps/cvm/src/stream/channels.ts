import type { ByteFilter } from '@cvm/qemu-mig';
import { MULTIFD_COMPRESSION_MASK, MULTIFD_MAGIC, MultifdFlag, MultifdReader, StreamReader } from '@cvm/qemu-mig';
import { Failure } from '../exit.js';
import { openInput, readAll } from './input.js';
import { KIND } from './pages.js';
import type { Survey } from './survey.js';

/** What a channel beside the main one carried. */
export interface ChannelFound {
	readonly path: string;
	readonly what: 'multifd' | 'preempt';
	readonly channel?: number;
	readonly compression?: string;
	readonly packets: number;
	readonly pages: number;
	readonly bytes: number;
}

type Counts = { -readonly [K in keyof ChannelFound]: ChannelFound[K] };

/** Reads a channel that belongs to a stream and adds its pages to the survey. @throws Misuse, Failure, CodecError, StreamError */
export async function surveyChannel(path: string, survey: Survey): Promise<ChannelFound> {
	let channel: Channel | undefined;
	const input = openInput(path);
	await readAll(input, (chunk) => {
		channel ??= isMultifd(chunk) ? channelReader(path, survey) : preemptReader(path, survey);
		channel.filter.push(chunk);
	});
	if (channel === undefined) throw new Failure(`${input.name}: expected a channel, got nothing`);
	channel.filter.end();
	return channel.counts;
}

interface Channel {
	readonly filter: ByteFilter;
	readonly counts: ChannelFound;
}

const isMultifd = (head: Uint8Array): boolean =>
	head.length >= 4 && new DataView(head.buffer, head.byteOffset).getUint32(0) === MULTIFD_MAGIC;

function preemptReader(path: string, survey: Survey): Channel {
	const counts: Counts = { path, what: 'preempt', packets: 0, pages: 0, bytes: 0 };
	const handler = survey.asideHandler(() => {
		counts.pages++;
	});
	const reader = new StreamReader({ dialect: 'qemu-7.2', stream: 'preempt', handler });
	return { filter: counted(counts, { push: (chunk) => reader.push(chunk), end: () => void reader.end() }), counts };
}

const counted = (counts: Counts, filter: ByteFilter): ByteFilter => ({
	push: (chunk) => {
		counts.bytes += chunk.length;
		filter.push(chunk);
	},
	end: () => filter.end(),
});

const COMPRESSIONS: ReadonlyMap<number, string> = new Map([
	[MultifdFlag.zlib, 'zlib'],
	[MultifdFlag.zstd, 'zstd'],
	[MultifdFlag.qpl, 'qpl'],
	[MultifdFlag.uadk, 'uadk'],
	[MultifdFlag.qatzip, 'qatzip'],
]);

/** A multifd channel. */
export function channelReader(path: string, survey: Survey): Channel {
	const counts: Counts = { path, what: 'multifd', packets: 0, pages: 0, bytes: 0 };
	const reader = new MultifdReader({
		// Without entropy nobody looks into the pages.
		decompress: survey.withEntropy,
		handler: {
			init: ({ channel }) => {
				counts.channel = channel;
			},
			packet: ({ flags, block, normal, zero }) => {
				counts.packets++;
				counts.pages += normal.length + zero.length;
				if (normal.length > 0) counts.compression ??= COMPRESSIONS.get(flags & MULTIFD_COMPRESSION_MASK) ?? 'none';
				for (const address of normal) survey.pages.noteAside(block, address, KIND.multifd);
				for (const address of zero) survey.pages.noteAside(block, address, KIND.zero);
			},
			page: (block, address, page) => survey.pageAside(block, address, page),
		},
	});
	return { filter: counted(counts, reader), counts };
}
