/** Streams with one thing wrong. */
import { StreamReader } from '@cvm/qemu-mig';

/** Where each section of a plain stream begins and ends, in bytes from the magic. */
export interface Extent {
	readonly offset: number;
	readonly end: number;
}

/** @throws StreamError if the stream is not sound */
export function sectionsOf(stream: Uint8Array): Extent[] {
	const offsets: number[] = [];
	let end = stream.length;
	const reader = new StreamReader({
		dialect: 'qemu-7.2',
		handler: {
			sectionBegin: (_, at) => void offsets.push(at.offset),
			eof: (at) => {
				end = at.offset;
			},
		},
	});
	reader.push(stream);
	reader.end();
	return offsets.map((offset, index) => ({ offset, end: offsets[index + 1] ?? end }));
}

/** A copy with another byte in one place. */
export function damaged(stream: Uint8Array, at: number | undefined, byte: number): Uint8Array {
	const copy = Uint8Array.from(stream); // a Buffer's slice is no copy
	if (at === undefined || copy[at] === undefined || copy[at] === byte)
		throw new RangeError(`expected another byte at ${at}`);
	copy[at] = byte;
	return copy;
}

/** A copy in which a section and the next have changed places. */
export function swapped(stream: Uint8Array, sections: readonly Extent[], index: number): Uint8Array {
	const [a, b] = [sections[index], sections[index + 1]];
	if (!a || !b) throw new RangeError(`expected two sections from ${index}, got ${sections.length} in all`);
	const part = (from: number, to?: number) => stream.subarray(from, to);
	return Buffer.concat([part(0, a.offset), part(b.offset, b.end), part(a.offset, a.end), part(b.end)]);
}
