import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { differingPages } from './compare-files.js';

let folder = '';
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-test-'));
});
afterEach(() => {
	rmSync(folder, { recursive: true, force: true });
});

const PAGES = 600; // more than two pieces
const file = (name: string, change: (bytes: Uint8Array) => void = () => undefined): string => {
	const bytes = new Uint8Array(PAGES * 4096).fill(7);
	change(bytes);
	writeFileSync(join(folder, name), bytes);
	return join(folder, name);
};

it('names the pages in which two files differ, in any part of them', async () => {
	const one = file('one');
	const changed = [0, 4096 * 255 + 4095, 4096 * 256, 4096 * 599 + 1];
	const other = file('other', (bytes) => {
		for (const at of changed) bytes[at] = 8;
	});
	expect(await differingPages(one, one)).toEqual([]);
	expect(await differingPages(one, other)).toEqual([0, 255, 256, 599].map((page) => page * 4096));
});

it('counts what one of them lacks as different', async () => {
	const short = join(folder, 'short');
	writeFileSync(short, new Uint8Array(4096 * 598).fill(7));
	for (const pair of [[file('one'), short] as const, [short, file('one')] as const]) {
		expect(await differingPages(...pair)).toEqual([598 * 4096, 599 * 4096]);
	}
});
