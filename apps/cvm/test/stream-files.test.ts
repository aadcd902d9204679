/** `rewrite`, `convert`, `extract` and `diff`: the same content in other files. */
import { statSync } from 'node:fs';
import { decodeSaveImage, saveImageXml } from '@cvm/qemu-mig';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Folder } from './owner-cli.js';
import { CAPTURE } from './processes.js';
import { capture, indexOf, patched, stream, streamJson, tinyStream } from './stream-cli.js';

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
});
afterEach(() => folder.remove());

/** Runs a command that must succeed. */
const done = async (...argv: readonly string[]): Promise<string> => {
	const { code, stdout, stderr } = await stream(...argv);
	expect([code, stderr]).toEqual([0, '']);
	return stdout;
};
const same = (a: string, b: string): Promise<string> => done('diff', a, b);
const DOMAIN = '<domain type="kvm"><name>guest</name></domain>';

describe('rewrite', () => {
	it('without options gives the same bytes', async () => {
		await done('rewrite', CAPTURE, '-o', folder.at('same'));
		expect(Buffer.compare(folder.read('same'), capture())).toBe(0);
	});

	it.each([
		[['--encoding', 'zlib'], { zlib: 101 }],
		[['--encoding', 'xbzrle'], { xbzrle: 101 }],
		[['--encoding', 'raw', '--part', '64K'], { raw: 101 }],
		[['--no-continue'], { raw: 101 }],
		[['--block-order', 'pc.bios,pc.rom'], { raw: 101 }],
	] as const)('with %j holds the same in another form', async (options, counts) => {
		await done('rewrite', CAPTURE, '-o', folder.at('other'), ...options);
		expect(Buffer.compare(folder.read('other'), capture())).not.toBe(0);
		expect(await same(folder.at('other'), CAPTURE)).toBe('equal\n');
		const { blocks } = await streamJson<{ blocks: { records: Record<string, number> }[] }>(
			'inspect',
			folder.at('other'),
		);
		const sums: Record<string, number> = {};
		for (const { records } of blocks) {
			for (const [kind, count] of Object.entries(records)) sums[kind] = (sums[kind] ?? 0) + count;
		}
		expect(sums).toMatchObject(counts);
	});

	it('puts blocks in the order asked for, and drops the description', async () => {
		const options = ['--block-order', 'pc.bios,pc.rom', '--description', 'drop'];
		await done('rewrite', CAPTURE, '-o', folder.at('other'), ...options);
		const found = await streamJson<{ blocks: { idstr: string }[]; description: boolean }>(
			'inspect',
			folder.at('other'),
		);
		expect(found.blocks.map(({ idstr }) => idstr).slice(0, 3)).toEqual(['pc.bios', 'pc.rom', 'pc.ram']);
		expect(found.description).toBe(false);
	});

	it('takes multifd channels along: the same bytes in as many files, or their pages in another form', async () => {
		await done('convert', CAPTURE, '--to', 'multifd', '--compression', 'zstd', '-o', folder.at('mf'));
		const inputs = ['mf', 'mf.0', 'mf.1'];
		const paths = inputs.map((name) => folder.at(name));
		await done('rewrite', ...paths, '-o', folder.at('again'));
		for (const [i, name] of ['again', 'again.0', 'again.1'].entries()) {
			expect(Buffer.compare(folder.read(name), folder.read(inputs[i] ?? '')), name).toBe(0);
		}
		for (const encoding of ['raw', 'zlib', 'xbzrle']) {
			await done('rewrite', ...paths, '--encoding', encoding, '-o', folder.at(encoding));
			expect(await same(CAPTURE, folder.at(encoding))).toBe('equal\n');
		}
	});

	it('refuses channels that are damaged, missing in other forms, or have nowhere to go', async () => {
		await done('convert', CAPTURE, '--to', 'multifd', '-o', folder.at('mf'));
		const paths = ['mf', 'mf.0', 'mf.1'].map((name) => folder.at(name));
		const bad = folder.write('bad', folder.read('mf.1').subarray(0, 5000));
		const cut = await stream('rewrite', ...paths.slice(0, 2), bad, '-o', folder.at('out'));
		expect([cut.code, cut.stderr]).toMatchObject([1, expect.stringMatching(/^cvm: [^\n]+\n$/)]);
		const half = await stream('rewrite', ...paths.slice(0, 2), '--encoding', 'raw', '-o', folder.at('out'));
		expect(half).toMatchObject({ code: 1, stdout: '' });
		const out = await stream('rewrite', ...paths, '-o', '-');
		expect(out).toMatchObject({
			code: 2,
			stderr: expect.stringContaining('expected a file for a stream with channels'),
		});
		expect(folder.names()).toEqual(['bad', 'mf', 'mf.0', 'mf.1']);
	});

	it('leaves nothing of a stream that is damaged', async () => {
		const cut = folder.write('cut', capture().subarray(0, 300_000));
		const { code, stderr } = await stream('rewrite', cut, '-o', folder.at('other'));
		expect(code).toBe(1);
		expect(stderr).toMatch(/^cvm: '.*cut': offset \d+ \(ram\): stream: expected \d+ more bytes, got \d+\n$/);
		expect(folder.names()).toEqual(['cut']);
	});

	it('replaces a file only with --force, and can replace its own input', async () => {
		const file = folder.write('f', capture());
		expect(await stream('rewrite', CAPTURE, '-o', file)).toMatchObject({ code: 2 });
		await done('rewrite', file, '-o', file, '--force');
		expect(Buffer.compare(folder.read('f'), capture())).toBe(0);
		expect(folder.names()).toEqual(['f']);
	});
});

