import type { CryptoProvider, HashName, RsaPublicKey } from '@cvm/crypto';
import { bytes, ignored, layout, u32 } from '@cvm/layout';
import { Status } from '../abi/status.js';
import { reversed } from './byte-order.js';
import { CertAlgo, CertUsage, isUsableRsaKey, type RsaCertKey } from './sev-certificate.js';

/** The fixed front of an AMD root or signing certificate: SEV API 0.24 App. B. Exponent, modulus, signature follow. */
export const amdCertificateHeader = layout('amd_cert', 0x40, {
	version: u32(0x00),
	keyId: bytes(0x04, 16),
	certifyingId: bytes(0x14, 16),
	usage: u32(0x24),
	reserved: ignored(0x28, 16),
	exponentBits: u32(0x38),
	modulusBits: u32(0x3c),
});

/** What an ARK or ASK certificate says, unchecked. */
export interface AmdCertificate {
	readonly version: number;
	/** 16 bytes in file order. */
	readonly keyId: Uint8Array;
	/** Key id of the signer, 16 bytes in file order. */
	readonly certifyingId: Uint8Array;
	readonly usage: number;
	readonly key: RsaPublicKey;
	/** The signed bytes: everything before the signature. A view of the certificate. */
	readonly body: Uint8Array;
	/** Big-endian, as long as the signer's modulus. Empty for an ARK that AMD gave out without its signature. */
	readonly signature: Uint8Array;
}

/** A root key that is trusted. The id alone proves nothing, as anybody can write it: `bodySha256` is what binds the key. */
export interface ArkPin {
	/** The product's KEY_ID, 16 bytes in file order. */
	readonly keyId?: Uint8Array;
	/** SHA-256 of the certificate's signed bytes; stands for the root hash in the fuses of real parts. */
	readonly bodySha256?: Uint8Array;
}

/** How long an ASK is in each blob ASK ‖ ARK that SEND_START takes: keys of 2048 and 4096 bits, in any combination. */
const ASK_LENGTHS: ReadonlyMap<number, number> = new Map([
	[1664, 832],
	[2176, 1344],
	[2688, 1088],
	[3200, 1600],
]);

/** The signed bytes of a certificate with a 2048-bit key: what AMD once gave out as the whole Naples ARK. */
const UNSIGNED_ARK_SIZE = 576;
const NAPLES_ASK_SIZE = 832;

/**
 * Takes the ASK ‖ ARK of SEND_START apart; `undefined` if the length is none of the four possible ones. The parts are
 * views of `blob`.
 */
export function splitAmdCertificates(blob: Uint8Array): { ask: Uint8Array; ark: Uint8Array } | undefined {
	const at = ASK_LENGTHS.get(blob.length);
	return at === undefined ? undefined : { ask: blob.subarray(0, at), ark: blob.subarray(at) };
}

/**
 * As {@link splitAmdCertificates}, for files: an `ask_ark_naples.cert` whose ARK lacks its signature (1408 bytes) is
 * taken too (AMDESE/AMDSEV issue 17).
 */
export function splitAskArk(blob: Uint8Array): { ask: Uint8Array; ark: Uint8Array } | undefined {
	if (blob.length !== NAPLES_ASK_SIZE + UNSIGNED_ARK_SIZE) return splitAmdCertificates(blob);
	return { ask: blob.subarray(0, NAPLES_ASK_SIZE), ark: blob.subarray(NAPLES_ASK_SIZE) };
}

/**
 * Reads an ARK or ASK certificate without judging it; `undefined` if its sizes are not those of a 2048- or 4096-bit key
 * under a 2048- or 4096-bit signer. Exponent and modulus have the same size: no accepted length leaves another choice.
 * A 2048-bit certificate of 576 bytes is read as one without a signature.
 */
