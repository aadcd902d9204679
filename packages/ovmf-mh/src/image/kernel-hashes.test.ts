import { nobleProvider as provider } from '@cvm/crypto';
import { fromHex, guidToBytes, toHex } from '@cvm/layout';
import { kernelHashesTable } from '@cvm/sev-hw/owner';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { readFirmwareBlocks } from './blocks.js';
import { buildFirmwareImage } from './image.js';
import {
	buildHashTable,
	directBootHashes,
	HASH_TABLE_SIZE,
	HashGuid,
	hashPage,
	hashTablePlace,
} from './kernel-hashes.js';
import { verifyBlob } from './verify-blob.js';

const text = (value: string) => new TextEncoder().encode(value);
const KERNEL = text('KERNEL');
const TABLE = buildHashTable(directBootHashes(provider, { kernel: KERNEL }));
const NUL = Uint8Array.of(0);
/** The hash region of an AmdSev build. */
const region = (table: Uint8Array, size = 0x400) => {
	const out = new Uint8Array(size);
	out.set(table.subarray(0, size));
	return out;
};

describe('the table of hashes', () => {
	it('for the kernel KERNEL alone is that of virtee/sev-snp-measure', () => {
		expect(TABLE).toEqual(
			fromHex(`
			06d63894224fc94cb479a793d411fd21 a800d82dd09720bd944caa78e7714d36 ab2a32006e340b9cffb37a989ca544e6
			bb780a2c78901d3fb33738768511a306 17afa01d31f7ba442f3ad74b9af141e2 9169781d3200e3b0c44298fc1c149afb
			f4c8996fb92427ae41e4649b934ca495 991b7852b8553794e74dd2ab7f42b835 d5b172d2045b3200a204d4ad1de3e9b0
			7751899e5cf4d4a3017328c41372c70f dcc8db9587bb38fb0000000000000000`),
		);
		expect(TABLE).toHaveLength(HASH_TABLE_SIZE);
		expect(toHex(provider.digest('sha256', TABLE))).toBe(
			'b80964b976552903c77cc7282186767c14f96efee71ec3b1f8029c36a4f96152',
		);
	});

	it('hashes the command line with its NUL', () => {
		const { cmdline } = directBootHashes(provider, { kernel: KERNEL, commandLine: text('console=ttyS0') });
		expect(toHex(cmdline)).toBe('f18aae9b3c09e55bc3047ad361e2442d7c53372470b2958fb83293209a784f71');
	});

	const part = fc.option(fc.uint8Array({ maxLength: 100 }), { nil: undefined });
	test.prop([fc.uint8Array({ maxLength: 100 }), part, part], { numRuns: 50 })(
		'is what the guest’s owner computes, whatever is booted, and OVMF takes each part of it',
		(kernel, initrd, commandLine) => {
			const boot = { kernel, ...(initrd && { initrd }), ...(commandLine && { commandLine }) };
			const table = buildHashTable(directBootHashes(provider, boot));
			expect(table).toEqual(kernelHashesTable(provider, boot));
			const verdict = (name: string, blob: Uint8Array) => verifyBlob(provider, region(table), name, blob).result;
			expect(verdict('kernel', kernel)).toBe('success');
			expect(verdict('initrd', initrd ?? new Uint8Array(0))).toBe('success');
			expect(verdict('cmdline', Uint8Array.of(...(commandLine ?? []), 0))).toBe('success');
			expect(verdict('cmdline', Uint8Array.of(...(commandLine ?? []), 0, 0))).toBe('dead-loop');
		},
	);

	it('is refused with a hash of another length', () => {
		const hashes = directBootHashes(provider, { kernel: KERNEL });
		expect(() => buildHashTable({ ...hashes, initrd: new Uint8Array(48) })).toThrow(
			'hash of initrd: expected 32 bytes, got 48',
		);
	});

	it.each([
		[undefined, 'expected a SEV hash table block, got none'],
		[{ base: 0, size: 0 }, 'expected a base, got 0 (unsupported)'],
		[{ base: 0x80cc00, size: 175 }, 'expected at least 176 bytes, got 175'],
	])('has no place at %j', (hashBlock, reason) => {
		expect(hashTablePlace(hashBlock ? { hashBlock } : {})).toMatchObject({
			ok: false,
			reason: expect.stringContaining(reason),
		});
	});

	it('has its place in our image', () => {
		const place = hashTablePlace(readFirmwareBlocks(buildFirmwareImage()));
		expect(place).toEqual({ ok: true, area: { base: 0x80cc00, size: 0x400 } });
		expect(hashTablePlace({ hashBlock: { base: 4096, size: 176 } }).ok).toBe(true);
	});

	it('is measured by SEV-SNP as a page: zeros but for the table', () => {
		const page = hashPage(TABLE, 0x810c00);
		expect(page.subarray(0xc00, 0xc00 + 176)).toEqual(TABLE);
		expect(page.every((byte, i) => byte === 0 || (i >= 0xc00 && i < 0xcb0))).toBe(true);
		expect(hashPage(undefined, 0x810c00)).toEqual(new Uint8Array(4096));
		expect(() => hashPage(TABLE, 0x810f51)).toThrow('hash table at 0x810f51: expected 176 bytes within its page');
	});
});

