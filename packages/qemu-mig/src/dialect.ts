import { RamFlag } from './abi/stream.js';

/**
 * Which tree's records a stream may hold. The flag 0x200 means different things in them, so a reader must be told, or
 * find out with {@link detectDialect}.
 *
 * - `qemu-7.2`: upstream up to 8.0
 * - `qemu-9`: upstream from 8.1 on (MULTIFD_FLUSH, mapped-ram, SWITCHOVER_START)
 * - `sev-v1`: AMDESE/qemu `sev-migration-v1`
 * - `sev-list`: AMDESE/qemu `build33`; what `sev_shared_regions_list` writes is read by `sev-v4`
 * - `sev-v4`: AMDESE/qemu `sev_live_migration_v4` and `_v4_1`
 * - `mh-v1`, `mh-v2`: qemu-devel "Confidential guest-assisted live migration", March and August 2021
 */
export type Dialect = 'qemu-7.2' | 'qemu-9' | 'sev-v1' | 'sev-list' | 'sev-v4' | 'mh-v1' | 'mh-v2';

/** What follows the word of a record with flag 0x200. */
type Flag200 =
	/** The flag is unknown. */
	| 'unknown'
	/** Nothing, not even a block name. */
	| 'multifd-flush'
	/** Block name and subtype word. */
	| 'encrypted-data'
	/** Block name and a migration-helper page. */
	| 'helper-page';

/** What a dialect allows. */
export interface DialectRules {
	/** Flags, without CONTINUE, that stand for a page and so are followed by a block name unless CONTINUE is set. */
	readonly namedFlags: number;
	readonly flag200: Flag200;
	/** What an encrypted-data record of subtype 2 holds. */
	readonly pageStatus?: 'bitmap' | 'host-regions' | 'regions';
	/** Whether encrypted-data records of subtype 4 exist. */
	readonly helperPages?: true;
	/** Whether the command SWITCHOVER_START exists. */
	readonly switchoverStart?: true;
}

/** Whether pages may be those of an in-guest helper. */
export const hasHelper = ({ flag200, helperPages }: DialectRules): boolean =>
	flag200 === 'helper-page' || helperPages === true;

const plainFlags = RamFlag.zero | RamFlag.page | RamFlag.xbzrle | RamFlag.compressPage;
const withEncrypted = plainFlags | RamFlag.encryptedData;

/** One row per dialect: adding a dialect means adding a row and the records it names. */
export const DIALECTS: Readonly<Record<Dialect, DialectRules>> = {
	'qemu-7.2': { namedFlags: plainFlags, flag200: 'unknown' },
	'qemu-9': { namedFlags: plainFlags, flag200: 'multifd-flush', switchoverStart: true },
	'sev-v1': { namedFlags: withEncrypted, flag200: 'encrypted-data', pageStatus: 'bitmap' },
	'sev-list': { namedFlags: withEncrypted, flag200: 'encrypted-data', pageStatus: 'host-regions' },
	'sev-v4': { namedFlags: withEncrypted, flag200: 'encrypted-data', pageStatus: 'regions' },
	'mh-v1': { namedFlags: withEncrypted, flag200: 'helper-page' },
	// The MH series is built on sev-v4 and keeps its subtype 1.
	'mh-v2': { namedFlags: withEncrypted, flag200: 'encrypted-data', pageStatus: 'regions', helperPages: true },
};
