import { pow } from '@noble/curves/abstract/modular.js';
import { bitLen, bytesToNumberBE, numberToBytesBE } from '@noble/curves/utils.js';
import { CryptoError } from './error.js';
import type { CryptoProvider, HashName, RsaPss, RsaPublicKey } from './provider.js';
import { constantTimeEqual, wipe } from './secrets.js';

type Digest = CryptoProvider['digest'];

/** Moduli in bits. SEV has 2048 and 4096; the upper limit bounds the work that a hostile certificate can ask for. */
const MODULUS_BITS = { min: 1024, max: 4096 } as const;

/** The longest public exponent in bits: OpenSSL's limit for large moduli (OPENSSL_RSA_MAX_PUBEXP_BITS), here for all. */
const EXPONENT_BITS = 64;

const HASH_BYTES = { sha256: 32, sha384: 48 } as const satisfies Record<HashName, number>;

const TRAILER = 0xbc;
const ZEROS = new Uint8Array(8);

/** A public key as numbers. */
export interface RsaNumbers {
	readonly modulus: bigint;
	readonly exponent: bigint;
	readonly modulusBits: number;
	/** Length of a signature in bytes: k of RFC 8017. */
	readonly modulusBytes: number;
}

function withoutLeadingZeros(data: Uint8Array): Uint8Array {
	const first = data.findIndex((byte) => byte !== 0);
	return first < 0 ? data.subarray(data.length) : data.subarray(first);
}

/**
 * The numbers of a key that a provider accepts; leading zero bytes do not count. `undefined` if the modulus is even or not
 * of 1024 to 4096 bits, or the exponent is even, below 3 or above 64 bits.
 */
export function rsaNumbers(key: RsaPublicKey): RsaNumbers | undefined {
	const modulusData = withoutLeadingZeros(key.modulus);
	const exponentData = withoutLeadingZeros(key.exponent);
	// Lengths first: a number is made only of what is short enough to compute with.
	if (modulusData.length * 8 > MODULUS_BITS.max || exponentData.length * 8 > EXPONENT_BITS) return undefined;
	if (modulusData.length === 0 || exponentData.length === 0) return undefined;
	const modulus = bytesToNumberBE(modulusData);
	const exponent = bytesToNumberBE(exponentData);
	const modulusBits = bitLen(modulus);
	if (modulusBits < MODULUS_BITS.min || (modulus & 1n) === 0n || exponent < 3n || (exponent & 1n) === 0n)
		return undefined;
	return { modulus, exponent, modulusBits, modulusBytes: modulusData.length };
}

/** `target` ^= MGF1(seed) (RFC 8017 Appendix B.2.1). */
function maskWithMgf1(digest: Digest, hash: HashName, seed: Uint8Array, target: Uint8Array): void {
	const counter = new Uint8Array(4);
	const view = new DataView(counter.buffer);
	for (let at = 0, i = 0; at < target.length; at += HASH_BYTES[hash], i++) {
		view.setUint32(0, i, false);
		const mask = digest(hash, seed, counter);
		for (let j = 0; j < mask.length && at + j < target.length; j++)
			target[at + j] = (target[at + j] ?? 0) ^ (mask[j] ?? 0);
	}
}

/** EMSA-PSS-ENCODE (RFC 8017 §9.1.1). The encoded message has `bits` bits. */
function encode(digest: Digest, hash: HashName, message: Uint8Array, salt: Uint8Array, bits: number): Uint8Array {
	const hashBytes = HASH_BYTES[hash];
	const encoded = new Uint8Array(Math.ceil(bits / 8));
	const db = encoded.subarray(0, encoded.length - hashBytes - 1);
	const h = digest(hash, ZEROS, digest(hash, message), salt);
	db[db.length - salt.length - 1] = 1;
	db.set(salt, db.length - salt.length);
	maskWithMgf1(digest, hash, h, db);
	encoded[0] = (encoded[0] ?? 0) & (0xff >>> (8 * encoded.length - bits));
	encoded.set(h, db.length);
	encoded[encoded.length - 1] = TRAILER;
	return encoded;
}

/** EMSA-PSS-VERIFY (RFC 8017 §9.1.2), with the salt length taken from the encoded message. */
function isEncodingOf(digest: Digest, hash: HashName, message: Uint8Array, encoded: Uint8Array, bits: number): boolean {
	const hashBytes = HASH_BYTES[hash];
	const unused = 0xff & ~(0xff >>> (8 * encoded.length - bits));
	if (encoded[encoded.length - 1] !== TRAILER || ((encoded[0] ?? 0) & unused) !== 0) return false;
	const db = encoded.slice(0, encoded.length - hashBytes - 1);
	const h = encoded.subarray(db.length, db.length + hashBytes);
	maskWithMgf1(digest, hash, h, db);
	db[0] = (db[0] ?? 0) & ~unused;
	const one = db.findIndex((byte) => byte !== 0);
	if (one < 0 || db[one] !== 1) return false;
	return constantTimeEqual(h, digest(hash, ZEROS, digest(hash, message), db.subarray(one + 1)));
}

/** RSASSA-PSS-SIGN (RFC 8017 §8.1.1) in BigInt, with the caller's salt. Not constant-time. */
export const rsaPssSigner =
	(digest: Digest): RsaPss['sign'] =>
	(key, message, hash, salt) => {
		const numbers = rsaNumbers(key);
		if (numbers === undefined) {
			throw new CryptoError('key', 'RSA key', 'an odd modulus of 1024 to 4096 bits and an odd exponent', 'another');
		}
		if (salt.length !== HASH_BYTES[hash]) {
			throw new CryptoError('length', 'PSS salt', `${HASH_BYTES[hash]} bytes, as the hash`, `${salt.length}`);
		}
		if (key.privateExponent.length > key.modulus.length) {
			throw new CryptoError(
				'key',
				'RSA private exponent',
				'at most the modulus length',
				`${key.privateExponent.length} bytes`,
			);
		}
		const { modulus, exponent, modulusBits, modulusBytes } = numbers;
		const encoded = encode(digest, hash, message, salt, modulusBits - 1);
		const represented = bytesToNumberBE(encoded);
		wipe(encoded);
		const signature = pow(represented, bytesToNumberBE(key.privateExponent), modulus);
		// A wrong private exponent would give out an unusable signature, and one that may tell about the key.
		if (pow(signature, exponent, modulus) !== represented) {
			throw new CryptoError('key', 'RSA private exponent', 'the inverse of the public one', 'another');
		}
		return numberToBytesBE(signature, modulusBytes);
	};

/** RSASSA-PSS-VERIFY (RFC 8017 §8.1.2) in BigInt. */
export const rsaPssVerifier =
	(digest: Digest): RsaPss['verify'] =>
	(key, message, signature, hash) => {
		const numbers = rsaNumbers(key);
		if (numbers === undefined || signature.length !== numbers.modulusBytes) return false;
		const { modulus, exponent, modulusBits } = numbers;
		const s = bytesToNumberBE(signature);
		if (s >= modulus) return false;
		const represented = pow(s, exponent, modulus);
		const encodedBytes = Math.ceil((modulusBits - 1) / 8);
		// With 8m + 1 modulus bits the encoded message is a byte shorter than the modulus, and the number may not fit it.
		if (bitLen(represented) > 8 * encodedBytes) return false;
		return isEncodingOf(digest, hash, message, numberToBytesBE(represented, encodedBytes), modulusBits - 1);
	};