describe('OVMF’s verifier', () => {
	const changed = (at: number, ...values: number[]) => {
		const out = region(TABLE);
		out.set(values, at);
		return out;
	};

	it.each([
		['region below a header', TABLE.subarray(0, 17)],
		['another GUID', changed(0, 1)],
		['a length below a header', changed(16, 17, 0)],
		['a length beyond the region', region(TABLE, 167)],
		['a table with no entries', changed(16, 18, 0)],
	])('denies access without a table: %s', (_, bytes) => {
		expect(verifyBlob(provider, bytes, 'kernel', KERNEL)).toMatchObject({
			result: 'access-denied',
			reason: 'no table',
		});
	});

	it('takes a table that fills its region', () => {
		expect(verifyBlob(provider, region(TABLE, 168), 'kernel', KERNEL).result).toBe('success');
	});

	it.each([
		['kernel', text('kernel'), 'dead-loop', 'access-denied'],
		['initrd', NUL, 'dead-loop', 'access-denied'],
		['cmdline', text(''), 'dead-loop', 'access-denied'],
		['setup', KERNEL, 'dead-loop', 'access-denied'],
	])('stops for a %s that is another one, where it once denied it', (name, blob, now, then) => {
		expect(verifyBlob(provider, region(TABLE), name, blob).result).toBe(now);
		expect(verifyBlob(provider, region(TABLE), name, blob, { edk2: '2021' }).result).toBe(then);
	});

	it('stops if the fetch failed, even without a table; once it took what it had got', () => {
		expect(verifyBlob(provider, new Uint8Array(0), 'kernel', undefined).result).toBe('dead-loop');
		expect(verifyBlob(provider, region(TABLE), 'initrd', undefined, { edk2: '2021' }).result).toBe('success');
	});

	it('lets a blob pass that the table does not name, as posted; refuses it, fixed', () => {
		const nameless = changed(0x76, 0xff);
		expect(verifyBlob(provider, nameless, 'kernel', text('anything')).result).toBe('success');
		expect(verifyBlob(provider, nameless, 'kernel', KERNEL, { edk2: '2021' }).result).toBe('access-denied');
		expect(verifyBlob(provider, nameless, 'kernel', KERNEL, { missingEntry: 'fixed' }).result).toBe('dead-loop');
	});

	it('so passes what stands behind an entry longer than the rest', () => {
		const long = changed(0x12 + 16, 151, 0);
		expect(verifyBlob(provider, long, 'kernel', text('anything'))).toEqual({
			result: 'success',
			reason: 'no entry for it',
		});
	});

	it('stands still for ever on an empty entry, as posted; denies by it, fixed', () => {
		const empty = changed(0x12 + 16, 0, 0);
		expect(verifyBlob(provider, empty, 'kernel', KERNEL)).toEqual({
			result: 'endless-loop',
			reason: 'entry of length 0',
			offset: 0x12,
		});
		expect(verifyBlob(provider, empty, 'kernel', KERNEL, { emptyEntry: 'fixed' }).result).toBe('access-denied');
		// The one that is looked for is found before its length is added.
		expect(verifyBlob(provider, empty, 'cmdline', NUL)).toMatchObject({ result: 'access-denied', offset: 0x12 });
	});

	it.each([18, 17, 49, 51])('denies a hash in an entry of %i bytes', (length) => {
		const table = changed(0x12 + 16, length, 0);
		expect(verifyBlob(provider, table, 'cmdline', NUL)).toMatchObject({
			result: 'access-denied',
			reason: 'hash is not 32 bytes',
		});
	});

	test.prop([fc.uint8Array({ minLength: 0, maxLength: 400 }), fc.constantFrom('kernel', 'initrd', 'cmdline', '')], {
		numRuns: 200,
	})('ends for any region', (noise, name) => {
		const bytes = Uint8Array.of(...guidToBytes(HashGuid.table), 0, 1, ...noise);
		const { result, offset = 0 } = verifyBlob(provider, bytes, name, KERNEL);
		expect(['success', 'access-denied', 'dead-loop', 'endless-loop']).toContain(result);
		expect(offset).toBeLessThan(bytes.length);
	});
});
