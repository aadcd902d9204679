import { bytes, type Infer, layout, reserved, u16 } from '@cvm/layout';
import { SECRET_AREA } from '../image/image.js';
import { readGuestSecrets } from '../image/secret-table.js';
import type { HelperMemory } from './ports.js';

/** PROJECT: names the guest owner's migration secret in the table of launch secrets. */
export const MIGRATION_SECRET_GUID = '9c1f2e0a-6b5d-4d37-8e42-6d2f7c3a51b8';

/** Format of {@link migrationSecret}. */
const FORMAT = 1;

/** PROJECT: the entry's data, 56 bytes little-endian. The owner gives the same one to source and target. */
export const migrationSecret = layout('cvm_migration_secret', 56, {
	/** 1. */
	format: u16(0x00),
	/** Oldest protocol version that the owner allows. */
	minVersion: u16(0x02),
	pad: reserved(0x04, 4),
	/** The owner's name of the guest; no secret. */
	guestId: bytes(0x08, 16),
	/** What helpers of this guest know one another by: 32 random bytes. */
	secret: bytes(0x18, 32),
});
export type MigrationSecret = Infer<typeof migrationSecret>;

/**
 * The data of the owner's entry, for `secretTable` of `@cvm/sev-hw/owner` under {@link MIGRATION_SECRET_GUID}.
 *
 * @param guestId 16 bytes that name the guest
 * @param secret 32 random bytes, another 32 for each guest
 * @param minVersion oldest protocol version allowed; default 1
 * @throws LayoutError for other lengths
 */
export function encodeMigrationSecret(guestId: Uint8Array, secret: Uint8Array, minVersion = 1): Uint8Array {
	return migrationSecret.encode({ format: FORMAT, minVersion, guestId, secret });
}

/**
 * The owner's migration secret out of the secret area in guest memory; `undefined` unless there is exactly one, of a known format, in
 * a table without fault. The table is the owner's word, but a launch without the owner leaves the host's bytes there: every length
 * is held against what is left. The caller wipes `secret`.
 */
export function readMigrationSecret(memory: HelperMemory): MigrationSecret | undefined {
	const area = new Uint8Array(SECRET_AREA.size);
	memory.read(SECRET_AREA.base, area);
	const at = findEntry(area);
	let found: MigrationSecret | undefined;
	if (at !== undefined) {
		const data = area.subarray(at, at + migrationSecret.size);
		if (data.subarray(4, 8).every((b) => b === 0)) found = migrationSecret.decode(data);
	}
	area.fill(0);
	// Zeros are no secret: an area that was never filled must not open a session.
	return found?.format === FORMAT && found.secret.some((b) => b !== 0) ? found : undefined;
}

/** Where the data of the one entry begins. */
function findEntry(area: Uint8Array): number | undefined {
	const [entry, ...more] = readGuestSecrets(area).entries.filter(({ guid }) => guid === MIGRATION_SECRET_GUID);
	return more.length === 0 && entry?.length === migrationSecret.size ? entry.offset : undefined;
}
