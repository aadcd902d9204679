import { bytes, guidFromBytes, layout, u32 } from '@cvm/layout';

/** GUID of the outer header of a secret table: the convention of Linux drivers/virt/coco/efi_secret and of grub. */
export const GUEST_SECRETS_GUID = '1e74f542-71dd-4d66-963e-ef4287ff173b';

/** In front of the table and of each entry; `length` counts these 20 bytes too, the outer one all entries as well. */
const secretHeader = layout('secret_header', 20, { guid: bytes(0, 16), length: u32(16) });

/** Where a secret is in its area. The bytes are not copied: whoever needs them takes them, and wipes the copy. */
export interface GuestSecret {
	readonly guid: string;
	/** Offset of the data in the area. */
	readonly offset: number;
	readonly length: number;
}

/** What a guest finds in its secret area. */
export interface GuestSecrets {
	/** In the order of the table; of two with one GUID the first counts. */
	readonly entries: readonly GuestSecret[];
	/** Why there are no entries: the host may have put anything there, so a table is taken whole or not at all. */
	readonly problem?: { readonly offset: number; readonly message: string };
}

/** The largest area that is looked at, and the most entries. Both are above what fits into any OVMF build's area. */
const MAX_AREA = 0x10000;
const MAX_ENTRIES = 64;

/**
 * Reads the table of secrets that the guest's owner sent by LAUNCH_SECRET, as the guest does. Bytes behind the table's own
 * length are padding and not looked at. Never throws, never reads outside `area`, and quotes no byte of a secret.
 */
export function readGuestSecrets(area: Uint8Array): GuestSecrets {
	const refuse = (offset: number, what: string) => ({
		entries: [],
		problem: { offset, message: `secret table, offset ${offset}: ${what}` },
	});
	const limit = Math.min(area.length, MAX_AREA);
	const outer = limit < secretHeader.size ? undefined : secretHeader.decodePrefix(area);
	if (!outer || guidFromBytes(outer.guid) !== GUEST_SECRETS_GUID) {
		return refuse(0, `expected GUID ${GUEST_SECRETS_GUID}, got another`);
	}
	if (outer.length < secretHeader.size || outer.length > limit) {
		return refuse(16, `expected a length from 20 to ${limit}, got ${outer.length}`);
	}
	const entries: GuestSecret[] = [];
	for (let at = secretHeader.size; at < outer.length; ) {
		const left = outer.length - at;
		const header = left < secretHeader.size ? undefined : secretHeader.decodePrefix(area.subarray(at));
		if (!header || header.length < secretHeader.size || header.length > left) {
			return refuse(at + 16, `expected a length from 20 to ${left}, got ${header?.length ?? 'no header'}`);
		}
		if (entries.length === MAX_ENTRIES) return refuse(at, `expected at most ${MAX_ENTRIES} entries, got more`);
		const length = header.length - secretHeader.size;
		entries.push({ guid: guidFromBytes(header.guid), offset: at + secretHeader.size, length });
		at += header.length;
	}
	return { entries };
}

/** A copy of the first secret with this GUID; `undefined` if there is none, or no good table. Wipe it after use. */
export function findGuestSecret(area: Uint8Array, guid: string): Uint8Array | undefined {
	const found = readGuestSecrets(area).entries.find((entry) => entry.guid === guid);
	return found && area.slice(found.offset, found.offset + found.length);
}
