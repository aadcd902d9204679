import { ImageError } from './error.js';

/**
 * Where page contents go. Blocks are numbered in the order of `addBlock`; everything reads as zero until written. Calls are
 * synchronous, so that pages need no copies: a file is read and written with Node's `readSync` and `writeSync`, or with a
 * synchronous access handle of a browser's origin-private file system in a worker.
 */
export interface RamStore {
	/** Announces a block and returns its number. @throws if there is no room */
	addBlock(name: string, bytes: number): number;
	/** Fills `into` with what lies from byte `at` on. */
	read(block: number, at: number, into: Uint8Array): void;
	/** Copies `data`, which is valid during the call. */
	write(block: number, at: number, data: Uint8Array): void;
	/** Makes a range read as zeros again. */
	clear(block: number, at: number, length: number): void;
}

/** Options of {@link createMemoryStore}. */
export interface MemoryStoreOptions {
	/** Bytes held at most. Default 4 GiB. */
	readonly limit?: number;
}

/** Bytes held or not held as one. */
const GRANULE = 64 * 1024;

/** A store in memory; what was never written, or only zeros, takes none. @throws ImageError `limit` from `write` */
export function createMemoryStore({ limit = 4 * 2 ** 30 }: MemoryStoreOptions = {}): RamStore & {
	/** Bytes held. */
	readonly held: number;
} {
	const blocks: Map<number, Uint8Array>[] = [];
	let held = 0;
	const granules = (block: number): Map<number, Uint8Array> => {
		const found = blocks[block];
		if (found === undefined)
			throw new ImageError('store', `store: expected a block below ${blocks.length}, got ${block}`);
		return found;
	};
	const writable = (map: Map<number, Uint8Array>, number: number): Uint8Array => {
		const present = map.get(number);
		if (present !== undefined) return present;
		if (held + GRANULE > limit) {
			throw new ImageError('limit', `store: expected at most ${limit} bytes of page contents, got more`);
		}
		held += GRANULE;
		const granule = new Uint8Array(GRANULE);
		map.set(number, granule);
		return granule;
	};
	/** Calls `part` for each piece of a range that lies in one granule. */
	const split = (at: number, length: number, part: (granule: number, from: number, to: number, at: number) => void) => {
		for (let done = 0; done < length; ) {
			const from = (at + done) % GRANULE;
			const count = Math.min(length - done, GRANULE - from);
			part(Math.floor((at + done) / GRANULE), from, from + count, done);
			done += count;
		}
	};
	return {
		get held() {
			return held;
		},
		addBlock: () => blocks.push(new Map()) - 1,
		read(block, at, into) {
			const map = granules(block);
			split(at, into.length, (number, from, to, done) => {
				const granule = map.get(number);
				if (granule === undefined) into.fill(0, done, done + to - from);
				else into.set(granule.subarray(from, to), done);
			});
		},
		write(block, at, data) {
			const map = granules(block);
			split(at, data.length, (number, from, to, done) => {
				writable(map, number).set(data.subarray(done, done + to - from), from);
			});
		},
		clear(block, at, length) {
			const map = granules(block);
			split(at, length, (number, from, to) => {
				map.get(number)?.fill(0, from, to);
			});
		},
	};
}

/** A file that can be read and written anywhere, at once. */
export interface RandomFile {
	/** Reads from byte `at` into `into` and returns how many bytes there were: fewer only at the end of the file. */
	read(at: number, into: Uint8Array): number;
	/** Writes all of `data`. Beyond the end of the file it grows, and what is left out reads as zeros. */
	write(at: number, data: Uint8Array): void;
}

/** Where blocks begin in a file is a multiple of this, so that each stays sparse on its own. */
const BLOCK_ALIGNMENT = 2 ** 20;
const ZEROS = new Uint8Array(GRANULE);

/** A store in a file, empty at first: blocks one after another. Pages that are zero leave holes. */
export function createFileStore(file: RandomFile): RamStore {
	const starts: number[] = [];
	let end = 0;
	const place = (block: number, at: number): number => {
		const start = starts[block];
		if (start === undefined)
			throw new ImageError('store', `store: expected a block below ${starts.length}, got ${block}`);
		return start + at;
	};
	return {
		addBlock(name, bytes) {
			const start = end;
			end = Math.ceil((start + bytes) / BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT;
			if (!Number.isSafeInteger(end))
				throw new ImageError('limit', `store: expected room for '${name}', got 2^53 bytes`);
			return starts.push(start) - 1;
		},
		read(block, at, into) {
			const got = file.read(place(block, at), into);
			if (got < into.length) into.fill(0, got);
		},
		write: (block, at, data) => file.write(place(block, at), data),
		clear(block, at, length) {
			for (let done = 0; done < length; done += GRANULE) {
				file.write(place(block, at + done), ZEROS.subarray(0, Math.min(GRANULE, length - done)));
			}
		},
	};
}
