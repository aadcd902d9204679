import type { BlockCipher, CryptoProvider } from '@cvm/crypto';
import { SiliconError } from './fault.js';
import { openKeySlotReader } from './key-slots.js';
import { openPageLocks } from './page-locks.js';
import { openSilicon, type SiliconHandle } from './silicon-state.js';
import { createTweak } from './tweak.js';

const BLOCK = 16;
const PAGE = 4096;

/**
 * XEX over AES-128 at the edge of DRAM, in bulk: E(m, p) = AES(m ⊕ T(p)) ⊕ T(p) for each 16-byte block at system-physical
 * address p, under the key of an ASID. No integrity and no freshness. Not re-entrant; each thread opens its own.
 */
export interface Engine {
	/** Raw DRAM. */
	readonly dram: Uint8Array;
	/** Highest ASID that has a key slot. */
	readonly maxAsid: number;
	isRunnable(asid: number): boolean;
	/** @throws SiliconError if the range is not wholly in DRAM */
	checkRange(spa: number, length: number): void;
	/**
	 * Decrypts `count` ranges of DRAM into `out`, one after the other from `out[0]`. Addresses and lengths are multiples
	 * of 16. `out` begins on a multiple of 4 bytes of its buffer.
	 *
	 * @throws SiliconError for an ASID without a key or a range outside DRAM
	 */
	load(asid: number, spas: ArrayLike<number>, lengths: ArrayLike<number>, count: number, out: Uint8Array): void;
	/**
	 * Encrypts ranges into DRAM: the converse of `load`. `data` is used as scratch and does not keep the plaintext.
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
	const { whiten } = createTweak(silicon.tweakConstants);
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

	/** DRAM ⊕ T → out, page by page, each page as it was at one moment. */
	const fetch = (spa: number, length: number, out: Int32Array, outWord: number): void => {
		for (let done = 0; done < length; ) {
			const at = spa + done;
			const n = Math.min(length - done, PAGE - (at % PAGE));
			let ticket: number;
			do {
				ticket = locks.ticket(at);
				whiten(dramWords, at / 4, out, outWord + done / 4, at, n / 4);
			} while (!locks.isUnchanged(at, ticket));
			done += n;
		}
	};

	/** data ⊕ T → DRAM, page by page. */
	const commit = (spa: number, length: number, data: Int32Array, dataWord: number): void => {
		for (let done = 0; done < length; ) {
			const at = spa + done;
			const n = Math.min(length - done, PAGE - (at % PAGE));
			const lock = locks.acquire(at);
			whiten(data, dataWord + done / 4, dramWords, at / 4, at, n / 4);
			locks.release(lock);
			done += n;
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
		return sum;
	};

	const whitenEach = (spas: ArrayLike<number>, lengths: ArrayLike<number>, count: number, words: Int32Array): void => {
		let at = 0;
		for (let i = 0; i < count; i++) {
			const length = lengths[i] ?? 0;
			whiten(words, at, words, at, spas[i] ?? 0, length / 4);
			at += length / 4;
		}
	};

	return {
		dram,
		maxAsid: slots.maxAsid,
		isRunnable: (asid) => asid >= 1 && asid <= slots.maxAsid && slots.isRunnable(asid),
		checkRange,
		load: (asid, spas, lengths, count, out) => {
			const cipher = cipherOf(asid);
			const bytes = total(spas, lengths, count);
			const words = new Int32Array(out.buffer, out.byteOffset, bytes / 4);
			for (let i = 0, at = 0; i < count; i++) {
				const length = lengths[i] ?? 0;
				fetch(spas[i] ?? 0, length, words, at);
				at += length / 4;
			}
			const used = out.subarray(0, bytes);
			cipher.decrypt(used, used);
			whitenEach(spas, lengths, count, words);
		},
		store: (asid, spas, lengths, count, data) => {
			const cipher = cipherOf(asid);
			const bytes = total(spas, lengths, count);
			const words = new Int32Array(data.buffer, data.byteOffset, bytes / 4);
			whitenEach(spas, lengths, count, words);
			const used = data.subarray(0, bytes);
			cipher.encrypt(used, used);
			for (let i = 0, at = 0; i < count; i++) {
				const length = lengths[i] ?? 0;
				commit(spas[i] ?? 0, length, words, at);
				at += length / 4;
			}
		},
		loadBlock: (asid, spa) => {
			const cipher = cipherOf(asid);
			checkRange(spa, BLOCK);
			fetch(spa, BLOCK, blockWords, 0);
			cipher.decrypt(block, block);
			whiten(blockWords, 0, blockWords, 0, spa, 4);
			return block;
		},
		patchBlock: (asid, spa, data, from, length) => {
			const cipher = cipherOf(asid);
			checkRange(spa, length);
			const start = spa - (spa % BLOCK);
			const lock = locks.acquire(start);
			try {
				if (length < BLOCK) {
					whiten(dramWords, start / 4, blockWords, 0, start, 4);
					cipher.decrypt(block, block);
					whiten(blockWords, 0, blockWords, 0, start, 4);
				}
				for (let i = 0; i < length; i++) block[spa - start + i] = data[from + i] ?? 0;
				whiten(blockWords, 0, blockWords, 0, start, 4);
				cipher.encrypt(block, block);
				whiten(blockWords, 0, dramWords, start / 4, start, 4);
			} finally {
				locks.release(lock);
				block.fill(0);
			}
		},
	};
}
