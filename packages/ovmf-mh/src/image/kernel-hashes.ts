import type { CryptoProvider } from '@cvm/crypto';
import { guidToBytes, PAGE_SIZE } from '@cvm/layout';
import type { FirmwareBlocks, MemoryRange } from './blocks.js';

/** GUIDs of the table of hashes for measured direct boot, and of its entries (QEMU 7.2 target/i386/sev.c). */
export const HashGuid = {
	table: '9438d606-4f22-4cc9-b479-a793d411fd21',
	cmdline: '97d02dd8-bd20-4c94-aa78-e7714d36ab2a',
	initrd: '44baf731-3a2f-4bd7-9af1-41e29169781d',
	kernel: '4de79437-abd2-427f-b835-d5b172d2045b',
} as const;

/** Bytes of the table without padding: its length field. */
const HASH_TABLE_LENGTH = 168;
/** Bytes of the table with its zero padding, as it is encrypted and measured. */
export const HASH_TABLE_SIZE = 176;
/** GUID and length in front of a table or an entry, in this order: opposite to the firmware table. */
export const HASH_HEADER = 18;
const ENTRY_LENGTH = 50;

/** What is booted directly, as QEMU has it. */
export interface DirectBoot {
	/** The kernel's file: setup part, then the protected-mode part; QEMU leaves the header alone in SEV guests. */
	readonly kernel: Uint8Array;
	/** Absent is the same as empty. */
	readonly initrd?: Uint8Array;
	/** Without its terminator, with which it is hashed. Absent is the same as empty. */
	readonly commandLine?: Uint8Array;
}

/** SHA-256 of each, by the name under which OVMF fetches it. */
export function directBootHashes(
	provider: CryptoProvider,
	{ kernel, initrd = new Uint8Array(0), commandLine = new Uint8Array(0) }: DirectBoot,
): { readonly cmdline: Uint8Array; readonly initrd: Uint8Array; readonly kernel: Uint8Array } {
	return {
		cmdline: provider.digest('sha256', commandLine, Uint8Array.of(0)),
		initrd: provider.digest('sha256', initrd),
		kernel: provider.digest('sha256', kernel),
	};
}

/** The 176 bytes that QEMU places at the hash block's base before the launch is measured: command line, initrd, kernel. */
export function buildHashTable(hashes: ReturnType<typeof directBootHashes>): Uint8Array {
	const out = new Uint8Array(HASH_TABLE_SIZE);
	const header = (at: number, guid: string, length: number) => {
		out.set(guidToBytes(guid), at);
		out[at + 16] = length;
	};
	header(0, HashGuid.table, HASH_TABLE_LENGTH);
	for (const [i, name] of (['cmdline', 'initrd', 'kernel'] as const).entries()) {
		const hash = hashes[name];
		if (hash.length !== 32) throw new RangeError(`hash of ${name}: expected 32 bytes, got ${hash.length}`);
		const at = HASH_HEADER + i * ENTRY_LENGTH;
		header(at, HashGuid[name], ENTRY_LENGTH);
		out.set(hash, at + HASH_HEADER);
	}
	return out;
}

/** Where the table goes, or why QEMU does not start the guest. */
export type HashTablePlace =
	| { readonly ok: true; readonly area: MemoryRange }
	| { readonly ok: false; readonly reason: string };

/** QEMU's checks with `kernel-hashes=on` and a kernel; without that option no table is written and nothing is checked. */
export function hashTablePlace({ hashBlock }: Pick<FirmwareBlocks, 'hashBlock'>): HashTablePlace {
	if (!hashBlock) return { ok: false, reason: 'firmware table: expected a SEV hash table block, got none' };
	const { base, size } = hashBlock;
	if (base === 0) return { ok: false, reason: 'SEV hash table block: expected a base, got 0 (unsupported)' };
	if (size < HASH_TABLE_SIZE) {
		return { ok: false, reason: `SEV hash table block: expected at least ${HASH_TABLE_SIZE} bytes, got ${size}` };
	}
	return { ok: true, area: hashBlock };
}

/**
 * The page of section type 0x10 as an SEV-SNP launch measures it: zeros but for the table, at its offset in the page. Without a
 * table the page is a zero page.
 *
 * @throws RangeError if the table would cross the page's end
 */
export function hashPage(table: Uint8Array | undefined, base: number): Uint8Array {
	const page = new Uint8Array(PAGE_SIZE);
	if (!table) return page;
	const at = base % PAGE_SIZE;
	if (at + table.length > PAGE_SIZE) {
		throw new RangeError(`hash table at 0x${base.toString(16)}: expected ${table.length} bytes within its page`);
	}
	page.set(table, at);
	return page;
}
