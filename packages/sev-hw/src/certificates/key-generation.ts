import type { CryptoProvider, RandomSource } from '@cvm/crypto';

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
