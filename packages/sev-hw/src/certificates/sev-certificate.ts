import type { CryptoProvider, HashName, P384PublicKey, RsaPublicKey } from '@cvm/crypto';
import { bytes, ignored, layout, u8, u32 } from '@cvm/layout';
import { Status } from '../abi/status.js';
import { fromLittleEndian, reversed, toLittleEndian } from './byte-order.js';

/** Bytes in a SEV certificate of version 1 (SEV API 0.24 App. C). */
export const SEV_CERT_SIZE = 2084;
/** A signature covers the bytes before the first signature slot, and nothing else. */
export const SEV_CERT_BODY_SIZE = 0x414;

/** Whose key a certificate holds (SEV API 0.24 App. C). */
export const CertUsage = {
	ARK: 0x0000,
	ASK: 0x0013,
	/** An empty signature slot, or no key. */
	INVALID: 0x1000,
	OCA: 0x1001,
	PEK: 0x1002,
	PDH: 0x1003,
	CEK: 0x1004,
} as const;
export type CertUsage = (typeof CertUsage)[keyof typeof CertUsage];

/** What a key is for; the hash belongs to the signing key (SEV API 0.24 App. C). */
export const CertAlgo = {
	INVALID: 0x000,
	RSA_SHA256: 0x001,
	ECDSA_SHA256: 0x002,
	ECDH_SHA256: 0x003,
	RSA_SHA384: 0x101,
	ECDSA_SHA384: 0x102,
	ECDH_SHA384: 0x103,
} as const;
export type CertAlgo = (typeof CertAlgo)[keyof typeof CertAlgo];

/** The only curve of certificate keys. */
const CURVE_P384 = 2;
const COORDINATE = 48;
const VERSION = 1;

/** SEV certificate, version 1: SEV API 0.24 App. C. */
export const sevCertificate = layout('sev_cert', SEV_CERT_SIZE, {
	version: u32(0x000),
	apiMajor: u8(0x004),
	apiMinor: u8(0x005),
	reserved: ignored(0x006, 2),
	usage: u32(0x008),
	algo: u32(0x00c),
	publicKey: bytes(0x010, 1028),
	sig1Usage: u32(0x414),
	sig1Algo: u32(0x418),
	sig1: bytes(0x41c, 512),
	sig2Usage: u32(0x61c),
	sig2Algo: u32(0x620),
	sig2: bytes(0x624, 512),
});

/** The public-key area of an elliptic-curve certificate; coordinates are little-endian. */
export const sevEcPublicKey = layout('sev_ec_pubkey', 1028, {
	curve: u32(0x00),
	qx: bytes(0x04, 72),
	qy: bytes(0x4c, 72),
	zero: ignored(0x94, 880),
});

/** The signature area of an ECDSA signature; both integers are little-endian. */
const sevEcdsaSignature = layout('sev_ecdsa_sig', 512, {
	r: bytes(0x00, 72),
	s: bytes(0x48, 72),
	zero: ignored(0x90, 368),
});

/** The public key of an OCA, CEK, PEK or PDH with the role that it signs in. */
export interface CertKey {
	readonly usage: number;
	readonly algo: number;
	readonly key: P384PublicKey;
}

/** The public key of an ASK with the role that it signs in. */
export interface RsaCertKey {
	readonly usage: number;
	readonly algo: number;
	readonly key: RsaPublicKey;
}

/** A signature slot as stored: the form of `signature` (512 bytes) follows from `algo`. */
export interface SignatureSlot {
	readonly usage: number;
	readonly algo: number;
	readonly signature: Uint8Array;
}

/** What a SEV certificate says, unchecked. */
export interface SevCertificate {
	readonly version: number;
	readonly apiMajor: number;
	readonly apiMinor: number;
	readonly usage: number;
	readonly algo: number;
	/** `undefined` if the key is not for P-384 or a coordinate is longer than 48 bytes. It may still lie off the curve. */
	readonly publicKey: P384PublicKey | undefined;
	readonly slots: readonly [SignatureSlot, SignatureSlot];
}

/** A certificate with both signature slots empty. `version` is the API version of the firmware that makes it. */
export function buildSevCertificate(o: {
	readonly version: { readonly major: number; readonly minor: number };
	readonly usage: number;
	readonly algo: number;
	readonly key: P384PublicKey;
}): Uint8Array {
	return sevCertificate.encode({
		version: VERSION,
		apiMajor: o.version.major,
		apiMinor: o.version.minor,
		usage: o.usage,
		algo: o.algo,
		publicKey: sevEcPublicKey.encode({
			curve: CURVE_P384,
			qx: toLittleEndian(o.key.x, 72),
			qy: toLittleEndian(o.key.y, 72),
		}),
		sig1Usage: CertUsage.INVALID,
		sig2Usage: CertUsage.INVALID,
	});
}

