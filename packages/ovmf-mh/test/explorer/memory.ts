import { PAGE_SIZE } from '@cvm/layout';
import type { GpaRange } from '../../src/geometry.js';
import type { HelperMemory } from '../../src/session/ports.js';
import { Mixer } from './symbolic.js';

/** Numbers for things that are equal if their keys are. */
export class Interned<T> {
	private readonly numbers = new Map<string, number>();
	private readonly items: T[] = [];

	/** `make` is called for a key that was not there. */
	number(key: string, make: () => T): number {
		const known = this.numbers.get(key);
		if (known !== undefined) return known;
		this.numbers.set(key, this.items.length);
		this.items.push(make());
		return this.items.length - 1;
	}

	at(number: number): T {
		const item = this.items[number];
		if (item === undefined) throw new Error(`interned item: expected one of ${this.items.length}, got ${number}`);
		return item;
	}

	get size(): number {
		return this.items.length;
	}
}

/** A short name of some bytes: equal names, equal bytes (but for accidents of 128 bits). */
export const nameOf = (bytes: Uint8Array): string => {
	const mixer = new Mixer(8);
	mixer.update(bytes);
	return Buffer.from(mixer.finish(16)).toString('latin1');
};

/** Number of the page of zeros. */
export const ZERO = 0;

/** All contents that pages ever had, by number. */
export class PageStore {
	private readonly pages = new Interned<Uint8Array>();

	constructor() {
		this.number(new Uint8Array(PAGE_SIZE));
	}

	number(bytes: Uint8Array): number {
		return this.pages.number(nameOf(bytes), () => bytes.slice());
	}

	bytes(number: number): Uint8Array {
		return this.pages.at(number);
	}

	get size(): number {
		return this.pages.size;
	}
}

const WORD = new Uint8Array(4);
const WORD_VIEW = new DataView(WORD.buffer);

/** A guest's memory: content numbers by frame; a frame that is not there holds zeros. Never changed once made. */
export type Image = ReadonlyMap<number, number>;

export const imageKey = (image: Image): string =>
	[...image]
		.sort(([a], [b]) => a - b)
		.flat()
		.join();

/** Memory to work on, over an image that stays as it is. */
export class WorkingMemory implements HelperMemory {
	readonly ram: readonly GpaRange[];
	private readonly store: PageStore;
	private readonly image: Image;
	private readonly written = new Map<number, Uint8Array>();

	constructor(store: PageStore, image: Image, ram: readonly GpaRange[]) {
		this.store = store;
		this.image = image;
		this.ram = ram;
	}

	read(gpa: number, out: Uint8Array): void {
		this.each(gpa, out.length, (frame, offset, at, length) => {
			const page = this.written.get(frame) ?? this.store.bytes(this.image.get(frame) ?? ZERO);
			out.set(page.subarray(offset, offset + length), at);
		});
	}

	write(gpa: number, data: Uint8Array): void {
		this.each(gpa, data.length, (frame, offset, at, length) => {
			let page = this.written.get(frame);
			if (page === undefined) {
				page = this.store.bytes(this.image.get(frame) ?? ZERO).slice();
				this.written.set(frame, page);
			}
			page.set(data.subarray(at, at + length), offset);
		});
	}

	exchange(gpa: number, value: number): number {
		this.read(gpa, WORD);
		const before = WORD_VIEW.getUint32(0, true);
		WORD_VIEW.setUint32(0, value, true);
		if (before !== value) this.write(gpa, WORD);
		return before;
	}

	/** The image with everything that was written. */
	result(): Image {
		const image = new Map(this.image);
		for (const [frame, bytes] of this.written) {
			const before = this.image.get(frame) ?? ZERO;
			if (Buffer.compare(bytes, this.store.bytes(before)) === 0) continue;
			const number = this.store.number(bytes);
			if (number === ZERO) image.delete(frame);
			else image.set(frame, number);
		}
		return image;
	}

	private each(
		gpa: number,
		length: number,
		part: (frame: number, offset: number, at: number, length: number) => void,
	): void {
		for (let at = 0; at < length; ) {
			const offset = (gpa + at) % PAGE_SIZE;
			const step = Math.min(PAGE_SIZE - offset, length - at);
			part((gpa + at - offset) / PAGE_SIZE, offset, at, step);
			at += step;
		}
	}
}
