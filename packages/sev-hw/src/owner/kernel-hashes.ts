import type { CryptoProvider } from '@cvm/crypto';
import { bytes, guidToBytes, layout, reserved, u16 } from '@cvm/layout';

const entryFields = (at: number) => ({ guid: bytes(at, 16), length: u16(at + 16), hash: bytes(at + 18, 32) });
const [cmdline, initrd, kernel] = [entryFields(0x12), entryFields(0x44), entryFields(0x76)];
const ENTRY_SIZE = 50;
const TABLE_SIZE = 168;

/** The table that QEMU writes into guest memory for measured direct boot: QEMU 7.2 `target/i386/sev.c`. */
const sevHashTable = layout('sev_hash_table', 176, {
	guid: bytes(0x00, 16),
	length: u16(0x10),
	cmdlineGuid: cmdline.guid,
	cmdlineLength: cmdline.length,
	cmdlineHash: cmdline.hash,
	initrdGuid: initrd.guid,
	initrdLength: initrd.length,
	initrdHash: initrd.hash,
	kernelGuid: kernel.guid,
	kernelLength: kernel.length,
	kernelHash: kernel.hash,
	padding: reserved(0xa8, 8),
});

/** What QEMU boots a guest with, beside the firmware. */
export interface BootFiles {
	readonly kernel: Uint8Array;
	/** Absent is the same as empty. */
	readonly initrd?: Uint8Array;
	/** Without a terminator; it is hashed with one NUL behind it. */
	readonly commandLine?: Uint8Array;
}

/**
 * The 176 bytes that stand for kernel, initrd and command line in the launch digest, after the firmware's bytes.
 */
export function kernelHashesTable(provider: CryptoProvider, boot: BootFiles): Uint8Array {
	const { kernel, initrd = new Uint8Array(0), commandLine = new Uint8Array(0) } = boot;
	return sevHashTable.encode({
		guid: guidToBytes('9438d606-4f22-4cc9-b479-a793d411fd21'),
		length: TABLE_SIZE,
		cmdlineGuid: guidToBytes('97d02dd8-bd20-4c94-aa78-e7714d36ab2a'),
		cmdlineLength: ENTRY_SIZE,
		cmdlineHash: provider.digest('sha256', commandLine, Uint8Array.of(0)),
		initrdGuid: guidToBytes('44baf731-3a2f-4bd7-9af1-41e29169781d'),
		initrdLength: ENTRY_SIZE,
		initrdHash: provider.digest('sha256', initrd),
		kernelGuid: guidToBytes('4de79437-abd2-427f-b835-d5b172d2045b'),
		kernelLength: ENTRY_SIZE,
		kernelHash: provider.digest('sha256', kernel),
	});
}
