import type { BlockCipher, CryptoProvider } from '@cvm/crypto';
import { SiliconError } from './fault.js';
import { openKeySlotReader } from './key-slots.js';
import { openPageLocks } from './page-locks.js';
import { SCRATCH_SIZE, threadScratch } from './scratch.js';
import { openSilicon, type SiliconHandle } from './silicon-state.js';
import { createTweak } from './tweak.js';

const BLOCK = 16;
const PAGE = 4096;

/**
 * AES-128 with an address tweak at the edge of DRAM, in bulk, for each 16-byte block at system-physical address p under
 * the key of an ASID: XEX, E(m, p) = AES(m ⊕ T(p)) ⊕ T(p), or XE, AES(m ⊕ T(p)), as the silicon is made. No integrity and
 * no freshness. Not re-entrant; each thread opens its own.
 */
export interface Engine {
	/** Raw DRAM. */
	readonly dram: Uint8Array;
	/**
	 * Where the engine works: 128 KiB that every engine of the thread overwrites. `load` and `store` copy data to it and
	 * from it, unless it is itself what they are given.
	 */
	readonly scratch: Uint8Array;
	/** Highest ASID that has a key slot. */
	readonly maxAsid: number;
	isRunnable(asid: number): boolean;
	/** @throws SiliconError if the range is not wholly in DRAM */
	checkRange(spa: number, length: number): void;
	/**
	 * Decrypts `count` ranges of DRAM into `out`, one after the other from `out[0]`. Addresses and lengths are multiples
	 * of 16; together the ranges are at most as long as `scratch`, of which `out` is all or nothing.
	 *
	 * @throws SiliconError for an ASID without a key, a range outside DRAM, or too much
	 */
	load(asid: number, spas: ArrayLike<number>, lengths: ArrayLike<number>, count: number, out: Uint8Array): void;
	/**
	 * Encrypts ranges into DRAM: the converse of `load`. If `data` is `scratch`, it does not keep the plaintext.
	 *
	 * @throws SiliconError as `load`
	 */
	store(asid: number, spas: ArrayLike<number>, lengths: ArrayLike<number>, count: number, data: Uint8Array): void;
	/** The plaintext of the 16-byte block at `spa`, a multiple of 16. The result is overwritten by the next call. */
	loadBlock(asid: number, spa: number): Uint8Array;
	/** Replaces bytes within one 16-byte block: `data[from … from + length)` at `spa`. Whole for every other thread. */
	patchBlock(asid: number, spa: number, data: Uint8Array, from: number, length: number): void;
}

interface CachedCipher {
	readonly sequence: number;
	readonly cipher: BlockCipher;
}

