import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { createLoader, type PrecopyOptions, StreamReader } from '../src/index.js';
import { createCollectingSink, createFakeClock, createFakeSource, createFakeTarget } from '../src/testing.js';
import { connect, prepare, sameMemory } from './migration.js';
import { beginStream, ramPart, thrown, written } from './streams.js';

const BLOCK = [{ idstr: 'pc.ram', usedLength: 40 * PAGE_SIZE }];

/** A guest whose pages each have a line of their own, one in eight zero. */
function lined() {
	const source = createFakeSource({ blocks: BLOCK });
	for (let page = 0; page < 40; page++) {
		if (page % 8 === 7) continue;
		for (let at = 0; at < PAGE_SIZE; at += 16) source.write(0, page * PAGE_SIZE + at, Uint8Array.of(page + 1, at >> 4));
	}
	return source;
}

/** Kinds and addresses of the pages of a stream, section by section. */
function pagesOf(stream: Uint8Array): string[][] {
	const sections: string[][] = [];
	const note = (kind: string, address: number): void => {
		sections.at(-1)?.push(`${kind} ${address / PAGE_SIZE}`);
	};
	const reader = new StreamReader({
		dialect: 'qemu-7.2',
		handler: {
			sectionBegin: ({ idstr, type }) => {
				if (idstr === 'ram' && type !== 1) sections.push([]);
			},
			rawPage: (_block, address) => note('raw', address),
			zeroPage: (_block, address) => note('zero', address),
			encodedPage: (kind, _block, address) => note(kind, address),
		},
	});
	reader.push(stream);
	reader.end();
	return sections;
}

/** What was sent after the first walk. */
function repeats(stream: Uint8Array): string[] {
	const all = pagesOf(stream).flat();
	return all.slice(all.indexOf('zero 39') + 1);
}

/**
 * A migration with more passes after the first walk, right before two of which and before the last, with the guest stopped,
 * the guest acts: turns 0, 1 and 2.
 */
async function migrated(o: Partial<PrecopyOptions>, act: (source: ReturnType<typeof lined>, turn: number) => void) {
	const memory = lined();
	// Less than a page fits into the downtime.
	const parameters = { maxBandwidth: 1_000_000, downtimeLimit: 1, ...o.parameters };
	const sink = createCollectingSink();
	let pass = 0;
	const source = {
		...memory,
		syncDirty(block: number, into: Uint32Array) {
			pass++;
			if (pass === 2 || pass === 3) act(memory, pass - 2);
			else if (log.includes('stop')) act(memory, 2);
			memory.syncDirty(block, into);
		},
	};
	const { precopy, log } = prepare({ ...o, parameters, source, clock: createFakeClock(), sink });
	expect(await precopy.run()).toEqual({ status: 'completed' });
	return { source, stream: sink.bytes(), info: precopy.statistics.info() };
}

function loaded(stream: Uint8Array, o: { compress?: boolean } = {}) {
	const target = createFakeTarget(BLOCK);
	const loader = createLoader({
		sink: target,
		dialect: 'qemu-7.2',
		machineType: 'none',
		device: () => 'loaded',
		finish: () => {},
		...o,
	});
	loader.push(stream);
	loader.end();
	return { target, loader };
}

