/** AES-128 or AES-256 on whole blocks, each block by itself. The building block of XEX and CTR, not a mode for data. */
export interface BlockCipher {
	/** Encrypts every 16-byte block of `src` into `out`, which has the same length and may be `src` itself. */
	encrypt(src: Uint8Array, out: Uint8Array): void;
	/** Decrypts every 16-byte block of `src` into `out`, which has the same length and may be `src` itself. */
	decrypt(src: Uint8Array, out: Uint8Array): void;
	/** Forgets the key. Later calls throw. Best effort: JavaScript gives no guarantee about copies. */
	wipe(): void;
}

/** A hash being fed. */
export interface Hash {
	update(data: Uint8Array): void;
	/** The digest of all that was fed so far. The hash can be fed no more. */
	digest(): Uint8Array;
}

/** The hashes that SEV names. */
export type HashName = 'sha256' | 'sha384';

/** A P-384 public key: affine coordinates, 48 bytes each, big-endian. */
export interface P384PublicKey {
	readonly x: Uint8Array;
	readonly y: Uint8Array;
}

/** An ECDSA signature: 48 bytes each, big-endian. */
export interface EcdsaSignature {
	readonly r: Uint8Array;
	readonly s: Uint8Array;
}

/** An RSA public key: big-endian integers. */
export interface RsaPublicKey {
	readonly modulus: Uint8Array;
	readonly exponent: Uint8Array;
}

/** An RSA private key: big-endian integers. */
export interface RsaPrivateKey extends RsaPublicKey {
	readonly privateExponent: Uint8Array;
}

/** A source of bytes that is either the system's or reproducible from a seed. */
export interface RandomSource {
	/** Fills `out`. */
	fill(out: Uint8Array): void;
	/** `length` fresh bytes. */
	bytes(length: number): Uint8Array;
}

/**
 * The cryptography that the layers above need, and nothing more. `@cvm/crypto` gives one in pure JavaScript (noble) and
 * `@cvm/crypto/node` one over `node:crypto`; both pass the contract suite in `@cvm/crypto/testing`.
 */
export interface CryptoProvider {
	/** For messages and benchmarks: `noble`, `node`. */
	readonly name: string;
	/** Expands a 16- or 32-byte key once, for many calls. @throws RangeError on another key length */
	blockCipher(key: Uint8Array): BlockCipher;
	hash(name: HashName): Hash;
	/** Digest of the concatenation of `parts`. */
	digest(name: HashName, ...parts: readonly Uint8Array[]): Uint8Array;
	/** HMAC-SHA-256 of the concatenation of `parts`: 32 bytes. */
	hmacSha256(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array;
	/** AES-256-GCM or AES-128-GCM seal: returns ciphertext ‖ 16-byte tag. */
	gcmSeal(key: Uint8Array, iv: Uint8Array, aad: Uint8Array, plaintext: Uint8Array): Uint8Array;
	/** Opens what `gcmSeal` made; `undefined` if the tag does not match. */
	gcmOpen(key: Uint8Array, iv: Uint8Array, aad: Uint8Array, sealed: Uint8Array): Uint8Array | undefined;
	/**
	 * As `gcmSeal`, but the ciphertext goes to `out`, which is as long as `plaintext` and either the same bytes or disjoint from them,
	 * and the 16-byte tag to `tag`. `out` is written only. @throws CryptoError for lengths, and for a shifted overlap
	 */
	gcmSealInto(
		key: Uint8Array,
		iv: Uint8Array,
		aad: Uint8Array,
		plaintext: Uint8Array,
		out: Uint8Array,
		tag: Uint8Array,
	): void;
	/**
	 * Opens what `gcmSealInto` made into `out`, under the same conditions. False if the tag does not match: then `out` is zeros.
	 * Until the call returns `out` holds unproven plaintext, so it must not be memory that others see.
	 * @throws CryptoError for lengths, and for a shifted overlap
	 */
	gcmOpenInto(
		key: Uint8Array,
		iv: Uint8Array,
		aad: Uint8Array,
		ciphertext: Uint8Array,
		tag: Uint8Array,
		out: Uint8Array,
	): boolean;
	readonly p384: P384;
	readonly rsaPss: RsaPss;
}

/** Elliptic-curve operations on NIST P-384. Private keys are 48-byte big-endian scalars. */
export interface P384 {
	/** Whether the scalar lies in [1, n − 1]. */
	isValidPrivateKey(privateKey: Uint8Array): boolean;
	/** Whether the point is on the curve and not at infinity. */
	isValidPublicKey(publicKey: P384PublicKey): boolean;
	publicKey(privateKey: Uint8Array): P384PublicKey;
	/** x-coordinate of the shared point, 48 bytes big-endian. @throws Error if a key is not valid */
	ecdh(privateKey: Uint8Array, peer: P384PublicKey): Uint8Array;
	/** Deterministic (RFC 6979) where the provider can; otherwise randomised. Over the hash of `message`. */
	sign(privateKey: Uint8Array, message: Uint8Array, hash: HashName): EcdsaSignature;
	/** False for a bad signature, for r or s outside [1, n − 1], and for an invalid key. */
	verify(publicKey: P384PublicKey, message: Uint8Array, signature: EcdsaSignature, hash: HashName): boolean;
}

/** RSASSA-PSS with MGF1 over the same hash, trailer 0xBC (RFC 8017 §8.1). */
export interface RsaPss {
	/** Salt length equals the hash length; the salt is `salt`, so that tests reproduce. Result as long as the modulus. */
	sign(key: RsaPrivateKey, message: Uint8Array, hash: HashName, salt: Uint8Array): Uint8Array;
	/** Accepts any salt length. */
	verify(key: RsaPublicKey, message: Uint8Array, signature: Uint8Array, hash: HashName): boolean;
}
