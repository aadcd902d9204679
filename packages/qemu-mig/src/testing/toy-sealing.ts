import { PAGE_SIZE } from '@cvm/layout';
import type { PageOpener, PageSealer, RecordLayout, SessionPrefix, SharedRegion } from '../ports.js';

/** Header of the toy packets: be32 sequence, block, page, checksum of the plaintext; the rest 0xa5. */
const HEADER_LENGTH = 52;

/** What the toy session prefix holds. */
export const TOY_PREFIX: SessionPrefix = {
	policy: 0x01020304,
	pdh: new Uint8Array(2084).fill(0xd4),
	session: new Uint8Array(128).fill(0x5e),
};

/** Reads or writes a private page of the fake guest. */
export type PrivateAccess = (block: number, page: number) => Uint8Array;

/**
 * A sealer without cryptography: the payload is the page XOR a pattern of its sequence number, the header says what it is,
 * so that a page that arrives twice, changed, elsewhere or not in order of sealing is noticed. Keeps nothing secret.
 */
export class ToySealer implements PageSealer {
	readonly headerLength = HEADER_LENGTH;
	/** Private pages sealed. */
	sealed = 0;
	/** Sizes of the batches, in order. */
	readonly batches: number[] = [];
	/** Makes the seal of this page count fail. */
	failAt = Number.POSITIVE_INFINITY;
	readonly #access: PrivateAccess;
	readonly #regions: () => readonly SharedRegion[];

	constructor(access: PrivateAccess, regions: () => readonly SharedRegion[]) {
		this.#access = access;
		this.#regions = regions;
	}

	start(): SessionPrefix {
		return TOY_PREFIX;
	}

	seal(block: number, pages: Uint32Array, count: number, out: Uint8Array, at: RecordLayout): void {
		this.batches.push(count);
		for (let i = 0; i < count; i++) {
			if (this.sealed >= this.failAt) throw new Error('toy sealer: told to fail');
			const page = pages[i] ?? 0;
			const plain = this.#access(block, page);
			const header = out.subarray(at.header + i * at.stride, at.header + i * at.stride + HEADER_LENGTH);
			writeHeader(header, [this.sealed, block, page, checksum(plain)]);
			mask(plain, this.sealed, out.subarray(at.payload + i * at.stride, at.payload + i * at.stride + PAGE_SIZE));
			this.sealed++;
		}
	}

	sharedRegions(): readonly SharedRegion[] {
		return this.#regions();
	}
}

/** The counterpart of {@link ToySealer}. @throws Error on anything unexpected */
export class ToyOpener implements PageOpener {
	opened = 0;
	readonly batches: number[] = [];
	prefix: SessionPrefix | undefined;
	regions: readonly SharedRegion[] | undefined;
	readonly #access: PrivateAccess;

	constructor(access: PrivateAccess) {
		this.#access = access;
	}

	start({ policy, pdh, session }: SessionPrefix): void {
		if (this.prefix !== undefined) throw new Error('toy opener: expected one session, got a second');
		this.prefix = { policy, pdh: pdh.slice(), session: session.slice() };
	}

	open(block: number, pages: Uint32Array, count: number, input: Uint8Array, at: RecordLayout): void {
		this.batches.push(count);
		for (let i = 0; i < count; i++) {
			const header = new DataView(input.buffer, input.byteOffset + at.header + i * at.stride, HEADER_LENGTH);
			const target = this.#access(block, pages[i] ?? 0);
			mask(input.subarray(at.payload + i * at.stride, at.payload + i * at.stride + PAGE_SIZE), this.opened, target);
			const expected = [this.opened, block, pages[i] ?? 0, checksum(target)];
			for (const [field, value] of expected.entries()) {
				if (header.getUint32(field * 4) !== value) throw new Error(`toy opener: header word ${field} does not match`);
			}
			this.opened++;
		}
	}

	allocate(bytes: number): Uint8Array {
		return new Uint8Array(bytes);
	}

	sharedRegions(list: readonly SharedRegion[]): void {
		this.regions = list;
	}
}

function writeHeader(out: Uint8Array, words: readonly number[]): void {
	out.fill(0xa5);
	const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
	for (const [i, word] of words.entries()) view.setUint32(i * 4, word);
}

/** `out` may be `page`. */
function mask(page: Uint8Array, sequence: number, out: Uint8Array): void {
	const pattern = (sequence * 0x9e3779b1) >>> 24;
	for (let i = 0; i < page.length; i++) out[i] = (page[i] ?? 0) ^ pattern ^ (i & 0xff);
}

/** FNV-1a. */
function checksum(page: Uint8Array): number {
	let hash = 0x811c9dc5;
	for (const byte of page) hash = Math.imul(hash ^ byte, 0x01000193);
	return hash >>> 0;
}
