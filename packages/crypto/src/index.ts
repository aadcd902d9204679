/**
 * Bulk AES, HMAC, key derivation, P-384 and RSA-PSS behind one provider port: what SEV's firmware and guest owners
 * compute with, and nothing more.
 *
 * ```ts
 * const z = nobleProvider.p384.ecdh(privateKey, peer);
 * const kek = kdf(nobleProvider, kdf(nobleProvider, z, 'sev-master-secret', nonce, 128), 'sev-kek', new Uint8Array(), 128);
 * ctr(nobleProvider.blockCipher(kek), iv, keys, wrapped);
 * ```
 *
 * @packageDocumentation
 */
export type { BulkMemory } from './bulk/memory.js';
export { bulkMemory, reserveBulk } from './bulk/shared.js';
export { ctr, ctrBatch } from './ctr.js';
export { CryptoError } from './error.js';
export { kdf } from './kdf.js';
export { nobleProvider } from './noble/provider.js';
export type {
	BlockCipher,
	CryptoProvider,
	EcdsaSignature,
	Hash,
	HashName,
	P384,
	P384PublicKey,
	RandomSource,
	RsaPrivateKey,
	RsaPss,
	RsaPublicKey,
} from './provider.js';
export { type SeededRandom, seededRandom, systemRandom } from './random.js';
export { constantTimeEqual, wipe } from './secrets.js';
