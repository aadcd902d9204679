import type { RandomSource } from '@cvm/crypto';
import { PAGE_SIZE } from '@cvm/layout';
import { allocateIntegritySlots } from '../vmsa/integrity.js';
import { allocateKeySlots } from './key-slots.js';
import { allocatePageLocks } from './page-locks.js';
import { bootConstants, type EncryptionMode, type MemoryEncryption } from './tweak-constants.js';

/**
 * The shared parts of one machine's silicon: DRAM, key slots, tweak constants. Opaque, and structured-cloneable, so that
 * it can be posted to the thread of a vCPU. `openMemoryController` of `@cvm/sev-hw/silicon` opens it.
 */
export interface SiliconHandle {
	readonly kind: 'cvm-silicon';
}

/** What a {@link SiliconHandle} holds. */
export interface Silicon extends SiliconHandle {
	readonly dram: SharedArrayBuffer;
	readonly keySlots: SharedArrayBuffer;
	readonly pageLocks: SharedArrayBuffer;
	/** Checksums of save areas. */
	readonly integritySlots: SharedArrayBuffer;
	readonly mode: EncryptionMode;
	readonly tweakConstants: Uint8Array;
}

/** Memory encryption of Zen 2 and later. */
const XEX: MemoryEncryption = { mode: 'XEX', constants: 'fresh' };

/** Powers on: DRAM is zero, slots are empty, tweak constants are fixed or fresh from `random`, which is the default. */
export function createSilicon(o: {
	dramBytes: number;
	maxAsid: number;
	random: RandomSource;
	encryption?: MemoryEncryption;
}): Silicon {
	const encryption = o.encryption ?? XEX;
	if (!Number.isSafeInteger(o.dramBytes) || o.dramBytes < 2 ** 20 || o.dramBytes % PAGE_SIZE !== 0) {
		throw new RangeError(`dramBytes: expected whole 4 KiB pages, at least 1 MiB, got ${o.dramBytes}`);
	}
	return {
		kind: 'cvm-silicon',
		dram: new SharedArrayBuffer(o.dramBytes),
		keySlots: allocateKeySlots(o.maxAsid),
		pageLocks: allocatePageLocks(),
		integritySlots: allocateIntegritySlots(),
		mode: encryption.mode,
		tweakConstants: bootConstants(encryption, o.random),
	};
}

/** Looks into a handle. @throws TypeError if it did not come from a machine of this package */
export function openSilicon(handle: SiliconHandle): Silicon {
	if (isSilicon(handle)) return handle;
	throw new TypeError('silicon: expected the handle of a SEV machine, got something else');
}

const isSilicon = (handle: SiliconHandle): handle is Silicon =>
	handle.kind === 'cvm-silicon' && 'dram' in handle && 'keySlots' in handle && 'tweakConstants' in handle;
