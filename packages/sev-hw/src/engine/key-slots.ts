/**
 * The key slots of the memory controllers, one per ASID, in shared memory that is not DRAM: the firmware writes them, the
 * engines in other threads read them. Each slot is 8 words: a sequence number that is odd while the slot is being written,
 * flags, two words unused, the 16-byte key.
 */
const SLOT_WORDS = 8;
const KEY_WORD = 4;
const KEY_BYTES = 16;

const Flag = { installed: 1, runnable: 2 } as const;

/** Slots for the ASIDs 0 … maxAsid; slot 0, the host's, stays empty. */
export const allocateKeySlots = (maxAsid: number): SharedArrayBuffer =>
	new SharedArrayBuffer((maxAsid + 1) * SLOT_WORDS * 4);

/** What the firmware does with a slot. */
export interface KeySlotWriter {
	/** Installs a key. VMRUN stays blocked. */
	install(asid: number, key: Uint8Array): void;
	/** Lets VMRUN use the ASID. */
	enable(asid: number): void;
	/** Removes the key and blocks VMRUN. */
	clear(asid: number): void;
}

/** The firmware's access to the slots. */
export function openKeySlotWriter(memory: SharedArrayBuffer): KeySlotWriter {
	const words = new Int32Array(memory);
	const write = (asid: number, change: (base: number) => void): void => {
		const base = asid * SLOT_WORDS;
		Atomics.add(words, base, 1);
		change(base);
		Atomics.add(words, base, 1);
	};
	const keyOf = (base: number) => new Uint8Array(memory, (base + KEY_WORD) * 4, KEY_BYTES);
	return {
		install: (asid, key) =>
			write(asid, (base) => {
				keyOf(base).set(key);
				Atomics.store(words, base + 1, Flag.installed);
			}),
		enable: (asid) => write(asid, (base) => Atomics.or(words, base + 1, Flag.runnable)),
		clear: (asid) => {
			// An empty slot does not change: INIT and SHUTDOWN clear all.
			if (Atomics.load(words, asid * SLOT_WORDS + 1) === 0) return;
			write(asid, (base) => {
				keyOf(base).fill(0);
				Atomics.store(words, base + 1, 0);
			});
		},
	};
}

/** What a memory controller asks of the slots. */
export interface KeySlotReader {
	/** Highest ASID that has a slot. */
	readonly maxAsid: number;
	/** Changes whenever the slot does; never while it stays. */
	sequence(asid: number): number;
	isRunnable(asid: number): boolean;
	/** Copies the key to `out` (16 bytes) and returns the sequence number it belongs to; −1 if the slot is empty. */
	readKey(asid: number, out: Uint8Array): number;
}

/** A memory controller's access to the slots. */
export function openKeySlotReader(memory: SharedArrayBuffer): KeySlotReader {
	const words = new Int32Array(memory);
	const bytes = new Uint8Array(memory);
	const sequence = (asid: number) => Atomics.load(words, asid * SLOT_WORDS);
	return {
		maxAsid: words.length / SLOT_WORDS - 1,
		sequence,
		isRunnable: (asid) => (Atomics.load(words, asid * SLOT_WORDS + 1) & Flag.runnable) !== 0,
		readKey: (asid, out) => {
			const at = (asid * SLOT_WORDS + KEY_WORD) * 4;
			for (;;) {
				const before = sequence(asid);
				if (before % 2 !== 0) continue;
				const installed = (Atomics.load(words, asid * SLOT_WORDS + 1) & Flag.installed) !== 0;
				out.set(bytes.subarray(at, at + KEY_BYTES));
				if (sequence(asid) === before) return installed ? before : -1;
			}
		},
	};
}