describe('xbzrle', () => {
	const capabilities = { xbzrle: true };

	it('encodes what was sent since the first walk, and the target has the same memory', async () => {
		const { source, stream, info } = await migrated({ capabilities }, (guest, turn) => {
			// Pages 0 and 1 change a little, 2 altogether, 3 becomes zero, 4 is written as it is.
			for (const page of [0, 1]) guest.write(0, page * PAGE_SIZE + 100, Uint8Array.of(0xf0, turn));
			const noise = Uint8Array.from({ length: PAGE_SIZE }, (_, i) => (i % 4 === 0 ? 0x80 + turn : i));
			guest.write(0, 2 * PAGE_SIZE, noise);
			guest.write(0, 3 * PAGE_SIZE, new Uint8Array(PAGE_SIZE));
			guest.write(0, 4 * PAGE_SIZE, guest.memory[0]?.slice(4 * PAGE_SIZE, 5 * PAGE_SIZE) ?? new Uint8Array(0));
		});
		const again = repeats(stream);
		// Nothing is cached before the first walk ended: the first repeat is a miss.
		expect(again.slice(0, 5)).toEqual(['raw 0', 'raw 1', 'raw 2', 'zero 3', 'raw 4']);
		expect(again.slice(5, 9)).toEqual(['xbzrle 0', 'xbzrle 1', 'xbzrle 2', 'zero 3']);
		expect(again).not.toContain('xbzrle 4');
		const { target, loader } = loaded(stream);
		expect(sameMemory(target.memory, source.memory)).toBe(true);
		expect(loader.progress.encodedPages).toBe(again.filter((entry) => entry.startsWith('xbzrle')).length);
		expect(info['xbzrle-cache']).toMatchObject({ 'cache-size': 64 * 1024 * 1024, 'cache-miss': 4, overflow: 0 });
	});

	it('counts as QEMU does: bytes without the record’s word, unchanged pages as found', async () => {
		const { info } = await migrated({ capabilities }, (guest, turn) => {
			guest.write(0, 0, turn === 0 ? Uint8Array.of(0x10) : Uint8Array.of(0x11));
		});
		// A miss; then one changed byte at 0: 00 01 11 behind the encoding byte and the length; then nothing changed.
		expect(info['xbzrle-cache']).toMatchObject({ bytes: 3 + 3, pages: 2, 'cache-miss': 1, overflow: 0 });
	});

	it('sends a page raw whose encoding is longer, as it is cached', async () => {
		const { source, stream, info } = await migrated({ capabilities }, (guest, turn) => {
			const noise = Uint8Array.from({ length: PAGE_SIZE }, (_, i) => (i % 2 === 0 ? turn + 1 : 9));
			guest.write(0, 0, noise);
		});
		expect(repeats(stream)).toEqual(['raw 0', 'raw 0', 'raw 0']);
		expect(info['xbzrle-cache']).toMatchObject({ overflow: 2, bytes: 2 * PAGE_SIZE, pages: 2 });
		expect(sameMemory(loaded(stream).target.memory, source.memory)).toBe(true);
	});

	it('encodes against zeros what was zero in between', async () => {
		const { source, stream } = await migrated({ capabilities }, (guest, turn) => {
			if (turn === 1) guest.write(0, 5 * PAGE_SIZE, new Uint8Array(PAGE_SIZE));
			else guest.write(0, 5 * PAGE_SIZE + 100, Uint8Array.of(0xf0));
		});
		expect(repeats(stream)).toEqual(['raw 5', 'zero 5', 'xbzrle 5']);
		expect(sameMemory(loaded(stream).target.memory, source.memory)).toBe(true);
	});

	it('keeps only as many pages as the cache has room for', async () => {
		const parameters = { maxBandwidth: 1_000_000, downtimeLimit: 1, xbzrleCacheSize: PAGE_SIZE };
		const { source, stream, info } = await migrated({ capabilities, parameters }, (guest, turn) => {
			for (const page of [0, 1]) guest.write(0, page * PAGE_SIZE, Uint8Array.of(turn + 50));
		});
		expect(repeats(stream)).toEqual(['raw 0', 'raw 1', 'xbzrle 0', 'raw 1', 'xbzrle 0', 'raw 1']);
		expect(info['xbzrle-cache']).toMatchObject({ 'cache-size': PAGE_SIZE, 'cache-miss': 4, pages: 2 });
		expect(sameMemory(loaded(stream).target.memory, source.memory)).toBe(true);
	});

	it('is refused by the loader with QEMU’s lines when it cannot be decoded', async () => {
		const data = await written((w) => {
			beginStream(w, 40);
			w.sectionBegin(ramPart);
			w.encodedPage('xbzrle', 'pc.ram', 0x3000, Uint8Array.of(0, 0));
		});
		expect(thrown(() => loaded(data))).toMatchObject({
			code: 'record',
			qemu: [
				'Failed to load XBZRLE page - decode error!',
				'Failed to decompress XBZRLE page at 3000',
				'error while loading state section id 2(ram)',
			],
		});
	});

	it('needs a target whose memory can be read', async () => {
		const data = await written((w) => {
			beginStream(w, 40);
			w.sectionBegin(ramPart);
			w.encodedPage('xbzrle', 'pc.ram', 0, Uint8Array.of(0, 1, 5));
		});
		const { contents: _, ...sink } = createFakeTarget(BLOCK);
		const { loader } = connect({}, { sink });
		expect(thrown(() => loader.push(data))).toMatchObject({ code: 'unsupported' });
	});
});

