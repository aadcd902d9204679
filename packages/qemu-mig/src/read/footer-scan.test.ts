import { describe, expect, it } from 'vitest';
import { findFooter } from './footer-scan.js';

const scan = (bytes: number[], ended = false, id = 3) =>
	findFooter(new DataView(Uint8Array.from(bytes).buffer), 0, bytes.length, {
		id,
		isKnown: (other) => other === 2,
		descriptionLimit: 1000,
		ended,
	});
const footer = [0x7e, 0, 0, 0, 3];
const name = [5, 0x74, 0x69, 0x6d, 0x65, 0x72];

describe('the search for a footer', () => {
	it.each([
		['a FULL section', [4, 0, 0, 0, 9, ...name]],
		['a START section', [1, 0, 0, 0, 9, ...name]],
		['PART of a known id', [2, 0, 0, 0, 2]],
		['END of a known id', [3, 0, 0, 0, 2]],
		['a known command', [8, 0, 2]],
		['EOF and a description', [0, 6, 0, 0, 0, 9, 0x7b]],
		['EOF and an empty description', [0, 6, 0, 0, 0, 0]],
		['EOF and the hand-over command', [0, 8, 0x43, 0x56]],
	])('accepts it before %s', (_name, next) => {
		expect(scan([1, 2, ...footer, ...next])).toEqual({ found: true, at: 2 });
		for (let cut = 0; cut < next.length; cut++) {
			expect(scan([1, 2, ...footer, ...next.slice(0, cut)]), `${cut} bytes`).toEqual({ found: false, at: 2 });
			expect(scan([1, 2, ...footer, ...next.slice(0, cut)], true).found, `${cut} bytes at the end`).toBe(true);
		}
	});

	it.each([
		['another id', [0x7e, 0, 0, 0, 4, 4, 0, 0, 0, 9, ...name]],
		['an unprintable section name', [...footer, 4, 0, 0, 0, 9, 5, 1, 2, 3, 4, 5]],
		['an empty section name', [...footer, 4, 0, 0, 0, 9, 0]],
		['PART of an unknown id', [...footer, 2, 0, 0, 0, 7]],
		['an unknown command', [...footer, 8, 0, 99]],
		['EOF and other bytes', [...footer, 0, 0, 0, 0, 0, 0, 0]],
		['EOF and a description that is no JSON', [...footer, 0, 6, 0, 0, 0, 9, 0x20]],
		['EOF and a description above the cap', [...footer, 0, 6, 0, 0, 9, 9, 0x7b]],
		['another byte', [...footer, 0x55]],
	])('goes on after the look-alike before %s', (_name, bytes) => {
		expect(scan(bytes, true)).toEqual({ found: false, at: bytes.length });
		expect(scan([...bytes, ...footer, 2, 0, 0, 0, 2])).toEqual({ found: true, at: bytes.length });
	});

	it('waits at a mark whose id has not arrived', () => {
		expect(scan([1, 0x7e, 0, 0])).toEqual({ found: false, at: 1 });
		expect(scan([1, 0x7e, 0, 0], true).found).toBe(false);
	});
});
