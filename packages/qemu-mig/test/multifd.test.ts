import { PAGE_SIZE } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { Dialect, LoaderChannel, MultifdInputsOptions, PrecopyOptions } from '../src/index.js';
import { createCollectingSink, createFakeClock, createFakeSource } from '../src/testing.js';
import { fillMemory, prepare, receive, sameMemory, TWO_BLOCKS } from './migration.js';
import { thrown } from './streams.js';

const COMPRESSIONS = ['none', 'zlib', 'zstd'] as const;

/** The bytes of a migration with channels: those of the main connection, then of each channel. */
async function sent(o: Partial<PrecopyOptions> & { count?: number; compression?: (typeof COMPRESSIONS)[number] }) {
	const { count = 2, compression = 'none', ...options } = o;
	const source = createFakeSource({ blocks: TWO_BLOCKS });
	fillMemory(source);
	const main = createCollectingSink();
	const sinks = Array.from({ length: count }, () => createCollectingSink());
	const clock = createFakeClock();
	const multifd = { sinks, compression };
	const parameters = { maxBandwidth: 2_000_000, downtimeLimit: 20 };
	const { precopy, log } = prepare({ ...options, source, clock, sink: main, multifd, parameters });
	let turn = 0;
	clock.onIdle = () => {
		if (log.includes('stop')) return;
		turn++;
		// Zero and back: the former goes on the main connection, the latter on a channel.
		for (const page of [1, 2, 3, 50]) {
			source.write(0, page * PAGE_SIZE, new Uint8Array(PAGE_SIZE).fill((turn + page) % 2 === 0 ? turn : 0));
		}
	};
	expect(await precopy.run()).toEqual({ status: 'completed' });
	return { source, streams: [main, ...sinks].map((sink) => sink.bytes()), statistics: precopy.statistics.info() };
}

function receiver(source: ReturnType<typeof createFakeSource>, o: Partial<MultifdInputsOptions>, dialect: Dialect) {
	const { target, loader } = receive(source, [], () => {}, { dialect, multifd: { channels: 2, ...o } });
	const channels: LoaderChannel[] = Array.from({ length: o.channels ?? 2 }, () => loader.channel());
	return { target, loader, channels, inputs: [loader, ...channels] };
}

const words = (stream: Uint8Array, at: number): number => new DataView(stream.buffer, stream.byteOffset).getUint32(at);

