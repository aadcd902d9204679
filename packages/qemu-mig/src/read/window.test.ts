import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ByteWindow } from './window.js';

describe('the input window', () => {
	/** Chunk lengths, and for each chunk how much is asked for and what part of it consumed, in turns. */
	const turns = fc.array(
		fc.tuple(
			fc.nat(9000),
			fc.array(
				fc.tuple(
					fc.oneof(fc.nat(20000), fc.constant(Number.MAX_SAFE_INTEGER)),
					fc.double({ min: 0, max: 1, noNaN: true }),
				),
				{ maxLength: 5 },
			),
		),
		{ maxLength: 12 },
	);

	test.prop([turns])(
		'shows every byte once, in order, at its offset, though chunks are overwritten after use',
		(list) => {
			const window = new ByteWindow();
			let fed = 0;
			let consumed = 0;
			const check = (): void => {
				expect(window.offset).toBe(consumed);
				const unread = window.bytes.subarray(window.at, window.end);
				const wrong = unread.findIndex((byte, i) => byte !== ((consumed + i) * 31) % 251);
				expect(wrong).toBe(-1);
				if (unread.length > 0) expect(window.view.getUint8(window.at)).toBe(unread[0]);
			};
			for (const [length, asks] of list) {
				const chunk = Uint8Array.from({ length }, (_, i) => ((fed + i) * 31) % 251);
				fed += length;
				window.feed(chunk);
				for (const [wanted, part] of asks) {
					while (window.end - window.at < wanted && window.pull(wanted)) check();
					const count = Math.floor((window.end - window.at) * part);
					window.at += count;
					consumed += count;
					check();
				}
				while (window.pull(Number.MAX_SAFE_INTEGER)) check();
				chunk.fill(0xff);
				check();
				expect(consumed + window.end - window.at).toBe(fed);
			}
		},
	);

	it('takes no more of a chunk than is wanted when something is left of the last', () => {
		const window = new ByteWindow();
		window.feed(Uint8Array.of(1, 2));
		window.pull(1);
		window.pull(9);
		window.feed(Uint8Array.of(3, 4, 5, 6));
		expect(window.pull(4)).toBe(true);
		expect([...window.bytes.subarray(window.at, window.end)]).toEqual([1, 2, 3, 4]);
	});
});
