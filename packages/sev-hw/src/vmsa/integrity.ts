/** Bytes of the trusted memory region (TMR) that a save area's slot takes. */
export const SLOT_SIZE = 64;
/** Slots of one TMR. */
const SLOTS = 2 ** 20 / SLOT_SIZE;
/** Words per slot: address of the TMR in MiB, plus 1 (0 = free), the guest's handle, checksum low, checksum high. */
const WORDS = 4;
const MIB = 2 ** 20;

/**
 * The checksums of all save areas, as they stand in the TMR: shared memory that only the firmware and the processor reach.
 *
 * DEVIATION(SEV API 0.24 INIT): they are not in the DRAM that INIT gave for the TMR; slots lend only their addresses. The
 * host of this model reads and writes all of DRAM, and no host may reach the TMR.
 */
export interface IntegritySlots {
	/** Whether a slot is taken; `slot` is its address. */
	isTaken(slot: number): boolean;
	/** Takes a slot for a save area of a guest, or renews its checksum. */
	set(slot: number, handle: number, checksum: bigint): void;
	/** Whose slot it is; 0 if nobody's. */
	handleOf(slot: number): number;
	/** 0 for a slot that is nobody's. */
	checksumOf(slot: number): bigint;
	free(slot: number): void;
}

/** Shared memory for the slots of one machine. */
export const allocateIntegritySlots = (): SharedArrayBuffer => new SharedArrayBuffer(SLOTS * WORDS * 4);

/** Opens the slots, in any thread. A slot is written by one thread at a time: the vCPU's, or the firmware's while it is out. */
export function openIntegritySlots(memory: SharedArrayBuffer): IntegritySlots {
	const words = new Int32Array(memory);
	/** First word of a slot; the TMR is 1 MiB, aligned. */
	const at = (slot: number): number => ((slot % MIB) / SLOT_SIZE) * WORDS;
	const tag = (slot: number): number => Math.floor(slot / MIB) + 1;
	const isTaken = (slot: number): boolean => slot % SLOT_SIZE === 0 && Atomics.load(words, at(slot)) === tag(slot);
	return {
		isTaken,
		set: (slot, handle, checksum) => {
			Atomics.store(words, at(slot) + 1, handle);
			Atomics.store(words, at(slot) + 2, Number(BigInt.asIntN(32, checksum)));
			Atomics.store(words, at(slot) + 3, Number(BigInt.asIntN(32, checksum >> 32n)));
			Atomics.store(words, at(slot), tag(slot));
		},
		handleOf: (slot) => (isTaken(slot) ? Atomics.load(words, at(slot) + 1) : 0),
		checksumOf: (slot) => {
			if (!isTaken(slot)) return 0n;
			const low = Atomics.load(words, at(slot) + 2) >>> 0;
			return (BigInt(Atomics.load(words, at(slot) + 3) >>> 0) << 32n) | BigInt(low);
		},
		free: (slot) => Atomics.store(words, at(slot), 0),
	};
}
