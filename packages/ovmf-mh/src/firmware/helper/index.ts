import type { CryptoProvider } from '@cvm/crypto';
import type { CodeFragment } from '@cvm/kvm/vcpu';
import { CODE_BASE } from '../work-area.js';
import { installBlocks } from './install.js';
import { type IdlePolicy, serveBlocks } from './serve.js';

export { sharedHelperRanges } from './install.js';
export { SHARED_ALIAS } from './paging.js';
export { type RecordedGuest, recordForHelper } from './record.js';

export interface HardenedHelperOptions {
	/** The cryptography that the helper was built with. */
	readonly provider: CryptoProvider;
	/** Default `sleep`. */
	readonly idlePolicy?: IdlePolicy;
}

/**
 * The hardened migration helper. Labels: `mh.hardened.install`, which the firmware calls, and `mh.hardened.main`, where a vCPU of
 * its own begins, with the index of the helper in RBX.
 */
export const hardenedHelper = ({ provider, idlePolicy = 'sleep' }: HardenedHelperOptions): readonly CodeFragment[] => [
	{
		name: 'mh-hardened',
		base: CODE_BASE + 0x20000,
		blocks: { ...serveBlocks(provider, idlePolicy), ...installBlocks(provider) },
	},
];