describe('compressed pages', () => {
	const capabilities = { compress: true };

	it('are all but the first of a block and those of zeros, and the target has the same memory', async () => {
		const { source, stream, info } = await migrated({ capabilities }, (guest, turn) => {
			guest.write(0, 0, Uint8Array.of(turn + 1));
		});
		const [first = []] = pagesOf(stream);
		expect(first.slice(0, 9)).toEqual([
			'raw 0',
			...[1, 2, 3, 4, 5, 6].map((page) => `zlib ${page}`),
			'zero 7',
			'zlib 8',
		]);
		expect(sameMemory(loaded(stream, { compress: true }).target.memory, source.memory)).toBe(true);
		const sent = pagesOf(stream)
			.flat()
			.filter((entry) => entry.startsWith('zlib')).length;
		expect(info.compression).toMatchObject({ pages: sent, busy: 0 });
		expect(info.compression?.['compressed-size']).toBeLessThan(sent * 600);
		expect(info.ram).toMatchObject({ normal: 1, duplicate: 5 });
	});

	it('give way to xbzrle after the first walk', async () => {
		const both = { compress: true, xbzrle: true };
		const { source, stream } = await migrated(
			{ capabilities: both, parameters: { maxBandwidth: 20_000, downtimeLimit: 1 } },
			(guest, turn) => {
				guest.write(0, PAGE_SIZE, Uint8Array.of(turn + 60));
			},
		);
		expect(repeats(stream)).toEqual(['raw 1', 'xbzrle 1', 'xbzrle 1']);
		expect(sameMemory(loaded(stream, { compress: true }).target.memory, source.memory)).toBe(true);
	});

	it('are refused by a loader without the capability, and when they cannot be inflated', async () => {
		const { stream } = await migrated({ capabilities }, () => {});
		expect(thrown(() => loaded(stream))).toMatchObject({
			code: 'unsupported',
			qemu: ['Received an unexpected compressed page', 'error while loading state section id 2(ram)'],
		});
		const broken = await written((w) => {
			beginStream(w, 40);
			w.sectionBegin(ramPart);
			w.encodedPage('zlib', 'pc.ram', 0, Uint8Array.of(0x78, 1, 0, 0, 0, 0, 0));
		});
		expect(thrown(() => loaded(broken, { compress: true }))).toMatchObject({
			qemu: ['decompress data failed', 'error while loading state section id 2(ram)'],
			strerror: 'Operation not permitted',
		});
	});
});

describe('pause-before-switchover', () => {
	const capabilities = { pauseBeforeSwitchover: true };

	it('waits with the guest stopped until told to go on', async () => {
		const { precopy, log, loader } = connect({ capabilities });
		const ended = precopy.run();
		expect(precopy.continue()).toBe(false);
		while (precopy.statistics.status !== 'pre-switchover') await new Promise((resolve) => setImmediate(resolve));
		expect(precopy.statistics.info()).toMatchObject({ status: 'pre-switchover', ram: { 'dirty-sync-count': 1 } });
		expect(precopy.continue()).toBe(true);
		expect(await ended).toEqual({ status: 'completed' });
		expect(log.slice(2)).toEqual([
			'active',
			'stop',
			'pre-switchover',
			'device',
			'pass 2',
			'devices',
			'finish',
			'completed',
		]);
		expect(precopy.continue()).toBe(false);
		expect(loader.status).toBe('completed');
	});

	it('can be cancelled while it waits', async () => {
		const { precopy } = connect({ capabilities });
		const ended = precopy.run();
		while (precopy.statistics.status !== 'pre-switchover') await new Promise((resolve) => setImmediate(resolve));
		expect(precopy.cancel()).toBe(true);
		expect(await ended).toEqual({ status: 'cancelled', stopped: true });
	});
});
