import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { Dialect, StreamEvent } from '../src/index.js';
import { isStreamError, readStream, StreamReader } from '../src/index.js';
import { ALL_DIALECTS, dialectStream, mappedStream } from './dialect-streams.js';
import { patched, relayed, thrown } from './streams.js';

const chunkSize = fc.oneof(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 65, max: 20000 }));

/** As a source that is read in pieces. */
function* pieces(data: Uint8Array, size: number): Generator<Uint8Array> {
	for (let at = 0; at < data.length; at += size) yield data.subarray(at, at + size);
}

describe.each(ALL_DIALECTS)('a stream of %s', (dialect: Dialect) => {
	test.prop([dialectStream(dialect), chunkSize])(
		'is written again byte for byte, in any chunks',
		async (make, size) => {
			const data = await make;
			expect(Buffer.compare((await relayed(data, size, dialect))[0], data)).toBe(0);
		},
	);

	test.prop([dialectStream(dialect), chunkSize], { numRuns: 20 })(
		'has places that cover it without gap or overlap',
		async (make, size) => {
			const data = await make;
			let at = 0;
			const events: StreamEvent[] = [];
			for await (const event of readStream(pieces(data, size), { dialect })) {
				if (event.type === 'end') continue;
				events.push(event);
				if (event.type === 'dialect' || ['packageBegin', 'packageEnd', 'ramDiscard'].includes(event.type)) continue;
				expect(event.at.offset, event.type).toBe(at);
				at += event.at.length;
			}
			expect(at).toBe(data.length);
			const begins = events.filter(({ type }) => type === 'packageBegin').length;
			expect(events.filter(({ type }) => type === 'packageEnd').length).toBe(begins);
		},
	);

	test.prop([dialectStream(dialect), fc.nat(), fc.nat(7), chunkSize], { numRuns: 60 })(
		'with one bit flipped is read or refused with a typed error, alike in any chunks',
		async (make, position, bit, size) => {
			const data = await make;
			const at = position % data.length;
			const damaged = patched(data, at, (data[at] ?? 0) ^ (1 << bit));
			const attempt = (step: number): unknown =>
				thrown(() => {
					const reader = new StreamReader({ dialect, handler: {}, check: 'target' });
					for (const piece of pieces(damaged, step)) reader.push(piece);
					reader.end();
				});
			const whole = attempt(damaged.length);
			const parts = attempt(size);
			if (whole !== undefined) expect(isStreamError(whole), String(whole)).toBe(true);
			expect(isStreamError(parts) && [parts.code, parts.offset]).toEqual(
				isStreamError(whole) && [whole.code, whole.offset],
			);
		},
	);
});

describe('a mapped-ram stream', () => {
	test.prop([fc.array(fc.integer({ min: 1, max: 70 }), { maxLength: 3 }), chunkSize, fc.constantFrom(0, 0x1000)], {
		numRuns: 20,
	})('is written again byte for byte', async (sizes, size, base) => {
		const data = await mappedStream(sizes, base);
		expect(Buffer.compare((await relayed(data, size, 'qemu-9'))[0], data)).toBe(0);
	});

	it('tells which pages are present', async () => {
		const data = await mappedStream([10]);
		const present: boolean[] = [];
		const reader = new StreamReader({
			dialect: 'qemu-9',
			handler: { mappedPage: (_block, _address, bytes, there) => present.push(there && bytes[0] === present.length) },
		});
		reader.push(data);
		reader.end();
		expect(present).toEqual([true, false, true, false, false, true, false, true, true, false]);
	});
});
