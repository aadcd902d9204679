/** `cvm ovmf inspect`: what it tells of good, odd and broken images. */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import {
	buildFirmwareImage,
	buildFirmwareTable,
	placeFirmwareTable,
	placeOldResetBlock,
	publishedMigrationTable,
	TableGuid,
} from '@cvm/ovmf-mh';
import { fc, test } from '@fast-check/vitest';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { inProcess } from './in-process.js';
import { Folder, hex } from './owner-cli.js';
import { expectOneLine } from './processes.js';

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
});
afterEach(() => folder.remove());

const inspect = (...argv: readonly string[]) => inProcess('ovmf', 'inspect', ...argv);
const sha256 = (...parts: readonly Uint8Array[]) => {
	const hash = createHash('sha256');
	for (const part of parts) hash.update(part);
	return hash.digest('hex');
};
/** What it tells of an image, and how it ends. */
async function told(image: Uint8Array, ...argv: readonly string[]) {
	const path = folder.write('image.fd', image);
	const { code, stderr, stdout } = await inspect(path, ...argv, '--json');
	return { code, stderr, path, json: JSON.parse(stdout) };
}
const le32 = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);
const imageOf = (table: Uint8Array, size = 0x10000) => {
	const image = new Uint8Array(size);
	placeFirmwareTable(image, table);
	return image;
};
const entry = (guid: string, ...words: number[]) => ({ guid, data: le32(...words) });

