import { type CryptoProvider, type RandomSource, wipe } from '@cvm/crypto';
import { bytes, guidFromBytes, guidToBytes, layout, u32 } from '@cvm/layout';
import { bindsVersionAndMeasure } from '../channel/measurement.js';
import { PacketContext, sealPacket } from '../channel/packet.js';
import type { ChannelKeys } from '../channel/session.js';
import { OwnerError } from './error.js';

/** GUID of the outer header of a secret table: the convention of Linux `drivers/virt/coco/efi_secret` and of grub. */
export const SECRET_TABLE_GUID = '1e74f542-71dd-4d66-963e-ef4287ff173b';

/** In front of the table and of each entry; `length` counts these 20 bytes too. */
const secretHeader = layout('secret_header', 20, { guid: bytes(0, 16), length: u32(16) });

/** One secret: a name that the guest looks for, as `8-4-4-4-12` text, and its bytes. */
export interface SecretEntry {
	readonly guid: string;
	readonly data: Uint8Array;
}

/**
 * The GUIDed table of secrets that a Linux guest finds in its secret area. Padded with zeros to a multiple of 16 bytes,
 * as LAUNCH_SECRET wants it; the table's own length leaves the padding out.
 *
 * @throws LayoutError if a GUID is not in text form
 */
export function secretTable(entries: readonly SecretEntry[]): Uint8Array {
	const length = entries.reduce((sum, { data }) => sum + secretHeader.size + data.length, secretHeader.size);
	const out = new Uint8Array(Math.ceil(length / 16) * 16);
	out.set(secretHeader.encode({ guid: guidToBytes(SECRET_TABLE_GUID), length }));
	let at = secretHeader.size;
	for (const { guid, data } of entries) {
		out.set(secretHeader.encode({ guid: guidToBytes(guid), length: secretHeader.size + data.length }), at);
		out.set(data, at + secretHeader.size);
		at += secretHeader.size + data.length;
	}
	return out;
}

/**
 * The entries of a table that {@link secretTable} made, as a guest reads them; bytes behind its length are not looked at.
 *
 * @throws OwnerError `secret` if that is no such table
 */
export function readSecretTable(table: Uint8Array): SecretEntry[] {
	const outer = entryAt(table, 0, table.length);
	if (outer.guid !== SECRET_TABLE_GUID) {
		throw new OwnerError('secret', `secret table: expected GUID ${SECRET_TABLE_GUID}, got ${outer.guid}`);
	}
	const entries: SecretEntry[] = [];
	for (let at = secretHeader.size; at < outer.end; ) {
		const { guid, end } = entryAt(table, at, outer.end);
		entries.push({ guid, data: new Uint8Array(table.subarray(at + secretHeader.size, end)) });
		at = end;
	}
	return entries;
}

function entryAt(table: Uint8Array, at: number, limit: number): { guid: string; end: number } {
	const left = limit - at;
	const { guid, length } = left < secretHeader.size ? noEntry : secretHeader.decodePrefix(table.subarray(at));
	if (length < secretHeader.size || length > left) {
		throw new OwnerError('secret', `secret table, length at ${at + 16}: expected 20 to ${left}, got ${length}`);
	}
	return { guid: guidFromBytes(guid), end: at + length };
}

const noEntry = { guid: new Uint8Array(16), length: 0 };

/**
 * Encrypts a secret for LAUNCH_SECRET: `header` (52 bytes) and `payload`, good for the one launch that gave `measure`.
 * Check that measurement first (`verifyMeasurement`). Draws 16 bytes of `random`. The secret is padded with zeros to a
 * multiple of 16 bytes.
 *
 * Before API 0.17 the packet is not bound to the measurement, so any launch under the same transport keys takes it.
 *
 * @throws OwnerError `secret` if there is none, `measure` if that is not the 32-byte MEASURE
 */
export function packageSecret(o: {
	readonly provider: CryptoProvider;
	readonly random: RandomSource;
	readonly keys: Pick<ChannelKeys, 'tek' | 'tik'>;
	/** MEASURE: the first 32 bytes of what LAUNCH_MEASURE gave. Not needed before API 0.17. */
	readonly measure?: Uint8Array;
	readonly secret: Uint8Array;
	/** API version of the firmware that will open the packet, if it is older than 0.17. */
	readonly version?: { readonly major: number; readonly minor: number };
}): { header: Uint8Array; payload: Uint8Array } {
	if (o.secret.length === 0) throw new OwnerError('secret', 'secret: expected at least 1 byte, got 0');
	const binds = o.version === undefined || bindsVersionAndMeasure(o.version);
	if (binds && o.measure?.length !== 32) {
		throw new OwnerError('measure', `measure: expected 32 bytes, got ${o.measure?.length ?? 'none'}`);
	}
	const plaintext = new Uint8Array(Math.ceil(o.secret.length / 16) * 16);
	plaintext.set(o.secret);
	const iv = o.random.bytes(16);
	const packet = { context: PacketContext.secret, iv, plaintext, ...(binds && o.measure && { measure: o.measure }) };
	const sealed = sealPacket(o.provider, o.keys, packet);
	wipe(plaintext);
	return sealed;
}
