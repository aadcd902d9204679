import type { HashName, RsaPrivateKey } from '@cvm/crypto';
import { fromHex, toHex } from '@cvm/layout';
import { amdCertificateHeader } from '../../src/certificates/amd-certificate.js';
import { toLittleEndian } from '../../src/certificates/byte-order.js';
import {
	addSignature,
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	SEV_CERT_BODY_SIZE,
	signSevCertificate,
} from '../../src/certificates/sev-certificate.js';
import { join } from '../fake-platform.js';
import { privateKey, provider } from './builders.js';

const VERSION = { major: 0, minor: 24 };

/** An unsigned certificate of a private key. */
export const ecCertificate = (o: { usage: number; algo: number; privateKey: Uint8Array }): Uint8Array =>
	buildSevCertificate({ ...o, version: VERSION, key: provider.p384.publicKey(o.privateKey) });

/** Who signs: an elliptic-curve key in a role. */
export interface Signer {
	readonly usage: number;
	readonly algo: number;
	readonly privateKey: Uint8Array;
}

/** A copy of a certificate with bytes replaced, then signed by each signer in turn. */
export function signed(
	certificate: Uint8Array,
	signers: readonly Signer[],
	patches: readonly (readonly [at: number, bytes: Uint8Array])[] = [],
): Uint8Array {
	const out = certificate.slice();
	for (const [at, bytes] of patches) out.set(bytes, at);
	for (const signer of signers) signSevCertificate(provider, out, signer);
	return out;
}

const signer = (usage: number, name: string, algo: number = CertAlgo.ECDSA_SHA256): Signer => ({
	...{ usage, algo, privateKey: privateKey(name) },
});

/** The keys of one platform and its owner. */
export const signers = {
	oca: signer(CertUsage.OCA, 'oca'),
	oca384: signer(CertUsage.OCA, 'oca384', CertAlgo.ECDSA_SHA384),
	cek: signer(CertUsage.CEK, 'cek'),
	pek: signer(CertUsage.PEK, 'pek'),
	pdh: signer(CertUsage.PDH, 'pdh', CertAlgo.ECDH_SHA256),
};

/** An unsigned Diffie-Hellman certificate of the key with a name. */
export const dhCertificate = (name: string): Uint8Array =>
	ecCertificate(signer(CertUsage.PDH, name, CertAlgo.ECDH_SHA256));

const hashOf = (key: RsaPrivateKey): HashName => (key.modulus.length === 256 ? 'sha256' : 'sha384');
/** As long as the hash, and the hash of what is signed: the same bytes always get the same signature. */
const usualSalt = (key: RsaPrivateKey, body: Uint8Array): Uint8Array => provider.digest(hashOf(key), body);

/** How a signature is made, where it is not made as usual. */
interface PssChoice {
	readonly hash?: HashName;
	readonly salt?: Uint8Array;
	/** The role in which the key signs. */
	readonly usage?: number;
}

/** RSASSA-PSS-SIGN (RFC 8017 §8.1.1) with any salt: the provider makes only such as AMD makes. */
function pss(key: RsaPrivateKey, body: Uint8Array, choice: PssChoice = {}): Uint8Array {
	const { hash = hashOf(key), salt = usualSalt(key, body) } = choice;
	const hashed = provider.digest(hash, new Uint8Array(8), provider.digest(hash, body), salt);
	const block = new Uint8Array(key.modulus.length - hashed.length - 1);
	block[block.length - salt.length - 1] = 1;
	block.set(salt, block.length - salt.length);
	for (let at = 0, i = 0; at < block.length; at += hashed.length, i++) {
		const mask = provider.digest(hash, hashed, Uint8Array.of(0, 0, 0, i));
		for (const [j, byte] of mask.subarray(0, block.length - at).entries()) block[at + j] = (block[at + j] ?? 0) ^ byte;
	}
	block[0] = (block[0] ?? 0) & 0x7f;
	const encoded = number(join(block, hashed, Uint8Array.of(0xbc)));
	const signature = power(encoded, number(key.privateExponent), number(key.modulus));
	return fromHex(signature.toString(16).padStart(2 * key.modulus.length, '0'));
}

const number = (bigEndian: Uint8Array): bigint => BigInt(`0x${toHex(bigEndian)}`);

function power(base: bigint, exponent: bigint, modulus: bigint): bigint {
	let result = 1n;
	for (let square = base; exponent > 0n; exponent >>= 1n, square = (square * square) % modulus) {
		if ((exponent & 1n) === 1n) result = (result * square) % modulus;
	}
	return result;
}

/** A certificate signed in its first empty slot by an RSA key in the role of an ASK. */
export function signedByAsk(certificate: Uint8Array, key: RsaPrivateKey, choice: PssChoice = {}): Uint8Array {
	const out = certificate.slice();
	const algo = key.modulus.length === 256 ? CertAlgo.RSA_SHA256 : CertAlgo.RSA_SHA384;
	const signature = toLittleEndian(pss(key, out.subarray(0, SEV_CERT_BODY_SIZE), choice), 512);
	addSignature(out, { usage: choice.usage ?? CertUsage.ASK, algo, signature });
	return out;
}

/** An ARK or ASK certificate, signed by an RSA key. */
export function amdCertificate(o: {
	readonly keyId: Uint8Array;
	readonly certifyingId: Uint8Array;
	readonly usage: number;
	readonly version?: number;
	readonly key: RsaPrivateKey;
	readonly signer: RsaPrivateKey;
}): Uint8Array {
	const { version = 1, keyId, certifyingId, usage, key } = o;
	const size = key.modulus.length;
	const bits = 8 * size;
	const header = amdCertificateHeader.encode({
		version,
		keyId,
		certifyingId,
		usage,
		exponentBits: bits,
		modulusBits: bits,
	});
	const body = join(header, toLittleEndian(key.exponent, size), toLittleEndian(key.modulus, size));
	return join(body, toLittleEndian(pss(o.signer, body), o.signer.modulus.length));
}
