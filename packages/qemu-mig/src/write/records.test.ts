import { toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { page, written } from '../../test/streams.js';
import type { StreamWriter } from './writer.js';

/** The bytes of what `write` writes after a record that names block `a`. */
const bytesAfter = async (write: (writer: StreamWriter) => void): Promise<string> =>
	toHex(
		(
			await written((w) => {
				w.zeroPage('a', 0, 0);
				write(w);
			})
		).subarray(11),
	);

// Byte order and order of fields, written out: a reader that shares a mistake with the writer would not notice.
describe('records, as their trees write them', () => {
	it.each<[string, (writer: StreamWriter) => void, string]>([
		[
			'XBZRLE (a record of QEMU 7.2.22)',
			(w) => w.encodedPage('xbzrle', 'a', 0x8000, Uint8Array.of(0, 2, 0x58, 0x3a)),
			'0000000000008060 01 0004 0002583a',
		],
		[
			'COMPRESS_PAGE',
			(w) => w.encodedPage('zlib', 'a', 0x1000, Uint8Array.of(0x78, 1)),
			'0000000000001120 00000002 7801',
		],
		['MULTIFD_FLUSH', (w) => w.multifdFlush(), '0000000000000200'],
		[
			'a bitmap of sev-v1',
			(w) =>
				w.encryptedBitmap('a', 0, [{ word: 1, startGpa: 0x100000n, pages: 3n, bitmap: new Uint8Array(8).fill(7) }]),
			'0000000000000220 00000002 00000001 0000000000100000 0000000000000003 0000000000000008 0707070707070707 00000002',
		],
		[
			'a region list of sev-list, in host order',
			(w) => w.hostRegions('a', 0, { start: 1, regions: [{ gfnStart: 0x10n, gfnEnd: 0x1234n }], end: 2 }),
			'0000000000000220 00000002 00000001 00000001 1000000000000000 3412000000000000 00000002',
		],
		[
			'no region list of sev-list',
			(w) => w.hostRegions('a', 0, { start: 2, regions: [], end: undefined }),
			'0000000000000220 00000002 00000002',
		],
		[
			'a region list of sev-v4',
			(w) => w.sharedRegions('a', 0, [{ gfnStart: 0x10, gfnEnd: 0x1234 }]),
			'0000000000000220 00000002 00000001 00000010 00001234 00000002',
		],
		[
			'PACKAGED, POSTCOPY_RAM_DISCARD',
			(w) => {
				w.packaged(12907);
				w.ramDiscard('a', [{ start: 0x8000n, length: 0x1000n }]);
			},
			'08 0007 0004 0000326b 08 0006 0014 00 01 61 00 0000000000008000 0000000000001000',
		],
		[
			'the block list of a postcopy, with x-ignore-shared and with mapped-ram',
			(w) => {
				w.blockList([{ idstr: 'a', usedLength: 0x200000, pageSize: 0x200000, address: 0xfffc0000n }]);
				const mapped = { version: 1, pageSize: 0x1000n, bitmapOffset: 0x40n, pagesOffset: 0x100000n };
				w.mappedBlock({ idstr: 'b', usedLength: 0x1000, mapped }, new Uint8Array(8).fill(1));
			},
			'0000000000200004 01 61 0000000000200000 0000000000200000 00000000fffc0000' +
				'01 62 0000000000001000 00000001 0000000000001000 0000000000000040 0000000000100000 0101010101010101',
		],
	])('%s', async (_name, write, hex) => {
		expect(await bytesAfter(write)).toBe(hex.replaceAll(' ', ''));
	});

	it('helper pages with and without subtype', async () => {
		const header = new Uint8Array(12).fill(0xee);
		const payload = toHex(page(7));
		const withSubtype = await bytesAfter((w) => w.migrationHelperPage('a', 0x3000, header, page(7), 4));
		expect(withSubtype).toBe(`0000000000003220000000040000000c${toHex(header)}00001000${payload}`);
		const without = await bytesAfter((w) => w.migrationHelperPage('a', 0x3000, header, page(7), undefined));
		expect(without).toBe(`00000000000032200000000c${toHex(header)}00001000${payload}`);
		await expect(written((w) => w.migrationHelperPage('a', 0, header, header, 4))).rejects.toThrow(
			'expected 4096 bytes',
		);
	});
});