export function readAmdCertificate(cert: Uint8Array): AmdCertificate | undefined {
	if (cert.length < amdCertificateHeader.size) return undefined;
	const { exponentBits, modulusBits, ...header } = amdCertificateHeader.decodePrefix(cert);
	if ((modulusBits !== 2048 && modulusBits !== 4096) || exponentBits !== modulusBits) return undefined;
	const size = modulusBits / 8;
	const bodyEnd = amdCertificateHeader.size + 2 * size;
	const signature = reversed(cert.subarray(bodyEnd));
	const isUnsigned = cert.length === UNSIGNED_ARK_SIZE && size === 256;
	if (!isUnsigned && signature.length !== 256 && signature.length !== 512) return undefined;
	const exponent = reversed(cert.subarray(amdCertificateHeader.size, bodyEnd - size));
	const modulus = reversed(cert.subarray(bodyEnd - size, bodyEnd));
	return {
		...header,
		key: { modulus, exponent: withoutLeadingZeros(exponent) },
		body: cert.subarray(0, bodyEnd),
		signature,
	};
}

/**
 * Whether an ARK certificate is a self-signed root and, as far as `pin` says, the expected one. One without a signature
 * passes only where `pin.bodySha256` names it: the fingerprint covers every byte that the signature would.
 *
 * Statuses: `BAD_SIGNATURE`; `INVALID_CERTIFICATE` for everything else that is wrong. Checked in the firmware's order.
 */
export function verifyArk(provider: CryptoProvider, ark: Uint8Array, pin: ArkPin = {}): Status {
	const cert = readAmdCertificate(ark);
	if (cert === undefined) return Status.INVALID_CERTIFICATE;
	const isBodyOnly = cert.signature.length === 0 && pin.bodySha256 !== undefined && isUsableRsaKey(cert.key);
	const status = isBodyOnly ? Status.SUCCESS : verifySignature(provider, cert, cert.key);
	if (status !== Status.SUCCESS) return status;
	const isRoot = cert.version === 1 && cert.usage === CertUsage.ARK && equal(cert.certifyingId, cert.keyId);
	const isPinned =
		(pin.keyId === undefined || equal(cert.keyId, pin.keyId)) &&
		(pin.bodySha256 === undefined || equal(provider.digest('sha256', cert.body), pin.bodySha256));
	return isRoot && isPinned ? Status.SUCCESS : Status.INVALID_CERTIFICATE;
}

/**
 * Whether `ark` signed `ask` as its signing key. The ARK itself is not verified: {@link verifyArk}.
 *
 * Statuses: `BAD_SIGNATURE`; `INVALID_CERTIFICATE` for everything else that is wrong. Checked in the firmware's order.
 */
export function verifyAsk(provider: CryptoProvider, ask: Uint8Array, ark: Uint8Array): Status {
	const cert = readAmdCertificate(ask);
	const signer = readAmdCertificate(ark);
	if (cert === undefined || signer === undefined) return Status.INVALID_CERTIFICATE;
	const status = verifySignature(provider, cert, signer.key);
	if (status !== Status.SUCCESS) return status;
	const isSigning = cert.version === 1 && cert.usage === CertUsage.ASK && equal(cert.certifyingId, signer.keyId);
	return isSigning ? Status.SUCCESS : Status.INVALID_CERTIFICATE;
}

/** The key of an ASK certificate as the signer of a CEK; `undefined` if the certificate is malformed or no ASK. */
export function asKey(ask: Uint8Array): RsaCertKey | undefined {
	const cert = readAmdCertificate(ask);
	if (cert?.usage !== CertUsage.ASK) return undefined;
	const algo = hashOf(cert.key) === 'sha256' ? CertAlgo.RSA_SHA256 : CertAlgo.RSA_SHA384;
	return { usage: CertUsage.ASK, algo, key: cert.key };
}

function verifySignature(provider: CryptoProvider, { body, signature }: AmdCertificate, key: RsaPublicKey): Status {
	if (signature.length !== key.modulus.length || !isUsableRsaKey(key)) return Status.INVALID_CERTIFICATE;
	return provider.rsaPss.verify(key, body, signature, hashOf(key)) ? Status.SUCCESS : Status.BAD_SIGNATURE;
}

/** The hash of a signature follows the size of the key that made it. */
function hashOf(signer: RsaPublicKey): HashName {
	return signer.modulus.length === 256 ? 'sha256' : 'sha384';
}

function withoutLeadingZeros(integer: Uint8Array): Uint8Array {
	const first = integer.findIndex((byte) => byte !== 0);
	return first < 0 ? new Uint8Array(0) : integer.subarray(first);
}

/** Public values: no need for constant time. */
function equal(a: Uint8Array, b: Uint8Array): boolean {
	return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
