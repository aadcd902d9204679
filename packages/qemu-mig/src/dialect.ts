import { RamFlag } from './abi/stream.js';

/** Which records a stream may hold. The flag 0x200 means different things in different trees, so a reader must be told. */
export type Dialect = 'qemu-7.2' | 'sev-v4';

/** What a dialect allows in a `ram` section. */
export interface DialectRules {
	/** Flags, without CONTINUE, that stand for a page and so are followed by a block name unless CONTINUE is set. */
	readonly namedFlags: number;
	/** Whether 0x200 is an encrypted-data record. */
	readonly encryptedData: boolean;
}

const plainFlags = RamFlag.zero | RamFlag.page;

/** One row per dialect: adding a dialect means adding a row and the records it names. */
export const DIALECTS = {
	'qemu-7.2': { namedFlags: plainFlags, encryptedData: false },
	'sev-v4': { namedFlags: plainFlags | RamFlag.encryptedData, encryptedData: true },
} as const satisfies Record<Dialect, DialectRules>;
