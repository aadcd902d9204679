import { expect, it } from 'vitest';
import { HelperRecords, messageText } from './helper-records.js';

const head = (length: number, fields: readonly (readonly [number, 1 | 2 | 4, number])[]): Uint8Array => {
	const out = new Uint8Array(length);
	const view = new DataView(out.buffer);
	view.setUint32(0, 0x484d5643, true);
	for (const [at, size, value] of fields) {
		if (size === 1) view.setUint8(at, value);
		else if (size === 2) view.setUint16(at, value, true);
		else view.setUint32(at, value, true);
	}
	return out;
};
const record = (epoch: number, stream: number, count: number): Uint8Array =>
	head(72 + 8 * count, [
		[0x18, 4, epoch],
		[0x20, 2, stream],
		[0x22, 2, count],
	]);

it('tells what headers of the hardened helper say, and nothing of others', () => {
	const records = new HelperRecords();
	expect(records.line).toBeUndefined();
	records.page(new Uint8Array(0));
	records.page(Uint8Array.of(0x43, 0x56, 0x4d, 0x48, 0, 0, 0, 0));
	records.page(new Uint8Array(80));
	expect(records.line).toBeUndefined();
	records.page(record(2, 0, 64));
	expect(records.line).toBe('1 sealed record for 64 pages in 1 stream, epoch 2');
	const odd = record(5, 1, 1);
	// Reserved bytes, which a reader of streams has no business with.
	odd[0x07] = 0xff;
	odd[0x24] = 0xff;
	records.page(odd);
	records.message();
	expect(records.line).toBe('1 message; 2 sealed records for 65 pages in 2 streams, epochs 2 to 5');
});

it('names messages of the hardened helper', () => {
	expect(messageText(head(240, [[6, 1, 0x10]]))).toBe('HELLO, 240 bytes');
	expect(messageText(head(112, [[6, 1, 0x18]]))).toBe('ABORT, 112 bytes');
	expect(messageText(head(240, [[6, 1, 0x77]]))).toBe('240 bytes');
	expect(messageText(new Uint8Array(7))).toBe('7 bytes');
	expect(messageText(new Uint8Array(0))).toBe('0 bytes');
});