describe('convert', () => {
	it('to mapped-ram and back keeps everything, and leaves holes', async () => {
		await done('convert', CAPTURE, '--to', 'mapped-ram', '-o', folder.at('mapped'));
		expect((await stream('inspect', folder.at('mapped'))).stdout).toMatch(/^what +QEMU mapped-ram file$/m);
		const { size, blocks } = statSync(folder.at('mapped'));
		expect(size).toBeGreaterThan(16 * 2 ** 20);
		expect(blocks * 512).toBeLessThan(size / 2);
		await done('convert', folder.at('mapped'), '--to', 'plain', '-o', folder.at('plain'));
		expect(await same(folder.at('plain'), CAPTURE)).toBe('equal\n');
	});

	it.each(['raw', 'gzip', 'zstd'])('to a libvirt save file, %s, and back keeps everything', async (packing) => {
		const xml = folder.write('xml', DOMAIN);
		await done('convert', CAPTURE, '--to', 'libvirt', '--xml', xml, '--packing', packing, '-o', folder.at('save'));
		const save = decodeSaveImage(folder.read('save'));
		expect(Buffer.from(saveImageXml(save)).toString()).toBe(DOMAIN);
		expect((await stream('inspect', folder.at('save'))).stdout).toContain(`libvirt save file, ${packing}, with a QEMU`);
		expect(await same(folder.at('save'), CAPTURE)).toBe('equal\n');
		await done('rewrite', folder.at('save'), '-o', folder.at('again'));
		expect(Buffer.compare(folder.read('again'), folder.read('save'))).toBe(0);
	});

	it('of a save file keeps its XML', async () => {
		const xml = folder.write('xml', DOMAIN);
		await done('convert', CAPTURE, '--to', 'libvirt', '--xml', xml, '-o', folder.at('save'), '--running');
		await done('convert', folder.at('save'), '--to', 'libvirt', '--packing', 'gzip', '-o', folder.at('packed'));
		const { header, data } = decodeSaveImage(folder.read('packed'));
		expect(header.wasRunning).toBe(1);
		expect(Buffer.from(saveImageXml({ header, data })).toString()).toBe(DOMAIN);
	});

	it.each(['none', 'zlib', 'zstd'])('to multifd, %s, and back keeps everything', async (compression) => {
		const options = ['--to', 'multifd', '--channels', '3', '--compression', compression];
		await done('convert', CAPTURE, ...options, '-o', folder.at('mf'));
		expect(folder.names()).toEqual(['mf', 'mf.0', 'mf.1', 'mf.2']);
		const channels = [0, 1, 2].map((i) => folder.at(`mf.${i}`));
		await done('convert', folder.at('mf'), ...channels, '--to', 'plain', '-o', folder.at('plain'));
		expect(await same(folder.at('plain'), CAPTURE)).toBe('equal\n');
	});
});

