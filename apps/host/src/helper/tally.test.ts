import { PAGE_SIZE } from '@cvm/layout';
import { RecordType, recordHeader, WIRE_MAGIC } from '@cvm/ovmf-mh/session';
import type { EmitHelperPage, PageHelper } from '@cvm/qemu-mig';
import { describe, expect, it } from 'vitest';
import { HelperTally } from './tally.js';

const body = new Uint8Array(PAGE_SIZE);
/** The header of a sealed batch in which the pages of `zeroMap` have no body. */
function batch(count: number, zeroMap: bigint): Uint8Array {
	const header = new Uint8Array(recordHeader.size + 8 * count);
	recordHeader.encodeInto(header, { magic: WIRE_MAGIC, type: RecordType.pages, count, zeroMap });
	return header;
}

/** A helper that emits these headers, the first when asked, the others when flushed. */
const emitting = ([first, ...later]: readonly Uint8Array[]): PageHelper => ({
	batchPages: 64,
	seal: (block, _, __, emit) => first && emit(block, 0, first, body),
	flush: (emit) => {
		for (const header of later) emit(0, 1, header, body);
	},
});

function emitted(tally: HelperTally, headers: readonly Uint8Array[]): Uint8Array[] {
	const got: Uint8Array[] = [];
	const emit: EmitHelperPage = (_, __, header) => got.push(header);
	const helper = tally.over(emitting(headers));
	expect(helper.batchPages).toBe(64);
	helper.seal(0, Uint32Array.of(0), 1, emit);
	helper.flush?.(emit);
	return got;
}

describe('what helpers send is counted', () => {
	it('by record, page and zero page, where a record has a header for each body', () => {
		const tally = new HelperTally(3, 'hardened');
		const headers = [batch(64, 0b1011n), new Uint8Array(8), new Uint8Array(8), batch(1, 1n)];
		expect(emitted(tally, headers)).toEqual(headers);
		expect(tally.figures).toEqual({ helpers: 3, records: 2, pages: 65, 'zero-pages': 4 });
	});

	it('page by page, of the posted helper', () => {
		const tally = new HelperTally(1, 'rfc-2021');
		emitted(tally, [new Uint8Array(), new Uint8Array(), new Uint8Array(64)]);
		expect(tally.figures).toEqual({ helpers: 1, records: 3, pages: 3, 'zero-pages': 0 });
	});

	it('of a helper that emits at once, too', () => {
		const tally = new HelperTally(1, 'rfc-2021');
		const { flush, ...helper } = emitting([new Uint8Array()]);
		expect(flush && tally.over(helper).flush).toBeUndefined();
		expect(tally.figures.records).toBe(0);
	});

	it('only if the stream takes it', () => {
		const tally = new HelperTally(1, 'hardened');
		const helper = tally.over(emitting([batch(2, 0n)]));
		const full = () => {
			throw new Error('full');
		};
		expect(() => helper.seal(0, Uint32Array.of(0), 1, full)).toThrow('full');
		expect(tally.figures.pages).toBe(0);
	});
});
