import { ecdsa } from '@noble/curves/abstract/weierstrass.js';
import { p384 } from '@noble/curves/nist.js';
import { sha256, sha384 } from '@noble/hashes/sha2.js';
import {
	compactSignature,
	fromUncompressed,
	isPoint,
	isScalar,
	P384_BYTES,
	requirePrivateKey,
	requirePublicKey,
	uncompressed,
} from '../p384-encoding.js';
import type { P384 } from '../provider.js';

// SEV signatures are not normalised to low s, so half of the real ones would fail noble's default.
const LOW_S = { lowS: false } as const;

// RFC 6979 derives the nonce with the hash of the message, so there is one instance per hash.
const schemes = { sha256: ecdsa(p384.Point, sha256, LOW_S), sha384: ecdsa(p384.Point, sha384, LOW_S) } as const;

/** P-384 by noble; signatures are deterministic (RFC 6979). */
export const nobleP384: P384 = {
	isValidPrivateKey: isScalar,
	isValidPublicKey: isPoint,
	publicKey(privateKey) {
		requirePrivateKey(privateKey);
		return fromUncompressed(p384.getPublicKey(privateKey, false));
	},
	ecdh(privateKey, peer) {
		requirePrivateKey(privateKey);
		requirePublicKey(peer);
		return fromUncompressed(p384.getSharedSecret(privateKey, uncompressed(peer), false)).x;
	},
	sign(privateKey, message, hash) {
		requirePrivateKey(privateKey);
		const signature = schemes[hash].sign(message, privateKey);
		return { r: signature.slice(0, P384_BYTES), s: signature.slice(P384_BYTES) };
	},
	verify(publicKey, message, signature, hash) {
		if (!isScalar(signature.r) || !isScalar(signature.s) || !isPoint(publicKey)) return false;
		return schemes[hash].verify(compactSignature(signature), message, uncompressed(publicKey));
	},
};
