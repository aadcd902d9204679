import { describe, expect, it } from 'vitest';
import { type Block, link } from './program.js';

const block: Block = (cpu) => cpu.ud2();

describe('link', () => {
	it('places label i at base + 16 i, and named labels where they belong', () => {
		const program = link(
			{ name: 'firmware', base: 0x1000, blocks: { a: block, reset: block, c: block }, at: { reset: 0xfffffff0 } },
			{ name: 'kernel', base: 0x2000, blocks: { d: block } },
		);
		expect(['a', 'reset', 'c', 'd'].map((l) => program.address(l))).toEqual([0x1000, 0xfffffff0, 0x1020, 0x2000]);
		expect(program.label(0x1020)).toBe('c');
		expect(program.block(0x2000)).toBe(block);
	});

	it('finds nothing where no block begins', () => {
		const program = link({ name: 'k', base: 0x1000, blocks: { a: block } });
		expect(program.block(0x1001)).toBeUndefined();
		expect(program.label(0x1010)).toBeUndefined();
	});

	it('refuses a label twice, even in two fragments', () => {
		const twice = () =>
			link({ name: 'a', base: 0, blocks: { x: block } }, { name: 'b', base: 16, blocks: { x: block } });
		expect(twice).toThrow('b.x: expected a new label, got a second one');
	});

	it('refuses two blocks at one address', () => {
		const overlap = () =>
			link({ name: 'a', base: 0, blocks: { x: block } }, { name: 'b', base: 0, blocks: { y: block } });
		expect(overlap).toThrow('b.y: expected a free address, got that of x');
	});

	it('refuses addresses between the slots', () => {
		expect(() => link({ name: 'a', base: 8, blocks: { x: block } })).toThrow('a.x: expected a multiple of 16, got 0x8');
	});

	it('refuses to name an address for an unknown label', () => {
		expect(() => link().address('nowhere')).toThrow('label: expected one of the program, got nowhere');
	});
});
