import { describe, expect, it } from 'vitest';
import { crc32c, vmsaChecksum } from './checksum.js';

const saveArea = (change: (page: Uint8Array) => void): Uint8Array => {
	const page = Uint8Array.from({ length: 4096 }, (_, i) => (11 * i + 5) % 256);
	change(page);
	return page;
};

describe('the checksum of a save area', () => {
	it('is made of CRC-32C, with the check value of RFC 3720 and of "123456789"', () => {
		expect(crc32c(Uint8Array.from('123456789', (c) => c.charCodeAt(0)))).toBe(0xe3069283);
		expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
	});

	it('is that of an independent computation for zeros', () => {
		expect(vmsaChecksum(new Uint8Array(4096))).toBe(0x74887af2b7a19c8fn);
	});

	it.each([0x000, 0x007, 0x008, 0x010, 0x388, 0xfbf])('changes with byte %d', (at) => {
		const before = vmsaChecksum(saveArea(() => undefined));
		const after = vmsaChecksum(
			saveArea((page) => {
				page[at] = (page[at] ?? 0) ^ 1;
			}),
		);
		expect(after & 0xffffffffn).not.toBe(before & 0xffffffffn);
		expect(after >> 32n).not.toBe(before >> 32n);
	});

	it('does not cover the bytes from 0xFC0 on', () => {
		expect(vmsaChecksum(saveArea((page) => page.fill(0, 0xfc0)))).toBe(vmsaChecksum(saveArea(() => undefined)));
	});

	it('sees words change places between streams: only the high half is blind to that', () => {
		const swapped = saveArea((page) => {
			for (let at = 0; at < 0xfc0; at += 24) {
				const first = page.slice(at, at + 8);
				page.copyWithin(at, at + 8, at + 16);
				page.set(first, at + 8);
			}
		});
		const [before, after] = [vmsaChecksum(saveArea(() => undefined)), vmsaChecksum(swapped)];
		expect(after >> 32n).toBe(before >> 32n);
		expect(after & 0xffffffffn).not.toBe(before & 0xffffffffn);
	});
});
