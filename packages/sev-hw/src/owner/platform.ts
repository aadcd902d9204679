import type { CryptoProvider } from '@cvm/crypto';
import { Status } from '../abi/status.js';
import { type ArkPin, readAmdCertificate, splitAskArk } from '../certificates/amd-certificate.js';
import { type ChainVerdict, verifyOwnerChain, verifyPlatformChain } from '../certificates/chain.js';
import { SEV_CERT_SIZE } from '../certificates/sev-certificate.js';
import { fakeArk } from '../fake-amd/roots.js';

/** PEK ‖ OCA ‖ CEK, as PDH_CERT_EXPORT gives them. */
const CHAIN_SIZE = 3 * SEV_CERT_SIZE;

/** What a guest owner is told about a platform by its untrusted host, and which root to believe. */
export interface PlatformEvidence {
	/** The platform's Diffie-Hellman certificate, 2084 bytes. */
	readonly pdh: Uint8Array;
	/** PEK ‖ OCA ‖ CEK, 6252 bytes. The CEK in it is unsigned and not looked at. */
	readonly chain: Uint8Array;
	/** The CEK certificate as the manufacturer signed it, 2084 bytes. */
	readonly cek: Uint8Array;
	/** ASK ‖ ARK. The Naples ARK may lack its signature, as AMD once gave it out (1408 bytes in all). */
	readonly askArk: Uint8Array;
	/** `'fake'` for platforms of this model; for real ones a pin, such as an entry of `AMD_ROOTS`. */
	readonly trust: 'fake' | Required<ArkPin>;
}

/**
 * Whether a PDH belongs to a genuine platform with a consistent owner: both chains of the firmware, AMD's first.
 * `INVALID_LENGTH` if a blob has no possible length; then `failed` names the first certificate that it should hold.
 */
export function verifyPlatform(provider: CryptoProvider, evidence: PlatformEvidence): ChainVerdict {
	const { pdh, chain, cek } = evidence;
	const amd = splitAskArk(evidence.askArk);
	if (amd === undefined) return { status: Status.INVALID_LENGTH, failed: 'ask' };
	if (cek.length !== SEV_CERT_SIZE) return { status: Status.INVALID_LENGTH, failed: 'cek' };
	if (chain.length !== CHAIN_SIZE) return { status: Status.INVALID_LENGTH, failed: 'pek' };
	if (pdh.length !== SEV_CERT_SIZE) return { status: Status.INVALID_LENGTH, failed: 'pdh' };
	const pek = chain.subarray(0, SEV_CERT_SIZE);
	const oca = chain.subarray(SEV_CERT_SIZE, 2 * SEV_CERT_SIZE);
	const pin = evidence.trust === 'fake' ? fakeRoot(provider) : evidence.trust;
	const genuine = verifyPlatformChain(provider, { pdh, pek, cek, ...amd }, pin);
	return genuine.status === Status.SUCCESS ? verifyOwnerChain(provider, { pdh, pek, oca }) : genuine;
}

function fakeRoot(provider: CryptoProvider): ArkPin {
	const body = readAmdCertificate(fakeArk)?.body ?? new Uint8Array(0);
	return { bodySha256: provider.digest('sha256', body) };
}
