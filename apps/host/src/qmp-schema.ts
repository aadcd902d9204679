import {
	answers,
	command,
	flag,
	listOf,
	MIGRATION_CAPABILITIES,
	type MigrationInfo,
	oneOf,
	qmpSchema,
	struct,
	text,
} from '@cvm/qmp';
import type { HelperFigures } from './helper/tally.js';

/** Capability of this model: the target waits for the source's commit before it runs the guest. */
export const HANDOVER = 'x-handover-commit';

/** Capability of this model: pages are sealed by the guest's migration helper and not by the platform's firmware. */
export const HELPER = 'x-migration-helper';

/** Everything that can be compared between two guests: memory as the guest sees it, registers, page status. */
export type GuestDigest = {
	readonly blocks: readonly { readonly idstr: string; readonly size: number; readonly sha256: string }[];
	/** SHA-256 over all vCPUs' saved states, in order. */
	readonly vcpus: string;
	readonly 'shared-regions': readonly (readonly [gfnStart: number, gfnEnd: number])[];
	readonly 'migration-msr': number;
};

/** QMP as this host serves it: QEMU's commands, and a few of our own whose names start with `x-`. */
export const hostSchema = {
	...qmpSchema,
	'migrate-set-capabilities': command({
		capabilities: listOf(struct({ capability: oneOf([...MIGRATION_CAPABILITIES, HANDOVER, HELPER]), state: flag })),
	}),
	/** On a source with migration helpers: what they have sent. */
	'query-migrate': command({}, answers<MigrationInfo & { readonly 'x-helper'?: HelperFigures }>()),
	/** Reads the guest through DBG_DECRYPT, which its policy must allow. The VM must be stopped. */
	'x-guest-digest': command({}, answers<GuestDigest>()),
	/** Writes one RAM block, read through DBG_DECRYPT where it is private. The VM must be stopped. */
	'x-guest-memsave': command({ block: text, filename: text }),
	/** The whole of DRAM as a host sees it: ciphertext where pages are private. */
	'x-dram-save': command({ filename: text }),
	/** On a target whose arrival failed when all was there: base64 of the helper's word that the guest will never run here. */
	'x-migration-token': command({}, answers<{ readonly token: string }>()),
	/** On a source that gave its guest up: takes it back, on that word. */
	'x-migration-revive': command({ token: text }),
	/** What the guest publishes in its shared page: steps done by each vCPU. */
	'x-guest-progress': command({}, answers<{ readonly steps: readonly number[] }>()),
};
