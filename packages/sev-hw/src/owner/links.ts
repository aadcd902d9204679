import type { CryptoProvider } from '@cvm/crypto';
import type { Status } from '../abi/status.js';
import { type ArkPin, asKey, verifyArk, verifyAsk } from '../certificates/amd-certificate.js';
import type { ChainLink } from '../certificates/chain.js';
import { certKeyOf, verifySevCertificate } from '../certificates/sev-certificate.js';

/** One signature of a platform's chains: who signs whom, and whether that is so. */
export interface LinkVerdict {
	readonly signer: ChainLink;
	readonly certificate: ChainLink;
	/** `SUCCESS`, `INVALID_CERTIFICATE`, `BAD_SIGNATURE` or `UNSUPPORTED`. */
	readonly status: Status;
}

/**
 * Checks every link of both chains, also behind one that fails, to show what is wrong: from the root down to the PEK,
 * then from the owner, then the PDH. All are `SUCCESS` where `verifyPlatform` says so, and nowhere else.
 *
 * @param pin the root to believe: an entry of `AMD_ROOTS`, say. The first link fails for another one
 */
export function checkLinks(
	provider: CryptoProvider,
	chain: Readonly<Record<ChainLink, Uint8Array>>,
	pin: Required<ArkPin>,
): LinkVerdict[] {
	const { ark, ask, cek, oca, pek, pdh } = chain;
	const link = (signer: ChainLink, certificate: ChainLink, status: Status) => ({ signer, certificate, status });
	return [
		link('ark', 'ark', verifyArk(provider, ark, pin)),
		link('ark', 'ask', verifyAsk(provider, ask, ark)),
		link('ask', 'cek', verifySevCertificate(provider, cek, asKey(ask))),
		link('cek', 'pek', verifySevCertificate(provider, pek, certKeyOf(cek))),
		link('oca', 'oca', verifySevCertificate(provider, oca, certKeyOf(oca))),
		link('oca', 'pek', verifySevCertificate(provider, pek, certKeyOf(oca))),
		link('pek', 'pdh', verifySevCertificate(provider, pdh, certKeyOf(pek))),
	];
}