/** Reads a certificate without judging it. @throws LayoutError if `cert` is not 2084 bytes long */
export function readSevCertificate(cert: Uint8Array): SevCertificate {
	const c = sevCertificate.decode(cert);
	return {
		version: c.version,
		apiMajor: c.apiMajor,
		apiMinor: c.apiMinor,
		usage: c.usage,
		algo: c.algo,
		publicKey: isEllipticCurve(c.algo) ? readPublicKey(c.publicKey) : undefined,
		slots: [
			{ usage: c.sig1Usage, algo: c.sig1Algo, signature: c.sig1 },
			{ usage: c.sig2Usage, algo: c.sig2Algo, signature: c.sig2 },
		],
	};
}

function readPublicKey(area: Uint8Array): P384PublicKey | undefined {
	const { curve, qx, qy } = sevEcPublicKey.decode(area);
	const x = fromLittleEndian(qx, COORDINATE);
	const y = fromLittleEndian(qy, COORDINATE);
	return curve === CURVE_P384 && x !== undefined && y !== undefined ? { x, y } : undefined;
}

/** The key that a certificate certifies, as a signer of others; `undefined` if the certificate or the key is malformed. */
export function certKeyOf(cert: Uint8Array): CertKey | undefined {
	if (cert.length !== SEV_CERT_SIZE) return undefined;
	const { usage, algo, publicKey } = readSevCertificate(cert);
	return publicKey && { usage, algo, key: publicKey };
}

/**
 * Puts a signature into the first empty slot of a certificate.
 *
 * @returns false, with nothing written, if both slots are taken
 */
export function addSignature(cert: Uint8Array, slot: SignatureSlot): boolean {
	const { slots } = readSevCertificate(cert);
	const { usage, algo, signature } = slot;
	const empty = slots.findIndex((s) => s.usage === CertUsage.INVALID && s.algo === CertAlgo.INVALID);
	if (empty === 0) sevCertificate.patch(cert, { sig1Usage: usage, sig1Algo: algo, sig1: signature });
	if (empty === 1) sevCertificate.patch(cert, { sig2Usage: usage, sig2Algo: algo, sig2: signature });
	return empty >= 0;
}

/**
 * Signs a certificate's body with an elliptic-curve key, into the first empty slot.
 *
 * @throws RangeError if `signer.algo` is not an ECDSA one or no slot is empty
 */
export function signSevCertificate(
	provider: CryptoProvider,
	cert: Uint8Array,
	signer: { readonly usage: number; readonly algo: number; readonly privateKey: Uint8Array },
): void {
	const { usage, algo, privateKey } = signer;
	if (algo !== CertAlgo.ECDSA_SHA256 && algo !== CertAlgo.ECDSA_SHA384) {
		throw new RangeError(`certificate signer: expected an ECDSA algorithm, got 0x${algo.toString(16)}`);
	}
	const { r, s } = provider.p384.sign(privateKey, cert.subarray(0, SEV_CERT_BODY_SIZE), hashOf(algo));
	const signature = sevEcdsaSignature.encode({ r: toLittleEndian(r, 72), s: toLittleEndian(s, 72) });
	if (!addSignature(cert, { usage, algo, signature })) {
		throw new RangeError('certificate: expected an empty signature slot, got two taken ones');
	}
}

/**
 * Whether `signer` signed `cert` and may sign for its role, checked in the firmware's order: signer key, signatures,
 * body, role. `signer` is `undefined` when its own certificate was malformed. Never throws on malformed bytes.
 *
 * A certificate of this format with an RSA key of its own is taken as malformed: no platform makes one.
 *
 * Statuses: `INVALID_CERTIFICATE` malformed key or certificate, no slot of this signer, or a role that it may not sign;
 * `BAD_SIGNATURE`; `UNSUPPORTED` for a slot that claims to be signed by a Diffie-Hellman key.
 */
export function verifySevCertificate(
	provider: CryptoProvider,
	cert: Uint8Array,
	signer: CertKey | RsaCertKey | undefined,
): Status {
	if (cert.length !== SEV_CERT_SIZE || !isWellFormedKey(provider, signer)) return Status.INVALID_CERTIFICATE;
	const subject = readSevCertificate(cert);
	const body = cert.subarray(0, SEV_CERT_BODY_SIZE);
	let verdict: Status = Status.INVALID_CERTIFICATE;
	for (const slot of subject.slots) {
		if ((slot.usage === CertUsage.INVALID) !== (slot.algo === CertAlgo.INVALID)) return Status.BAD_SIGNATURE;
		// Both slots may name this signer; firmware lets the later verdict stand, so an earlier good one does not count.
		if (slot.usage === signer.usage && slot.algo === signer.algo) {
			verdict = verifySlot(provider, body, slot.signature, signer);
		}
	}
	if (verdict !== Status.SUCCESS) return verdict;
	if (!isWellFormedBody(provider, subject)) return Status.INVALID_CERTIFICATE;
	return maySign(signer.usage, subject.usage) ? Status.SUCCESS : Status.INVALID_CERTIFICATE;
}

