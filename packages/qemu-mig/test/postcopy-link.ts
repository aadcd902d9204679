import { PAGE_SIZE } from '@cvm/layout';
import { fc } from '@fast-check/vitest';
import type { Loader, LoaderChannel, LoaderOptions, PrecopyOptions, RamBlock } from '../src/index.js';
import type { FakeTarget } from '../src/testing.js';
import { createFakeClock, createFakeSource, createFakeTarget } from '../src/testing.js';
import { fillMemory, prepare, receive, TWO_BLOCKS } from './migration.js';

/** Blocks of which the first has host pages of 16 guest pages. */
export const HUGE = [
	{ idstr: 'pc.ram', usedLength: 96 * PAGE_SIZE, pageSize: 16 * PAGE_SIZE },
	{ idstr: 'pc.bios', usedLength: 33 * PAGE_SIZE },
];

/** What a property varies of a guest that moves by postcopy. */
export const MOVE = {
	helper: fc.boolean(),
	huge: fc.boolean(),
	releaseRam: fc.boolean(),
	turns: fc.nat(12),
	maxPostcopyBandwidth: fc.constantFrom(0, 100_000, 2_000_000),
	writes: fc.array(fc.record({ block: fc.nat(1), page: fc.nat(32), byte: fc.integer({ min: 1, max: 255 }) }), {
		maxLength: 40,
	}),
};

/** A connection in both directions that can break. */
class Link {
	#open = true;
	#left: number;
	#urgentLeft: number;
	readonly #channel: LoaderChannel | undefined;
	readonly #loader: Loader;
	readonly #toSource: (message: Uint8Array) => void;
	readonly #closed: () => void;
	/** Bytes from source to target. */
	bytes = 0;
	/** Bytes of urgent pages. */
	urgentBytes = 0;
	/** The first of them. */
	readonly head: number[] = [];

	constructor(
		loader: Loader,
		toSource: (message: Uint8Array) => void,
		closed: () => void,
		cutAfter: number,
		urgent: { readonly channel: LoaderChannel; readonly cutAfter: number } | undefined,
	) {
		this.#channel = urgent?.channel;
		this.#urgentLeft = urgent?.cutAfter ?? 0;
		this.#loader = loader;
		this.#toSource = toSource;
		this.#closed = closed;
		this.#left = cutAfter;
	}