describe('extract', () => {
	const pages = () =>
		tinyStream(8, [[0x1000, 0x08, 7], ...[0, 2, 3, 4, 5, 6, 7].map((i) => [i * 0x1000, 2, 0] as const)]);

	it.each(['raw', 'sparse'])('gives each block its file, %s', async (form) => {
		const file = folder.write('f', pages());
		await done('extract', file, '--ram', form, '-o', folder.at('pc.ram'));
		const ram = folder.read('pc.ram');
		expect(ram.length).toBe(8 * 4096);
		expect(ram.findIndex((byte) => byte !== 0)).toBe(4096);
		expect(ram.lastIndexOf(7)).toBe(8191);
		await done('extract', CAPTURE, '--ram', form, '-o', folder.at('all'));
		expect(statSync(folder.at('all/pc.ram.raw')).size).toBe(16 * 2 ** 20);
		expect(statSync(folder.at('all/rom_etc_acpi_tables.raw')).size).toBe(128 * 1024);
	});

	it('gives the block asked for, and only that', async () => {
		await done('extract', CAPTURE, '--ram', 'raw', '--block', 'pc.bios', '-o', folder.at('bios'));
		expect(statSync(folder.at('bios')).size).toBe(64 * 1024);
	});

	it('makes an ELF core', async () => {
		await done('extract', CAPTURE, '--ram', 'elf', '-o', folder.at('core'));
		const core = Buffer.from(folder.read('core'));
		expect(core.subarray(0, 6).toString('latin1')).toBe('\x7fELF\x02\x01');
		expect([core.readUInt16LE(16), core.readUInt16LE(18)]).toEqual([4, 62]);
	});

	it('gives device state as JSON', async () => {
		await done('extract', CAPTURE, '--devices', '-o', folder.at('devices'));
		const devices = JSON.parse(folder.text('devices')) as { idstr: string; state: { fields: { name: string }[] } }[];
		expect(devices).toHaveLength(29);
		expect(devices.at(-1)?.state.fields.map(({ name }) => name)).toEqual(['size', 'runstate']);
	});

	it('refuses to make up pages, unless told to', async () => {
		const file = folder.write('f', tinyStream(8, [[0x1000, 0x08, 7]]));
		const { code, stderr } = await stream('extract', file, '--ram', 'raw', '-o', folder.at('ram'));
		expect(code).toBe(1);
		expect(stderr).toMatch(/^cvm: '.*f': block 'pc\.ram': 0x0\.\.0x1000 never arrived\n$/);
		expect(folder.names()).toEqual(['f']);
		await done('extract', file, '--ram', 'raw', '--missing', 'zero', '-o', folder.at('ram'));
		expect(statSync(folder.at('ram')).size).toBe(8 * 4096);
	});
});

describe('diff', () => {
	it('tells pages and fields that differ, and exits with 1', async () => {
		const data = capture();
		const page = indexOf(data, 'paused');
		const changed = patched(data, page, ...new TextEncoder().encode('runnin'));
		const { code, stdout } = await stream('diff', CAPTURE, folder.write('b', changed));
		expect(code).toBe(1);
		expect(stdout).toMatch(/^globalstate 0 runstate: 7061757365640000… and 72756e6e696e0000…$/m);
		expect(stdout).toMatch(/^0 pages and 1 field differ$/m);
		const a = folder.write('a', tinyStream(4, [[0x1000, 0x08, 7]]));
		const b = folder.write('c', tinyStream(4, [[0x1000, 0x08, 8]]));
		const found = await streamJson<object>('diff', a, b);
		expect(found).toMatchObject({
			equal: false,
			pages: [{ block: 'pc.ram', start: 4096, end: 8192, reason: 'content' }],
		});
	});

	it('does not count how a description names what is the same', async () => {
		const data = capture();
		const named = indexOf(data, '"name": "runstate"');
		const renamed = patched(data, named, ...new TextEncoder().encode('"name": "runslate"'));
		expect(await same(CAPTURE, folder.write('renamed', renamed))).toBe('equal\n');
		// But tells by the first one's names what is not the same.
		const both = patched(renamed, indexOf(renamed, 'paused'), ...new TextEncoder().encode('runnin'));
		const { code, stdout } = await stream('diff', CAPTURE, folder.write('both', both));
		expect(code).toBe(1);
		expect(stdout).toMatch(/^globalstate 0 runstate: /m);
	});
});
