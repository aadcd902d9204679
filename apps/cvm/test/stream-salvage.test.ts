import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Folder } from './owner-cli.js';
import { CAPTURE } from './processes.js';
import { capture, stream, streamJson } from './stream-cli.js';

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
});
afterEach(() => folder.remove());

interface Document {
	readonly complete: boolean;
	readonly gaps: readonly { readonly from: number; readonly to: number }[];
	readonly missing: {
		readonly bytes: number;
		readonly pages: readonly { block: string; start: number; end: number; reason: string }[];
		readonly sections: readonly { text: string }[];
	};
	readonly devices: readonly { readonly idstr: string }[];
}

describe('salvage', () => {
	it('of a whole stream misses nothing', async () => {
		const { code, stdout } = await stream('salvage', CAPTURE);
		expect([code, stdout]).toEqual([0, 'found: 6 blocks, 29 devices\ncomplete: nothing is missing\n']);
	});

	it('of a cut one says what is missing, and makes a whole one of the rest', async () => {
		const cut = folder.write('cut', capture().subarray(0, 300_000));
		const found = await streamJson<Document>('salvage', cut);
		expect(found.complete).toBe(false);
		expect(found.missing.pages[0]).toMatchObject({ block: 'pc.ram' });
		expect(found.missing.sections.map(({ text }) => text)).toContain('the end of the stream');
		const { code, stdout } = await stream('salvage', cut, '-o', folder.at('whole'));
		expect(code).toBe(1);
		expect(stdout).toMatch(/^missing: pc\.bios 0x[0-9a-f]+\.\.0x[0-9a-f]+, never received$/m);
		expect(stdout).toMatch(/^not complete: /m);
		expect((await stream('verify', folder.at('whole'))).stdout).toContain(' 0 errors');
		expect((await stream('verify', '--as', 'qemu-7.2', '--target', CAPTURE, folder.at('whole'))).code).toBe(0);
	});

	it('of one with a hole reads on behind it', async () => {
		const data = capture();
		data.fill(0xff, 100_000, 110_000);
		const found = await streamJson<Document>('salvage', folder.write('f', data));
		expect(found.gaps).toHaveLength(1);
		expect(found.gaps[0]?.to).toBeLessThan(120_000);
		expect(found.devices).toHaveLength(29);
		expect(found.missing.bytes).toBeGreaterThan(0);
	});

	it.each([
		['/nonexistent', 2, "'/nonexistent': No such file or directory"],
		['folder', 2, 'not a file'],
	] as const)('of %s is one line', async (name, code, line) => {
		const ended = await stream('salvage', name === 'folder' ? folder.path : name);
		expect(ended.code).toBe(code);
		expect(ended.stderr).toMatch(/^cvm: [^\n]+\n$/);
		expect(ended.stderr).toContain(line);
	});
});
