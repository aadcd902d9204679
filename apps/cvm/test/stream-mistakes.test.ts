/** Mistakes of a person: one clear line, the right exit code, no file made or changed. */
import { mkdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Folder } from './owner-cli.js';
import { expectOneLine } from './processes.js';
import { stream, tinyStream } from './stream-cli.js';

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
	folder.write('f', tinyStream(1, [[0, 0x02, 0]]));
	folder.write('text', 'hello world\n');
	folder.write('empty', '');
	mkdirSync(folder.at('folder'));
});
afterEach(() => folder.remove());

const EVERY = ['inspect', 'extract --devices -o @o', 'rewrite -o @o', 'convert --to plain -o @o'];

const MISTAKES: readonly (readonly [argv: string, code: 1 | 2, line: string])[] = [
	...EVERY.flatMap((command) => [
		[`${command} /nonexistent`, 2, "'/nonexistent': No such file or directory"] as const,
		[`${command} @folder`, 2, 'not a file'] as const,
		[`${command} @text`, 1, 'expected 0x5145564d'] as const,
		[`${command} @empty`, 1, 'empty'] as const,
		[`${command} @f --dialect qemu-1`, 2, 'expected one of qemu-7.2, qemu-9'] as const,
		[`${command}`, 2, "missing required argument 'file'"] as const,
		[`${command} @f --nonesuch`, 2, "unknown option '--nonesuch'"] as const,
	]),
	['nonesuch', 2, "unknown command 'nonesuch'"],
	['diff @f', 2, "missing required argument 'b'"],
	['diff @f /nonexistent', 2, "'/nonexistent': No such file or directory"],
	['inspect @f --map @m.jpg', 2, 'expected a name in .png or .svg'],
	['inspect @f --map /nonexistent/m.png', 1, "'/nonexistent/m.png': No such file or directory"],
	['rewrite @f', 2, "required option '-o, --output <file>' not specified"],
	['rewrite @f -o @text', 2, 'File exists; --force replaces it'],
	['rewrite @f -o @folder', 2, 'expected a file name, got a folder'],
	['rewrite @f -o /nonexistent/o', 1, 'No such file or directory'],
	['rewrite @f -o @o --encoding lzma', 2, "argument 'lzma' is invalid"],
	['rewrite @f -o @o --part 0', 2, 'expected bytes'],
	['rewrite @f -o @o --part x', 2, 'expected bytes'],
	['rewrite @f -o @o --block-order nonesuch', 1, 'nonesuch'],
	['convert @f -o @o', 2, "required option '--to <form>' not specified"],
	['convert @f -o @o --to plain --xml @text', 2, '--xml: expected --to libvirt, got --to plain'],
	['convert @f -o @o --to mapped-ram --channels 2', 2, '--channels: expected --to multifd, got --to mapped-ram'],
	['convert @f -o @o --to multifd --channels 0', 2, 'expected 1 to 255'],
	['convert @f -o - --to multifd', 2, '--output: expected a file for multifd'],
	['convert @f -o @o --to libvirt', 2, '--xml: expected one, as the input is no save file'],
	['convert @f -o @o --to libvirt --xml /nonexistent', 2, "--xml: '/nonexistent': No such file or directory"],
	['extract @f -o @o', 2, 'extract: expected --ram, --devices or both'],
	['extract @f -o @o --ram elf --block pc.ram', 2, '--block: expected --ram raw or sparse'],
	['extract @f -o @o --ram raw --block nonesuch', 1, "expected one of 'pc.ram', got 'nonesuch'"],
	['extract @f -o - --ram raw --devices', 2, '--output: expected a folder for more than one file, got -'],
	['extract @f -o @text --ram raw --devices', 1, 'File already exists'],
];

describe('a mistake', () => {
	it.each(MISTAKES)('in `%s` is one line, code %i', async (argv, code, line) => {
		const before = folder.names();
		const ended = await stream(...argv.split(' ').map((arg) => arg.replace('@', `${folder.path}/`)));
		expect(expectOneLine(ended, code)).toContain(line);
		expect(folder.names()).toEqual(before);
		expect(folder.text('text')).toBe('hello world\n');
	});
});
