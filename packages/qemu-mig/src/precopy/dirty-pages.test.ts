import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { createFakeSource } from '../testing.js';
import { DirtyPages } from './dirty-pages.js';

const BLOCKS = [
	{ idstr: 'a', usedLength: 70 * PAGE_SIZE },
	{ idstr: 'empty', usedLength: 0 },
	{ idstr: 'b', usedLength: 33 * PAGE_SIZE },
];
const all = [
	...Array.from({ length: 70 }, (_, page) => `0:${page}`),
	...Array.from({ length: 33 }, (_, page) => `2:${page}`),
];

function drain(dirty: DirtyPages, limit = Number.POSITIVE_INFINITY): string[] {
	const out: string[] = [];
	while (out.length < limit && dirty.take()) out.push(`${dirty.block}:${dirty.page}`);
	return out;
}

describe('the dirty pages', () => {
	it('are at first all pages, in order of blocks and pages', () => {
		const dirty = new DirtyPages(createFakeSource({ blocks: BLOCKS }));
		expect(dirty.count).toBe(103);
		expect(drain(dirty)).toEqual(all);
		expect(dirty.count).toBe(0);
		expect(dirty.take()).toBe(false);
	});

	it('are walked on from where the walk stopped, wrapping', () => {
		const source = createFakeSource({ blocks: BLOCKS });
		const dirty = new DirtyPages(source);
		expect(drain(dirty, 80)).toEqual(all.slice(0, 80));
		source.startDirtyLog();
		for (const page of [0, 31, 32, 69]) source.write(0, page * PAGE_SIZE, Uint8Array.of(1));
		source.write(2, 20 * PAGE_SIZE, Uint8Array.of(1));
		// Page 20 of b is still dirty from the beginning: it is not new.
		expect(dirty.synchronise()).toBe(4);
		expect(drain(dirty)).toEqual([...all.slice(80), '0:0', '0:31', '0:32', '0:69']);
	});

	it('can be put back, and then come first', () => {
		const dirty = new DirtyPages(createFakeSource({ blocks: BLOCKS }));
		drain(dirty, 32);
		dirty.putBack();
		expect(dirty.count).toBe(72);
		expect(drain(dirty, 2)).toEqual(['0:31', '0:32']);
	});

	it('are never past the end of a block, whatever the log says', () => {
		const source = createFakeSource({ blocks: BLOCKS });
		const dirty = new DirtyPages({ ...source, syncDirty: (_block, into) => into.fill(0xffffffff) });
		drain(dirty);
		expect(dirty.synchronise()).toBe(103);
		expect(drain(dirty).sort()).toEqual([...all].sort());
	});
});
