import { readFileSync } from 'node:fs';
import { expect, it, vi } from 'vitest';

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8');
const [, ...program] = read('examples/guest.mjs').split('\n');

it('the example in the README is the program in examples/, without its first line', () => {
	const [block] = /```js\n(.*?)```/su.exec(read('README.md'))?.slice(1) ?? [];
	expect(block).toBe(program.join('\n'));
});

it('the example has at most 30 lines of 120 columns', () => {
	expect(program.filter((line) => line !== '').length).toBeLessThanOrEqual(30);
	expect(Math.max(...program.map((line) => line.length))).toBeLessThanOrEqual(120);
});

it('the example’s guest negotiates, shares a page, dirties memory, and is harvested', async () => {
	const log = vi.spyOn(console, 'log').mockImplementation(() => undefined);
	const example: string = new URL('../examples/guest.mjs', import.meta.url).pathname;
	await import(example);
	const lines = log.mock.calls;
	log.mockRestore();
	const bss = { gfnStart: 0x1200, gfnEnd: 0x1400 };
	const ciphertext: unknown = lines[3]?.[1];
	expect(lines).toEqual([
		['may be migrated:', true, 'shared frames:', [bss, { gfnStart: 0x2000, gfnEnd: 0x2001 }]],
		['dirty frames from 0x2000 on:', '111'],
		['the host reads', '42 42 42 42 42 42 42 42'],
		['the host reads', ciphertext],
	]);
	expect(ciphertext).toMatch(/^\d+( \d+){7}$/u);
	expect(ciphertext).not.toBe(lines[2]?.[1]);
});