describe('cvm ovmf inspect', () => {
	it('tells all of our image in lines', async () => {
		const image = buildFirmwareImage();
		const { code, stderr, stdout } = await inspect(folder.write('model.fd', image));
		expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
		for (const line of [
			': 131072 bytes (128 KiB), mapped from 0xfffe0000 to 0xffffffff',
			'reset vector: faf4ebfd',
			'table: footer at 0x1ffd0, 228 bytes, 5 entries',
			'00f771de-1a7e-4fcb-890e-68c77e2fb44e  SEV-ES reset block',
			'SEV-ES processors start at: 0x80b004 (CS base 0x800000, IP 0xb004)',
			'launch secrets: 0x80c000, 3072 bytes',
			'kernel hashes: 0x80cc00, 1024 bytes',
			'migration handler: 0x823000',
			'hardened helper: mailbox 0x820000, private 0x8a0000 to 0x900000, windows 0x900000 to 0xb08000 for 8 helpers',
			`launch digest, with nothing else: ${sha256(image)}`,
			'warning: a model image of this project: no processor can run it',
		]) {
			expect(stdout).toContain(line);
		}
	});

	it('tells the same as one JSON document', async () => {
		const image = buildFirmwareImage();
		const { code, stderr, json } = await told(image);
		expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
		expect(json).toMatchObject({
			size: 131072,
			'reset-vector': { offset: 0x1fff0, kind: 'model' },
			table: { present: true, 'footer-offset': 0x1ffd0, 'total-length': 228 },
			'reset-block': { address: 0x80b004, 'cs-base': 0x800000, ip: 0xb004 },
			'secret-area': { supported: true, base: 0x80c000, size: 0xc00 },
			'hash-area': { supported: true, base: 0x80cc00, size: 0x400 },
			'migration-handler': { form: 'corrected', address: 0x823000, hides: [] },
			'migration-helper': { entry: 0x823000, 'entry-from': 'table', 'layout-from': 'table' },
			launch: { bytes: 131072, 'launch-digest': sha256(image) },
			problems: [],
		});
		expect(json.table.entries.map((e: { name: string; length: number }) => [e.name, e.length])).toEqual([
			['SEV-ES reset block', 22],
			['migration handler entry', 22],
			['SEV secret block', 26],
			['SEV hash table block', 26],
			['hardened helper layout', 114],
		]);
	});

	it('shows the table of hashes for a kernel, with the vector of virtee/sev-snp-measure', async () => {
		const kernel = folder.write('kernel', 'KERNEL');
		const image = buildFirmwareImage();
		const { code, json } = await told(image, '--kernel', kernel);
		expect(code).toBe(0);
		const table = new Uint8Array(Buffer.from(json['kernel-hashes'].table, 'hex'));
		expect(sha256(table)).toBe('b80964b976552903c77cc7282186767c14f96efee71ec3b1f8029c36a4f96152');
		expect(json['kernel-hashes']).toMatchObject({
			gpa: 0x80cc00,
			bytes: 131072 + 176,
			'launch-digest': sha256(image, table),
		});
		const line = await told(image, '--kernel', kernel, '--append', 'console=ttyS0', '--initrd', kernel);
		expect(line.json['kernel-hashes']).toMatchObject({
			cmdline: 'f18aae9b3c09e55bc3047ad361e2442d7c53372470b2958fb83293209a784f71',
			initrd: json['kernel-hashes'].kernel,
		});
		const owner = await inProcess('owner', 'measure', '--digest-only', '--firmware', line.path, '--kernel', kernel);
		expect(owner.stdout.trim()).toBe(json['kernel-hashes']['launch-digest']);
		const { stdout } = await inspect(line.path, '--kernel', kernel);
		expect(stdout).toContain('table for 0x80cc00:\n    0x0   06d63894224fc94cb479a793d411fd21\n');
	});

	it('shows that table, and fails, if QEMU would not write it', async () => {
		const kernel = folder.write('kernel', 'KERNEL');
		const { code, stderr, json } = await told(buildFirmwareImage({ migrationHandler: 'asPosted' }), '--kernel', kernel);
		expect(code).toBe(1);
		expect(stderr).toContain('entry length at 0x1ffa6: expected 18 to');
		expect(json['kernel-hashes'].refused).toContain('expected a SEV hash table block, got none');
		const zero = await told(imageOf(buildFirmwareTable([entry(TableGuid.hashBlock, 0, 0)])), '--kernel', kernel);
		expectOneLine({ ...zero, stdout: '' }, 1);
		expect(zero.stderr).toContain('SEV hash table block: expected a base, got 0 (unsupported)');
	});

	it('K18: says of an entry as posted what it hides, and fails with its offset', async () => {
		const { code, stderr, json, path } = await told(imageOf(publishedMigrationTable('asPosted')));
		expectOneLine({ code, stderr, stdout: '' }, 1);
		expect(stderr).toBe(`cvm: image: '${path}': entry length at 0xffa6: expected 18 to 74, got 65514\n`);
		expect(json['migration-handler']).toMatchObject({
			form: 'asPosted',
			offset: 0xffa2,
			address: 0x823000,
			hides: [{ name: 'SEV secret block' }, { name: 'SEV hash table block' }],
		});
		expect(json['migration-helper']['entry-from']).toBe('built-in');
		expect(json.warnings).toEqual(
			expect.arrayContaining([
				'migration handler entry as posted (length −22): VMMs stop there and do not find it, nor SEV secret block, SEV hash table block',
				'so launch secrets can not be injected',
				'so direct boot with kernel-hashes=on is refused',
			]),
		);
		const { stdout } = await inspect(path);
		expect(stdout).toContain('migration handler: 0x823000, entry malformed as posted');
		expect(stdout).toContain('stops: entry length at 0xffa6');
	});

	it('K18: finds a corrected entry and all behind it', async () => {
		const { code, json } = await told(imageOf(publishedMigrationTable('corrected')));
		expect(code).toBe(0);
		expect(json['migration-handler']).toEqual({ form: 'corrected', offset: 0xffa2, address: 0x823000, hides: [] });
		expect(json.warnings).toContain(
			'a migration handler, but not where its memory is: a VMM must be built with the same addresses',
		);
	});

	it.each<readonly [string, Uint8Array, string]>([
		['no table', new Uint8Array(0x10000), 'no table: no launch secrets, no kernel hashes'],
		['less than 4 KiB', new Uint8Array(100), '100 bytes: QEMU takes flash in multiples of 4096 only'],
		['more than 8 MiB', new Uint8Array(9 << 20), '9437184 bytes: QEMU takes at most 8388608'],
		['an odd multiple of 4 KiB', new Uint8Array(0x11000), 'not a multiple of 64 KiB'],
		['erased flash', new Uint8Array(0x10000).fill(0xff), 'erased flash where a processor starts'],
		['no volume', new Uint8Array(0x10000), 'no firmware volume: perhaps only a part of an image'],
		[
			'an unknown entry',
			imageOf(buildFirmwareTable([entry(TableGuid.footer.replace('9', '8'), 1)])),
			'unknown GUID 86b5',
		],
		[
			'an entry twice',
			imageOf(buildFirmwareTable([entry(TableGuid.resetBlock, 1), entry(TableGuid.resetBlock, 2)])),
			'2 entries 00f771de',
		],
		[
			'a small hash area',
			imageOf(buildFirmwareTable([entry(TableGuid.hashBlock, 0x80cc00, 175)])),
			'hash area of 175 bytes: QEMU needs 176',
		],
		[
			'overlapping areas',
			imageOf(
				buildFirmwareTable([
					entry(TableGuid.hashBlock, 0x80cc00, 0x400),
					entry(TableGuid.secretBlock, 0x80c000, 0x1000),
				]),
			),
			'secret area and hash area overlap',
		],
		[
			'an odd secret area',
			imageOf(buildFirmwareTable([entry(TableGuid.secretBlock, 0x80c001, 0x400)])),
			'secret area is not in multiples of 16 bytes',
		],
	])('warns of %s, and reads it', async (_, image, warning) => {
		const { code, stderr, json } = await told(image);
		expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
		expect(json.warnings.join('\n')).toContain(warning);
	});

	it('reads the reset block of images before the table', async () => {
		const image = new Uint8Array(0x10000);
		placeOldResetBlock(image, 0x80b004);
		const { json } = await told(image);
		expect(json['reset-block']).toMatchObject({ address: 0x80b004 });
		expect(json.warnings.join()).toContain('no table, but a reset block of older images');
	});

	it.each<readonly [string, () => Uint8Array, RegExp]>([
		[
			'the table’s length',
			() => {
				const image = buildFirmwareImage();
				image[image.length - 0x32] = 5;
				image[image.length - 0x31] = 0;
				return image;
			},
			/table length at 0x1ffce: expected 18 to \d+, got 5/,
		],
		[
			'an entry’s length',
			() => {
				const image = buildFirmwareImage();
				image[image.length - 0x32 - 18] = 0;
				return image;
			},
			/entry length at 0x1ffbc: expected 18 to 210, got 0/,
		],
		[
			'data of a wrong length, twice',
			() => imageOf(buildFirmwareTable([entry(TableGuid.secretBlock, 1), entry(TableGuid.hashBlock, 1)])),
			/data of 4c2eb361-\S+ at 0xffb8: expected 8 bytes, got 4 \(and 1 more\)/,
		],
		[
			'metadata that is not there',
			() => imageOf(buildFirmwareTable([entry(TableGuid.sevMetadata, 0x2000)])),
			/ASEV signature at 0xe000: expected ASEV, got /,
		],
		[
			'metadata outside',
			() => imageOf(buildFirmwareTable([entry(TableGuid.igvmMetadata, 0x20000)])),
			/distance of IGVM at 0xffb8: expected a place inside the image/,
		],
	])('says at which offset it is malformed: %s', async (_, make, message) => {
		const { code, stderr, json } = await told(make());
		expectOneLine({ code, stderr, stdout: '' }, 1);
		expect(stderr).toMatch(message);
		expect(json.problems[0].offset).toBeLessThan(json.size);
	});

	it('refuses what it can not take, in one line', async () => {
		mkdirSync(folder.at('folder'));
		const big = folder.write('big.fd', '');
		truncateSync(big, 64 * 2 ** 20 + 1);
		const image = folder.write('image.fd', buildFirmwareImage());
		const cases: readonly (readonly [readonly string[], 1 | 2, string])[] = [
			[[], 2, "missing required argument 'file'"],
			[['/nonexistent'], 2, "image: '/nonexistent': No such file or directory"],
			[[folder.at('folder')], 2, 'not a file'],
			[[folder.write('empty', '')], 1, 'expected a firmware image, got 0 bytes'],
			[[big], 1, 'expected at most 67108864 bytes, got 67108865'],
			[[image, '--nope'], 2, "unknown option '--nope'"],
			[[image, '--append', 'quiet'], 2, '--append: needs --kernel'],
			[[image, '--kernel', '/nonexistent'], 2, "--kernel: '/nonexistent': No such file"],
		];
		for (const [argv, code, text] of cases) {
			const ended = await inspect(...argv);
			expectOneLine(ended, code);
			expect(ended.stderr).toContain(text);
			expect(ended.stdout).toBe('');
		}
	});

	it('has help with an example', async () => {
		const { code, stdout } = await inspect('--help');
		expect(code).toBe(0);
		expect(stdout).toContain('cvm ovmf inspect /usr/share/OVMF/OVMF_CODE.fd');
	});

	const flips = fc.array(fc.tuple(fc.nat(0x1ff), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 4 });
	test.prop([flips, fc.constantFrom('asPosted', 'corrected')], { numRuns: 60 })(
		'ends in good order for any damage, in lines and in JSON',
		async (changes, migrationHandler) => {
			const image = buildFirmwareImage({ size: 0x10000, migrationHandler });
			for (const [at, value] of changes) image[image.length - 1 - at] = value;
			const { code, stderr, json, path } = await told(image);
			expect([0, 1]).toContain(code);
			expect(stderr.split('\n')).toHaveLength(code + 1);
			expect(code).toBe(json.problems.length === 0 ? 0 : 1);
			expect((await inspect(path)).code).toBe(code);
		},
	);
});

