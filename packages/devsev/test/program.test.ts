import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { layout, u8, u16, u32, u64 } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { whyUnreachable } from '../src/node/index.js';
import { temporaryFolder } from './rig.js';

const header = layout('Elf64_Ehdr', 64, {
	magic: u32(0),
	class: u8(4),
	phoff: u64(32),
	phentsize: u16(54),
	phnum: u16(56),
});
const PT_LOAD = 1;
const PT_INTERP = 3;
const folder = temporaryFolder();
let count = 0;

function file(content: Uint8Array | string, mode = 0o755): string {
	const path = join(folder, `program-${count++}`);
	writeFileSync(path, content);
	chmodSync(path, mode);
	return path;
}

function elf(segments: readonly number[], fields: Partial<Parameters<typeof header.encode>[0]> = {}): Uint8Array {
	const out = new Uint8Array(64 + 56 * segments.length);
	const head = { magic: 0x464c457f, class: 2, phoff: 64n, phentsize: 56, phnum: segments.length, ...fields };
	out.set(header.encode(head));
	for (const [i, type] of segments.entries()) out[64 + 56 * i] = type;
	return out;
}

const dynamic = elf([PT_LOAD, PT_INTERP]);
const fixed = elf([PT_LOAD, PT_LOAD]);

describe('what a preloaded library reaches', () => {
	it('is a program with an interpreter', () => {
		expect(whyUnreachable(file(dynamic))).toBeUndefined();
		expect(whyUnreachable(process.execPath)).toBeUndefined();
	});

	it('is not a static one', () => {
		const path = file(fixed);
		expect(whyUnreachable(path)).toBe(`${path} is statically linked: a preloaded library (LD_PRELOAD) cannot reach it`);
	});

	it('is not a 32-bit one', () => {
		expect(whyUnreachable(file(elf([PT_INTERP], { class: 1 })))).toMatch(/is a 32-bit program/);
	});

	it('is found through the PATH', () => {
		expect(whyUnreachable('sh')).toBeUndefined();
	});

	it('is judged by its interpreter if it is a script', () => {
		const interpreter = file(fixed);
		expect(whyUnreachable(file(`#! ${interpreter} -x\n`))).toMatch(interpreter);
		expect(whyUnreachable(file('#!/bin/sh\n'))).toBeUndefined();
	});

	it('is not looked for in scripts that go round in circles', () => {
		const path = join(folder, 'ouroboros');
		writeFileSync(path, `#!${path}\n`, { mode: 0o755 });
		expect(whyUnreachable(path)).toBeUndefined();
	});

	it.each([
		['an empty file', new Uint8Array(0)],
		['half a header', dynamic.slice(0, 40)],
		['text', 'echo hello\n'],
		['program headers far away', elf([], { phoff: 1n << 62n, phnum: 3 })],
		['endless program headers', elf([PT_LOAD], { phnum: 0xffff, phentsize: 0xffff })],
	])('is given a try if it is %s', (_, content) => {
		expect(whyUnreachable(file(content))).toBeUndefined();
	});

	it('is given a try if it does not exist or is a folder', () => {
		expect(whyUnreachable(join(folder, 'nothing'))).toBeUndefined();
		const path = join(folder, 'folder');
		mkdirSync(path);
		expect(whyUnreachable(path)).toBeUndefined();
	});
});