describe('multifd', () => {
	it('keeps zero pages on the main connection and spreads the others, with SYNC after each section', async () => {
		const { streams, statistics } = await sent({ vmDescription: false });
		const [main = new Uint8Array(0), ...channels] = streams;
		expect(main.length).toBeLessThan(5000);
		for (const [id, channel] of channels.entries()) {
			expect([words(channel, 0), words(channel, 4), channel[24]]).toEqual([0x11223344, 1, id]);
			// The first packet after the initial one is the SYNC of START: flags 1, no pages.
			expect([words(channel, 64 + 8), words(channel, 64 + 16)]).toEqual([1, 0]);
		}
		const bytes = channels.reduce((sum, { length }) => sum + length - 64, 0);
		expect(statistics.ram?.['multifd-bytes']).toBe(bytes);
		expect(statistics.ram?.transferred).toBe(
			bytes + (statistics.ram?.['precopy-bytes'] ?? 0) + (statistics.ram?.['downtime-bytes'] ?? 0),
		);
	});

	it.each(COMPRESSIONS)('gives the same memory in any order of arrival: %s', async (compression) => {
		const { source, streams } = await sent({ compression });
		for (const order of [
			[0, 1, 2],
			[2, 1, 0],
			[1, 0, 2],
		]) {
			const { target, loader, inputs } = receiver(source, { compression }, 'qemu-7.2');
			for (const index of order) inputs[index]?.push(streams[index] ?? new Uint8Array(0));
			for (const input of inputs) input.end();
			expect(sameMemory(target.memory, source.memory)).toBe(true);
			expect(await loader.outcome).toMatchObject({ status: 'running', complete: true });
		}
	});

	test.prop(
		[fc.infiniteStream(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 9000 }))), fc.constantFrom('qemu-7.2', 'qemu-9')],
		{
			numRuns: 15,
		},
	)('gives the same memory however the channels’ chunks interleave', async (pieces, dialect) => {
		const { source, streams } = await sent({ count: 3, dialect: dialect as Dialect });
		const { target, loader, inputs } = receiver(source, { channels: 3 }, dialect as Dialect);
		const at = streams.map(() => 0);
		for (const [index, size] of pieces) {
			const stream = streams[index] ?? new Uint8Array(0);
			const from = at[index] ?? 0;
			if (from < stream.length) {
				const chunk = stream.slice(from, from + size);
				inputs[index]?.push(chunk);
				// Nobody may look at it later.
				chunk.fill(0x99);
				at[index] = from + chunk.length;
				if (at[index] === stream.length) inputs[index]?.end();
			}
			if (at.every((done, i) => done === streams[i]?.length)) break;
		}
		expect(sameMemory(target.memory, source.memory)).toBe(true);
		expect(await loader.outcome).toMatchObject({ status: 'running', complete: true });
	});

	it('makes the main stream wait until all channels have arrived, and the channels until it has', async () => {
		const { source, streams } = await sent({});
		const { loader, inputs, channels } = receiver(source, {}, 'qemu-7.2');
		inputs[0]?.push(streams[0] ?? new Uint8Array(0));
		expect([loader.waiting, loader.progress.parts.has('eof')]).toEqual([true, false]);
		inputs[1]?.push(streams[1] ?? new Uint8Array(0));
		expect(channels.map(({ waiting }) => waiting)).toEqual([true, false]);
		inputs[2]?.push(streams[2] ?? new Uint8Array(0));
		expect(inputs.map((input) => input.waiting)).toEqual([false, false, false]);
		expect(loader.progress.parts.has('eof')).toBe(true);
	});

	it('fails when a channel ends early, has another uuid or comes twice', async () => {
		const { source, streams } = await sent({ uuid: new Uint8Array(16).fill(7) });
		const main = streams[0] ?? new Uint8Array(0);
		const first = streams[1] ?? new Uint8Array(0);
		const open = (uuid?: Uint8Array) =>
			receive(source, [], () => {}, { multifd: { channels: 2 }, ...(uuid && { uuid }) }).loader;
		const short = open(new Uint8Array(16).fill(7));
		const channel = short.channel();
		channel.push(first.subarray(0, 64));
		channel.end();
		expect(thrown(() => short.push(main))).toMatchObject({ code: 'truncated' });
		expect(await short.outcome).toMatchObject({ status: 'failed' });
		expect(thrown(() => open().channel().push(first))).toMatchObject({
			qemu: [
				"multifd: received uuid '07070707-0707-0707-0707-070707070707' and expected uuid " +
					"'00000000-0000-0000-0000-000000000000' for channel 0",
			],
		});
		const twice = open(new Uint8Array(16).fill(7));
		twice.channel().push(first.subarray(0, 64));
		expect(thrown(() => twice.channel().push(first.subarray(0, 64)))).toMatchObject({
			qemu: ["multifd: received id '0' already setup'"],
		});
	});

	it('ends the migration when a channel’s sink fails', async () => {
		const sinks = [createCollectingSink(), createCollectingSink()];
		sinks[1]?.fail(new Error('gone'));
		const source = createFakeSource({ blocks: TWO_BLOCKS });
		fillMemory(source);
		const { precopy } = prepare({ source, sink: createCollectingSink(), multifd: { sinks } });
		expect(await precopy.run()).toMatchObject({ status: 'failed', error: { code: 'sink' }, mayResume: true });
	});

	it('does not go with xbzrle, compression or postcopy', () => {
		const multifd = { sinks: [createCollectingSink()] };
		for (const name of ['xbzrle', 'compress', 'postcopyRam'] as const) {
			const make = () => prepare({ sink: createCollectingSink(), multifd, capabilities: { [name]: true } });
			expect(make).toThrow(RangeError);
		}
	});
});