const data = process.env['CVM_PUBLIC_DATA'];
describe.runIf(data)('public images', () => {
	it('AmdSev build: the digest with empty kernel and initrd is that of virtee/sev-snp-measure', async () => {
		const empty = folder.write('empty', '');
		const image = new Uint8Array(readFileSync(join(data ?? '', 'ovmf', 'ovmf_AmdSev_suffix.bin')));
		const { code, json } = await told(
			...([image, '--kernel', empty, '--initrd', empty, '--append', 'console=ttyS0 loglevel=7'] as const),
		);
		expect(code).toBe(0);
		expect(json['kernel-hashes']['launch-digest']).toBe(
			'82a3ee5d537c3620628270c292ae30cb40c3c878666a7890ee7ef2a08fb535ff',
		);
		expect(json['kernel-hashes']['snp-page']).toMatchObject({ gpa: 0x810000 });
		expect(json['sev-metadata']).toHaveLength(7);
		expect(json['tdx-metadata']).toHaveLength(6);
		expect(hex(image).length / 2).toBe(json.size);
	});

	it('OvmfX64 build: unsupported areas; the digest is that of virtee/sev-snp-measure', async () => {
		const { code, json } = await told(
			new Uint8Array(readFileSync(join(data ?? '', 'ovmf', 'ovmf_OvmfX64_suffix.bin'))),
		);
		expect(code).toBe(0);
		expect(json['hash-area']).toEqual({ supported: false, base: 0, size: 0 });
		expect(json['secret-area']).toEqual({ supported: false, base: 0, size: 0 });
		expect(json.launch['launch-digest']).toBe('b4c021e085fb83ceffe6571a3d357b4a98773c83c474e47f76c876708fe316da');
	});
});