/** Opens the engine of one thread. */
export function openEngine(handle: SiliconHandle, provider: CryptoProvider): Engine {
	const silicon = openSilicon(handle);
	const slots = openKeySlotReader(silicon.keySlots);
	const locks = openPageLocks(silicon.pageLocks);
	const { whitenBlock, whiten } = createTweak(silicon.tweakConstants);
	const isXex = silicon.mode === 'XEX';
	const scratch = threadScratch;
	const { data } = scratch;
	const dram = new Uint8Array(silicon.dram);
	const dramWords = new Int32Array(silicon.dram);
	const ciphers: (CachedCipher | undefined)[] = [];
	const block = new Uint8Array(BLOCK);
	const blockWords = new Int32Array(block.buffer);

	const cipherOf = (asid: number): BlockCipher => {
		if (!Number.isInteger(asid) || asid < 1 || asid > slots.maxAsid) {
			throw new SiliconError('asid', `ASID: expected 1 … ${slots.maxAsid}, got ${asid}`);
		}
		const cached = ciphers[asid];
		if (cached !== undefined && cached.sequence === slots.sequence(asid)) return cached.cipher;
		const key = new Uint8Array(BLOCK);
		const sequence = slots.readKey(asid, key);
		cached?.cipher.wipe();
		ciphers[asid] = undefined;
		if (sequence < 0) throw new SiliconError('key', `ASID ${asid}: expected a key in its slot, got none`);
		const cipher = provider.blockCipher(key);
		key.fill(0);
		ciphers[asid] = { sequence, cipher };
		return cipher;
	};

	const checkRange = (spa: number, length: number): void => {
		if (!(spa >= 0 && length >= 0 && spa + length <= dram.length)) {
			throw new SiliconError('range', `SPA 0x${spa.toString(16)}: expected ${length} bytes within DRAM, got its end`);
		}
	};

	/** DRAM → scratch, page by page, each page as it was at one moment. */
	const fetch = (spa: number, length: number, at: number): void => {
		for (let done = 0; done < length; ) {
			const from = spa + done;
			const n = Math.min(length - done, PAGE - (from % PAGE));
			const page = dram.subarray(from, from + n);
			let ticket: number;
			do {
				ticket = locks.ticket(from);
				data.set(page, at + done);
			} while (!locks.isUnchanged(from, ticket));
			done += n;
		}
	};

	/** Scratch → DRAM, page by page. */
	const commit = (spa: number, length: number, at: number): void => {
		for (let done = 0; done < length; ) {
			const to = spa + done;
			const n = Math.min(length - done, PAGE - (to % PAGE));
			const page = data.subarray(at + done, at + done + n);
			const lock = locks.acquire(to);
			dram.set(page, to);
			locks.release(lock);
			done += n;
		}
	};

	/** Decrypts the one block that `block` holds. */
	const openBlock = (cipher: BlockCipher, spa: number): void => {
		if (isXex) whitenBlock(blockWords, spa);
		cipher.decrypt(block, block);
		whitenBlock(blockWords, spa);
	};

	const whitenEach = (spas: ArrayLike<number>, lengths: ArrayLike<number>, count: number): void => {
		for (let i = 0, at = 0; i < count; i++) {
			const length = lengths[i] ?? 0;
			whiten(scratch, at, spas[i] ?? 0, length);
			at += length;
		}
	};

	const total = (spas: ArrayLike<number>, lengths: ArrayLike<number>, count: number): number => {
		let sum = 0;
		for (let i = 0; i < count; i++) {
			const spa = spas[i] ?? -1;
			const length = lengths[i] ?? -1;
			checkRange(spa, length);
			sum += length;
		}
		if (sum > SCRATCH_SIZE) throw new SiliconError('range', `bulk: expected at most ${SCRATCH_SIZE} bytes, got ${sum}`);
		return sum;
	};

	return {
		dram,
		scratch: data,
		maxAsid: slots.maxAsid,
		isRunnable: (asid) => asid >= 1 && asid <= slots.maxAsid && slots.isRunnable(asid),
		checkRange,
		load: (asid, spas, lengths, count, out) => {
			const cipher = cipherOf(asid);
			const used = data.subarray(0, total(spas, lengths, count));
			for (let i = 0, at = 0; i < count; i++) {
				const length = lengths[i] ?? 0;
				fetch(spas[i] ?? 0, length, at);
				at += length;
			}
			if (isXex) whitenEach(spas, lengths, count);
			cipher.decrypt(used, used);
			whitenEach(spas, lengths, count);
			if (out !== data) out.set(used);
		},
		store: (asid, spas, lengths, count, input) => {
			const cipher = cipherOf(asid);
			const used = data.subarray(0, total(spas, lengths, count));
			if (input !== data) used.set(input.subarray(0, used.length));
			whitenEach(spas, lengths, count);
			cipher.encrypt(used, used);
			if (isXex) whitenEach(spas, lengths, count);
			for (let i = 0, at = 0; i < count; i++) {
				const length = lengths[i] ?? 0;
				commit(spas[i] ?? 0, length, at);
				at += length;
			}
		},
		loadBlock: (asid, spa) => {
			const cipher = cipherOf(asid);
			checkRange(spa, BLOCK);
			let ticket: number;
			do {
				ticket = locks.ticket(spa);
				for (let w = 0; w < 4; w++) blockWords[w] = dramWords[spa / 4 + w] as number;
			} while (!locks.isUnchanged(spa, ticket));
			openBlock(cipher, spa);
			return block;
		},
		patchBlock: (asid, spa, input, from, length) => {
			const cipher = cipherOf(asid);
			checkRange(spa, length);
			const start = spa - (spa % BLOCK);
			const lock = locks.acquire(start);
			try {
				if (length < BLOCK) {
					for (let w = 0; w < 4; w++) blockWords[w] = dramWords[start / 4 + w] as number;
					openBlock(cipher, start);
				}
				for (let i = 0; i < length; i++) block[spa - start + i] = input[from + i] ?? 0;
				whitenBlock(blockWords, start);
				cipher.encrypt(block, block);
				if (isXex) whitenBlock(blockWords, start);
				for (let w = 0; w < 4; w++) dramWords[start / 4 + w] = blockWords[w] as number;
			} finally {
				locks.release(lock);
				block.fill(0);
			}
		},
	};
}
