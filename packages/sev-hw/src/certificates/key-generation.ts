import { type CryptoProvider, constantTimeEqual, type P384PublicKey, type RandomSource } from '@cvm/crypto';

/**
 * A fresh P-384 private key, 48 bytes big-endian. As firmware does it: 48 random bytes are a little-endian candidate,
 * drawn again until it lies in [1, n − 1].
 */
export function generateP384PrivateKey(provider: CryptoProvider, random: RandomSource): Uint8Array {
	for (;;) {
		const candidate = random.bytes(48).reverse();
		if (provider.p384.isValidPrivateKey(candidate)) return candidate;
	}
}

/** Whether bytes are a P-384 private key: 48 of them, big-endian, in [1, n − 1]. */
export const isPrivateKey = (provider: CryptoProvider, privateKey: Uint8Array): boolean =>
	privateKey.length === 48 && provider.p384.isValidPrivateKey(privateKey);

/** Whether bytes are the private key of a public one. */
export function isPrivateKeyOf(provider: CryptoProvider, privateKey: Uint8Array, { x, y }: P384PublicKey): boolean {
	if (!isPrivateKey(provider, privateKey)) return false;
	const own = provider.p384.publicKey(privateKey);
	// A key and its negative share x.
	return constantTimeEqual(own.x, x) && constantTimeEqual(own.y, y);
}
