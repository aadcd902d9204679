import { type CryptoProvider, constantTimeEqual } from '@cvm/crypto';
import { guidToBytes } from '@cvm/layout';
import { HASH_HEADER, HashGuid } from './kernel-hashes.js';

/** How OVMF's verifier behaves: each member as posted by default. */
export interface VerifierOptions {
	/**
	 * `2021`: edk2-stable202108, `current`: edk2 master. The older one takes no status of the fetch, and answers access denied where
	 * the newer one stops for good (unknown name, mismatch) or lets the blob pass (no entry for it).
	 */
	readonly edk2?: '2021' | 'current';
	/**
	 * An entry of length 0 that is not the one looked for: as posted the scan stands still on it for ever. PROJECT: `fixed` denies
	 * every blob by such a table.
	 */
	readonly emptyEntry?: 'asPosted' | 'fixed';
	/** PROJECT: `fixed` stops at a blob that the table does not name, which otherwise boots unmeasured in `current`. */
	readonly missingEntry?: 'asPosted' | 'fixed';
}

/** What comes of a blob. `dead-loop`: deliberate, CpuDeadLoop. `endless-loop`: the defect. */
export interface BlobVerdict {
	readonly result: 'success' | 'access-denied' | 'dead-loop' | 'endless-loop';
	readonly reason: string;
	/** Offset in the region of the entry that decided, if one did. */
	readonly offset?: number;
}

const hasGuid = (region: Uint8Array, at: number, guid: string) =>
	guidToBytes(guid).every((byte, i) => region[at + i] === byte);
const lengthAt = (region: Uint8Array, at: number) => (region[at + 16] ?? 0) | ((region[at + 17] ?? 0) << 8);

/**
 * How OVMF judges a blob that came through fw_cfg by the table in its hash region (edk2
 * `OvmfPkg/AmdSev/BlobVerifierLibSevHashes`). `blob` is what was fetched, `undefined` if that failed; the command line is fetched
 * with its NUL. Ends for any region, also where the firmware would not.
 */
export function verifyBlob(
	provider: CryptoProvider,
	region: Uint8Array,
	name: string,
	blob: Uint8Array | undefined,
	{ edk2 = 'current', emptyEntry = 'asPosted', missingEntry = 'asPosted' }: VerifierOptions = {},
): BlobVerdict {
	const stop = edk2 === 'current' ? 'dead-loop' : 'access-denied';
	if (!blob && edk2 === 'current') return { result: 'dead-loop', reason: 'the fetch failed' };
	const length = tableLength(region);
	if (length <= HASH_HEADER) return { result: 'access-denied', reason: 'no table' };
	if (name !== 'kernel' && name !== 'initrd' && name !== 'cmdline') return { result: stop, reason: 'unknown name' };
	const guid = HashGuid[name];
	for (let at = HASH_HEADER; length - at >= HASH_HEADER; ) {
		const entry = lengthAt(region, at);
		if (entry > length - at) break;
		if (hasGuid(region, at, guid)) {
			// A length below that of the header is a huge size to the firmware, and as wrong as any other.
			if (entry - HASH_HEADER !== 32) return { result: 'access-denied', reason: 'hash is not 32 bytes', offset: at };
			const expected = region.slice(at + HASH_HEADER, at + entry);
			const matches = constantTimeEqual(expected, provider.digest('sha256', blob ?? new Uint8Array(0)));
			return matches
				? { result: 'success', reason: 'hash matches', offset: at }
				: { result: stop, reason: 'hash differs', offset: at };
		}
		if (entry === 0) {
			return emptyEntry === 'fixed'
				? { result: 'access-denied', reason: 'entry of length 0', offset: at }
				: { result: 'endless-loop', reason: 'entry of length 0', offset: at };
		}
		at += entry;
	}
	if (missingEntry === 'fixed') return { result: stop, reason: 'no entry for it' };
	return { result: edk2 === 'current' ? 'success' : 'access-denied', reason: 'no entry for it' };
}

/** The constructor's check: length of the table if the verifier takes it, else 0. */
function tableLength(region: Uint8Array): number {
	if (region.length < HASH_HEADER || !hasGuid(region, 0, HashGuid.table)) return 0;
	const length = lengthAt(region, 0);
	return length < HASH_HEADER || length > region.length ? 0 : length;
}