	readonly sink = {
		write: (chunk: Uint8Array): void => {
			if (!this.#open) throw new Error('link: cut');
			const part = chunk.subarray(0, this.#left);
			this.#left -= part.length;
			this.bytes += part.length;
			if (this.head.length < 64) this.head.push(...part.subarray(0, 64));
			this.#loader.push(part);
			if (part.length < chunk.length) this.cut();
		},
	};

	/** The second connection, of `postcopy-preempt`, which breaks together with the first. */
	readonly urgent = {
		write: (chunk: Uint8Array): void => {
			if (!this.#open) throw new Error('link: cut');
			const part = chunk.subarray(0, this.#urgentLeft);
			this.#urgentLeft -= part.length;
			this.urgentBytes += part.length;
			this.#channel?.push(part);
			if (part.length < chunk.length) this.cut(true);
		},
	};

	readonly reply = {
		write: (message: Uint8Array): void => {
			const copy = message.slice();
			queueMicrotask(() => {
				if (this.#open) this.#toSource(copy);
			});
		},
	};

	cut(urgentFirst = false): void {
		if (!this.#open) return;
		this.#open = false;
		if (urgentFirst) this.#channel?.end();
		this.#loader.end();
		if (!urgentFirst) this.#channel?.end();
		this.#closed();
	}
}

/** What a guest writes on the target: one byte, when the page is there. */
export interface GuestWrite {
	readonly block: number;
	readonly page: number;
	readonly byte: number;
}

export interface PostcopySetup {
	readonly source?: Omit<Partial<PrecopyOptions>, 'source' | 'clock'>;
	readonly target?: Partial<LoaderOptions>;
	readonly blocks?: readonly RamBlock[];
	readonly helper?: boolean;
	/** Bytes after which each connection breaks; further ones do not. */
	readonly cuts?: readonly number[];
	/** Capability `postcopy-preempt`: urgent pages on a second connection, which breaks after so many bytes. */
	readonly preempt?: { readonly cuts?: readonly number[] };
	/** Writes of the guest on the target, one per turn. */
	readonly writes?: readonly GuestWrite[];
	/** Turns of the guest on the source before it is told to move. */
	readonly turns?: number;
}

/** A postcopy migration between fakes, on as many connections as it needs. */
export function postcopy(o: PostcopySetup = {}) {
	const blocks = o.blocks ?? TWO_BLOCKS;
	const source = createFakeSource({ blocks, confidential: o.helper ? 'helper' : false });
	fillMemory(source);
	const clock = createFakeClock();
	const dialect = o.helper ? 'mh-v2' : 'qemu-7.2';
	const links: Link[] = [];
	const statuses: string[] = [];
	let loader: Loader | undefined;
	let target: FakeTarget | undefined;
	const { precopy, log, sections } = prepare({
		source,
		clock,
		dialect,
		capabilities: { postcopyRam: true, postcopyPreempt: o.preempt !== undefined },
		...(o.preempt && { urgent: { write: (chunk: Uint8Array) => links.at(-1)?.urgent.write(chunk) } }),
		returnPath: 'return-path',
		// 15 pages in 100 ms, of which none fits into the downtime.
		parameters: { maxBandwidth: 600_000, downtimeLimit: 1 },
		...o.source,
		...(o.source?.capabilities && {
			capabilities: { ...o.source.capabilities, postcopyPreempt: o.preempt !== undefined },
		}),
		sink: { write: (chunk) => links.at(-1)?.sink.write(chunk) },
	});
	const connection = (): Link => {
		if (loader === undefined) throw new Error('no loader');
		const cut = o.cuts?.[links.length] ?? Number.POSITIVE_INFINITY;
		const urgentCut = o.preempt?.cuts?.[links.length] ?? Number.POSITIVE_INFINITY;
		const urgent = o.preempt && { channel: loader.urgent(), cutAfter: urgentCut };
		const link: Link = new Link(
			loader,
			(message) => links.at(-1) === link && precopy.returnPath.push(message),
			() => links.at(-1) === link && precopy.returnPath.end(),
			cut,
			urgent,
		);
		links.push(link);
		return link;
	};
	/** The memory the guest should have on the target. */
	const expected: Uint8Array[] = [];
	const waiting: GuestWrite[] = [];
	const apply = ({ block, page, byte }: GuestWrite): void => {
		target?.memory[block]?.fill(byte, page * PAGE_SIZE + 8, page * PAGE_SIZE + 16);
		expected[block]?.fill(byte, page * PAGE_SIZE + 8, page * PAGE_SIZE + 16);
	};
	const created = receive(source, log, () => {}, {
		dialect,
		reply: { write: (message) => links.at(-1)?.reply.write(message) },
		status: (status) => statuses.push(status),
		finish: () => {
			log.push('finish');
			expected.push(...source.memory.map((bytes) => bytes.slice()));
		},
		...o.target,
		preempt: o.preempt !== undefined,
		...postcopyOf((made) => {
			target = made;
		}, blocks),
	});
	loader = created.loader;
	connection();
	const writes = (o.writes ?? []).values();
	if (target === undefined) throw new Error('no target');
	const there = target;
	there.onPlaced = (block, address, length) => {
		for (const [index, write] of [...waiting.entries()].reverse()) {
			const at = write.page * PAGE_SIZE;
			if (write.block !== block || at < address || at >= address + length) continue;
			waiting.splice(index, 1);
			apply(write);
		}
	};
	let turns = 0;
	clock.onIdle = () => {
		if (turns++ === (o.turns ?? 0)) precopy.startPostcopy();
		if (!log.includes('stop')) {
			source.write(0, (turns % 20) * PAGE_SIZE, Uint8Array.of(turns, 1));
			return;
		}
		if (!log.includes('finish')) return;
		const write = writes.next().value;
		if (write === undefined) return;
		if (there.isPresent(write.block, write.page)) apply(write);
		else {
			waiting.push(write);
			if (loader?.fault(write.block, write.page) !== true) throw new Error('fault: expected it to be asked for');
		}
	};
	const reconnect = (): void => {
		const reply = { write: (message: Uint8Array) => links.at(-1)?.reply.write(message) };
		loader?.recover(reply);
		const link = connection();
		precopy.recover(link.sink, o.preempt && link.urgent);
	};
	/** Reconnects as long as it pauses. */
	const run = async () => {
		let ended = false;
		const result = precopy.run().finally(() => {
			ended = true;
		});
		for (let idle = 0; !ended && idle < 2000; idle++) {
			await new Promise((resolve) => setImmediate(resolve));
			if (precopy.statistics.status !== 'postcopy-paused') continue;
			if (loader?.status === 'failed') precopy.abandon();
			if (loader?.status === 'postcopy-paused') reconnect();
		}
		if (!ended) throw new Error(`stuck: ${precopy.statistics.status} and ${loader?.status}`);
		return result;
	};
	return {
		source,
		clock,
		precopy,
		loader,
		target: there,
		log,
		statuses,
		sections,
		links,
		expected,
		waiting,
		run,
		reconnect,
	};
}

/** The sink and the postcopy memory of one fake target. */
function postcopyOf(made: (target: FakeTarget) => void, blocks: readonly RamBlock[]): Partial<LoaderOptions> {
	const target = createFakeTarget(blocks);
	made(target);
	const { opener: _, ...sink } = target;
	return { sink, postcopy: target.postcopy };
}
