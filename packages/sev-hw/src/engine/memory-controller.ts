import type { CryptoProvider } from '@cvm/crypto';
import { openEngine } from './engine.js';
import type { SiliconHandle } from './silicon-state.js';

const BLOCK = 16;
/** What a processor stores to DRAM in one piece, and in order. */
const WORD = 4;
/** Most that is decrypted in one go: large enough for bulk AES to reach its speed, small enough for the caches. */
const PIECE = 0x10000;

/** DRAM as one core sees it through the memory-encryption engine. Not re-entrant; each thread opens its own. */
export interface MemoryController {
	/**
	 * Reads `out.length` bytes at any address under the key of an ASID; ASID 0 has no key and reads raw DRAM. There an aligned
	 * word of 4 bytes is one atomic access, on either side: whoever polls one with `Atomics` finds what was written before it.
	 * Every 16-byte block is read whole, with respect to writes through any controller of the machine.
	 *
	 * @throws SiliconError `range`, `asid` or `key`
	 */
	read(asid: number, spa: number, out: Uint8Array): void;
	/**
	 * Writes bytes at any address; 16-byte blocks at the edges are read, changed and written as one step.
	 *
	 * @throws SiliconError as `read`
	 */
	write(asid: number, spa: number, data: Uint8Array): void;
	readonly dramBytes: number;
	/** Whether the firmware has enabled VMRUN for the ASID: after ACTIVATE and LAUNCH_FINISH or RECEIVE_FINISH. */
	isRunnable(asid: number): boolean;
}

/** Opens a machine's memory to one thread. */
export function openMemoryController(handle: SiliconHandle, provider: CryptoProvider): MemoryController {
	const engine = openEngine(handle, provider);
	const { dram, scratch } = engine;
	const words = new Int32Array(dram.buffer, dram.byteOffset, dram.length / WORD);
	const spas = [0];
	const lengths = [0];

	return {
		dramBytes: dram.length,
		isRunnable: engine.isRunnable,
		read: (asid, spa, out) => {
			engine.checkRange(spa, out.length);
			if (asid === 0) {
				if (out.length === WORD && spa % WORD === 0) {
					const word = Atomics.load(words, spa / WORD);
					out[0] = word;
					out[1] = word >> 8;
					out[2] = word >> 16;
					out[3] = word >> 24;
					return;
				}
				out.set(dram.subarray(spa, spa + out.length));
				return;
			}
			const within = spa % BLOCK;
			if (within + out.length <= BLOCK) {
				const block = engine.loadBlock(asid, spa - within);
				for (let i = 0; i < out.length; i++) out[i] = block[within + i] ?? 0;
				return;
			}
			for (let done = 0; done < out.length; ) {
				const at = spa + done;
				const skip = at % BLOCK;
				const n = Math.min(out.length - done, PIECE - skip);
				spas[0] = at - skip;
				lengths[0] = Math.ceil((skip + n) / BLOCK) * BLOCK;
				engine.load(asid, spas, lengths, 1, scratch);
				out.set(scratch.subarray(skip, skip + n), done);
				done += n;
			}
		},
		write: (asid, spa, data) => {
			engine.checkRange(spa, data.length);
			if (asid === 0) {
				if (data.length === WORD && spa % WORD === 0) {
					const high = ((data[3] ?? 0) << 24) | ((data[2] ?? 0) << 16);
					Atomics.store(words, spa / WORD, high | ((data[1] ?? 0) << 8) | (data[0] ?? 0));
					return;
				}
				dram.set(data, spa);
				return;
			}
			for (let done = 0; done < data.length; ) {
				const at = spa + done;
				const skip = at % BLOCK;
				const left = data.length - done;
				if (skip !== 0 || left < 2 * BLOCK) {
					const n = Math.min(left, BLOCK - skip);
					engine.patchBlock(asid, at, data, done, n);
					done += n;
					continue;
				}
				const n = Math.min(left - (left % BLOCK), PIECE);
				scratch.set(data.subarray(done, done + n));
				spas[0] = at;
				lengths[0] = n;
				engine.store(asid, spas, lengths, 1, scratch);
				done += n;
			}
		},
	};
}
