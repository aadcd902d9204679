import type { CryptoProvider } from '@cvm/crypto';
import { Status } from '../abi/status.js';
import { type ArkPin, asKey, verifyArk, verifyAsk } from './amd-certificate.js';
import { certKeyOf, verifySevCertificate } from './sev-certificate.js';

/** A certificate of a platform's chains. */
export type ChainLink = 'ark' | 'ask' | 'cek' | 'oca' | 'pek' | 'pdh';

/** `failed` names the certificate whose check gave a `status` other than `SUCCESS`. */
export interface ChainVerdict {
	readonly status: Status;
	readonly failed?: ChainLink;
}

/** A certificate and its check, run only if those before it passed. */
type Check = readonly [ChainLink, () => Status];

/**
 * Whether a platform is an AMD SEV platform: ARK, then ASK by ARK, CEK by ASK, PEK by CEK, PDH by PEK, in the order and
 * with the statuses of SEND_START under POLICY.SEV. `pin` restricts which root is taken.
 */
export function verifyPlatformChain(
	provider: CryptoProvider,
	chain: {
		readonly pdh: Uint8Array;
		readonly pek: Uint8Array;
		readonly cek: Uint8Array;
		readonly ask: Uint8Array;
		readonly ark: Uint8Array;
	},
	pin: ArkPin = {},
): ChainVerdict {
	return firstFailure([
		['ark', () => verifyArk(provider, chain.ark, pin)],
		['ask', () => verifyAsk(provider, chain.ask, chain.ark)],
		['cek', () => verifySevCertificate(provider, chain.cek, asKey(chain.ask))],
		['pek', () => verifySevCertificate(provider, chain.pek, certKeyOf(chain.cek))],
		['pdh', () => verifySevCertificate(provider, chain.pdh, certKeyOf(chain.pek))],
	]);
}

/**
 * Whether a platform belongs to the owner of an OCA: OCA by itself, PEK by OCA, PDH by PEK, in the order and with the
 * statuses of SEND_START under POLICY.DOMAIN. Whether it is the wanted owner is for the caller to compare.
 */
export function verifyOwnerChain(
	provider: CryptoProvider,
	chain: { readonly pdh: Uint8Array; readonly pek: Uint8Array; readonly oca: Uint8Array },
): ChainVerdict {
	return firstFailure([
		['oca', () => verifySevCertificate(provider, chain.oca, certKeyOf(chain.oca))],
		['pek', () => verifySevCertificate(provider, chain.pek, certKeyOf(chain.oca))],
		['pdh', () => verifySevCertificate(provider, chain.pdh, certKeyOf(chain.pek))],
	]);
}

function firstFailure(checks: readonly Check[]): ChainVerdict {
	for (const [failed, check] of checks) {
		const status = check();
		if (status !== Status.SUCCESS) return { status, failed };
	}
	return { status: Status.SUCCESS };
}