/**
 * The "sanity check" of certificates that only carry a Diffie-Hellman key (LAUNCH_START, SEND_START, RECEIVE_START):
 * well-formed, usage PDH, ECDH with SHA-256. No signature is looked at. `SUCCESS` or `INVALID_CERTIFICATE`.
 */
export function checkDhCertificate(provider: CryptoProvider, cert: Uint8Array): Status {
	if (cert.length !== SEV_CERT_SIZE) return Status.INVALID_CERTIFICATE;
	const subject = readSevCertificate(cert);
	const fits = subject.usage === CertUsage.PDH && subject.algo === CertAlgo.ECDH_SHA256;
	return fits && isWellFormedBody(provider, subject) ? Status.SUCCESS : Status.INVALID_CERTIFICATE;
}

function verifySlot(provider: CryptoProvider, body: Uint8Array, signature: Uint8Array, signer: CertKey | RsaCertKey) {
	const { algo, key } = signer;
	if (algo === CertAlgo.ECDH_SHA256 || algo === CertAlgo.ECDH_SHA384) return Status.UNSUPPORTED;
	const good =
		'modulus' in key
			? provider.rsaPss.verify(key, body, reversed(signature.subarray(0, key.modulus.length)), hashOf(algo))
			: verifyEcdsa(provider, body, signature, key, hashOf(algo));
	return good ? Status.SUCCESS : Status.BAD_SIGNATURE;
}

function verifyEcdsa(
	provider: CryptoProvider,
	body: Uint8Array,
	signature: Uint8Array,
	key: P384PublicKey,
	hash: HashName,
): boolean {
	const stored = sevEcdsaSignature.decode(signature);
	const r = fromLittleEndian(stored.r, COORDINATE);
	const s = fromLittleEndian(stored.s, COORDINATE);
	return r !== undefined && s !== undefined && provider.p384.verify(key, body, { r, s }, hash);
}

function isWellFormedBody(provider: CryptoProvider, { version, usage, algo, publicKey }: SevCertificate): boolean {
	const key = publicKey && { usage, algo, key: publicKey };
	return version === VERSION && isWellFormedKey(provider, key);
}

function isWellFormedKey<K extends CertKey | RsaCertKey>(provider: CryptoProvider, key: K | undefined): key is K {
	if (key === undefined || !isKeyUsage(key.usage)) return false;
	if ('modulus' in key.key) {
		const isRsa = key.algo === CertAlgo.RSA_SHA256 || key.algo === CertAlgo.RSA_SHA384;
		return isRsa && isUsableRsaKey(key.key);
	}
	return isEllipticCurve(key.algo) && provider.p384.isValidPublicKey(key.key);
}

/**
 * Whether an RSA key can be handed to a crypto library: a modulus of exactly 2048 or 4096 bits, and an odd exponent of
 * at most 64 bits. OpenSSL refuses longer exponents beside a long modulus; AMD's are all 65537.
 */
export function isUsableRsaKey({ modulus, exponent }: RsaPublicKey): boolean {
	const [top, bottom] = [modulus[0], modulus.at(-1)];
	if (top === undefined || bottom === undefined || (modulus.length !== 256 && modulus.length !== 512)) return false;
	const first = exponent.findIndex((byte) => byte !== 0);
	const last = exponent.at(-1);
	if (first < 0 || last === undefined || exponent.length - first > 8) return false;
	const isOne = first === exponent.length - 1 && last === 1;
	return top >= 0x80 && bottom % 2 === 1 && last % 2 === 1 && !isOne;
}

function isKeyUsage(usage: number): boolean {
	return usage !== CertUsage.INVALID && Object.values<number>(CertUsage).includes(usage);
}

function isEllipticCurve(algo: number): boolean {
	const curves: readonly number[] = [
		CertAlgo.ECDSA_SHA256,
		CertAlgo.ECDH_SHA256,
		CertAlgo.ECDSA_SHA384,
		CertAlgo.ECDH_SHA384,
	];
	return curves.includes(algo);
}

function hashOf(algo: number): HashName {
	return algo >= CertAlgo.RSA_SHA384 ? 'sha384' : 'sha256';
}

function maySign(signer: number, subject: number): boolean {
	switch (subject) {
		case CertUsage.PDH:
			return signer === CertUsage.PEK;
		case CertUsage.PEK:
			return signer === CertUsage.OCA || signer === CertUsage.CEK;
		case CertUsage.OCA:
			return signer === CertUsage.OCA;
		case CertUsage.CEK:
			return signer === CertUsage.ASK;
		default:
			return false;
	}
}
