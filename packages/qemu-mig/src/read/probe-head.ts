import { RamFlag, SectionType, STREAM_MAGIC } from '../abi/stream.js';
import type { StreamKind } from './options.js';

/** Bytes that {@link classify} wants to see; with fewer it does what it can. */
export const HEAD_BYTES = 16;

/** First word of a multifd channel. QEMU 7.2 migration/multifd.c `MULTIFD_MAGIC`. */
const MULTIFD_MAGIC = 0x11223344;
/** First bytes of a file of `virsh save`, complete or not. libvirt src/qemu/qemu_saveimage.h. */
const LIBVIRT_MAGICS = ['LibvirtQemudSave', 'LibvirtQemudPart'];

/** What a connection or file carries, from its first bytes; `migration` where nothing else fits. */
export function classify(head: Uint8Array): StreamKind | 'multifd' | 'libvirt-save' {
	const text = String.fromCharCode(...head.subarray(0, 16));
	if (LIBVIRT_MAGICS.includes(text)) return 'libvirt-save';
	if (head.length < 8) return 'migration';
	const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
	const magic = view.getUint32(0);
	if (magic === MULTIFD_MAGIC) return 'multifd';
	if (magic === STREAM_MAGIC) return 'migration';
	if (head[0] === SectionType.command) return 'recovery';
	return isRecordWord(view.getUint32(0), view.getUint32(4)) ? 'preempt' : 'migration';
}

/** A page that names its block, or the end: the first record of a channel of its own. */
function isRecordWord(high: number, low: number): boolean {
	const flags = low & 0xfff;
	const pages: readonly number[] = [RamFlag.zero, RamFlag.page, RamFlag.compressPage, RamFlag.endOfSection];
	return high < 0x10000 && pages.includes(flags);
}
