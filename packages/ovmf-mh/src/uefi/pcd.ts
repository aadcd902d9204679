import { layout, u32 } from '@cvm/layout';
import { PublishedGeometry } from '../geometry.js';

const { mailbox, mailboxBytes, entry, entryBytes } = PublishedGeometry;

/**
 * The PCDs of the handler (edk2 branch sev-mirror2-patches, OvmfPkg/OvmfPkg.dec, token space gUefiOvmfPkgTokenSpaceGuid). A dynamic one
 * stands in the PCD database in RAM, a fixed one is part of the build.
 */
export const HandlerPcd = {
	PcdIsConfidentialMigrationTarget: { token: 0x49, type: 'BOOLEAN', kind: 'dynamic', value: 0 },
	PcdStartConfidentialMigrationHandler: { token: 0x4a, type: 'BOOLEAN', kind: 'dynamic', value: 0 },
	PcdConfidentialMigrationMailboxBase: { token: 0x4b, type: 'UINT32', kind: 'fixed', value: mailbox },
	PcdConfidentialMigrationMailboxSize: { token: 0x4c, type: 'UINT32', kind: 'fixed', value: mailboxBytes },
	PcdConfidentialMigrationEntryBase: { token: 0x4d, type: 'UINT32', kind: 'fixed', value: entry },
	PcdConfidentialMigrationEntrySize: { token: 0x4e, type: 'UINT32', kind: 'fixed', value: entryBytes },
} as const;
export type HandlerPcd = keyof typeof HandlerPcd;
export type DynamicPcd = 'PcdIsConfidentialMigrationTarget' | 'PcdStartConfidentialMigrationHandler';

/** PCDs of the same authors' older firmware (resume-from-efi-edk2, token space gSevLaunchSecretGuid); nothing here reads them. */
export const ResumePcd = {
	PcdSevIsMigrationHandler: { token: 3, type: 'BOOLEAN', kind: 'dynamic', value: 0 },
	PcdSevMigrationMailboxBase: { token: 4, type: 'UINT32', kind: 'fixed', value: 0x80e000 },
	PcdSevMigrationMailboxSize: { token: 5, type: 'UINT32', kind: 'fixed', value: 0x1000 },
	PcdSevMigrationPagesBase: { token: 6, type: 'UINT32', kind: 'fixed', value: 0x80b000 },
	PcdSevMigrationPagesSize: { token: 7, type: 'UINT32', kind: 'fixed', value: 0x3000 },
	PcdSevMigrationStatePageBase: { token: 9, type: 'UINT32', kind: 'fixed', value: 0x80f000 },
	PcdSevMigrationStatePageSize: { token: 10, type: 'UINT32', kind: 'fixed', value: 0x1000 },
} as const;

/** The database of dynamic PCDs in RAM: this header, then {@link pcdEntry} in ascending order of token. PROJECT: the format. */
export const pcdDatabase = layout('pcd_database', 8, { magic: u32(0), count: u32(4) });
export const pcdEntry = layout('pcd_entry', 8, { token: u32(0), value: u32(4) });
/** 'PCDB' as a little-endian u32. */
const PCD_MAGIC = 0x42444350;

/** The database with given values of the dynamic PCDs. */
export function encodePcds(values: Readonly<Record<DynamicPcd, boolean>>): Uint8Array {
	const entries = (Object.keys(values) as DynamicPcd[])
		.map((name) => ({ token: HandlerPcd[name].token, value: values[name] ? 1 : 0 }))
		.sort((a, b) => a.token - b.token);
	const out = new Uint8Array(pcdDatabase.size + entries.length * pcdEntry.size);
	pcdDatabase.encodeInto(out.subarray(0, pcdDatabase.size), { magic: PCD_MAGIC, count: entries.length });
	entries.forEach((entry, i) => {
		pcdEntry.encodeInto(out.subarray(pcdDatabase.size + i * pcdEntry.size), entry);
	});
	return out;
}

/**
 * PcdGet: a fixed PCD's value is the build's, a dynamic one's stands in the database, and is its default where there is none.
 *
 * @param database the database's bytes
 */
export function readPcd(name: HandlerPcd, database: Uint8Array): number {
	const { kind, token, value } = HandlerPcd[name];
	if (kind === 'fixed' || database.length < pcdDatabase.size) return value;
	const { magic, count } = pcdDatabase.decodePrefix(database);
	if (magic !== PCD_MAGIC) return value;
	for (let i = 0; i < count; i++) {
		const at = pcdDatabase.size + i * pcdEntry.size;
		if (at + pcdEntry.size > database.length) break;
		const entry = pcdEntry.decodePrefix(database.subarray(at));
		if (entry.token === token) return entry.value;
	}
	return value;
}
