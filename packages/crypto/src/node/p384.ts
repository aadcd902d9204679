import { createECDH, createPublicKey, type ECDH, verify } from 'node:crypto';
import { nobleP384 } from '../noble/p384.js';
import {
	compactSignature,
	fromUncompressed,
	isPoint,
	isScalar,
	requirePrivateKey,
	requirePublicKey,
	uncompressed,
} from '../p384-encoding.js';
import type { P384 } from '../provider.js';

const base64url = (data: Uint8Array): string => Buffer.from(data).toString('base64url');

function agreement(privateKey: Uint8Array): ECDH {
	requirePrivateKey(privateKey);
	const ecdh = createECDH('secp384r1');
	ecdh.setPrivateKey(privateKey);
	return ecdh;
}

/**
 * P-384 by OpenSSL, except for signing: OpenSSL would draw a random nonce, and with noble's RFC 6979 a seeded machine
 * makes the same certificates under either provider.
 */
export const nodeP384: P384 = {
	isValidPrivateKey: isScalar,
	isValidPublicKey: isPoint,
	publicKey: (privateKey) => fromUncompressed(new Uint8Array(agreement(privateKey).getPublicKey())),
	ecdh(privateKey, peer) {
		const ecdh = agreement(privateKey);
		requirePublicKey(peer);
		return new Uint8Array(ecdh.computeSecret(uncompressed(peer)));
	},
	sign: nobleP384.sign,
	verify(publicKey, message, signature, hash) {
		if (!isScalar(signature.r) || !isScalar(signature.s) || !isPoint(publicKey)) return false;
		const jwk = { kty: 'EC', crv: 'P-384', x: base64url(publicKey.x), y: base64url(publicKey.y) };
		const key = createPublicKey({ key: jwk, format: 'jwk' });
		return verify(hash, message, { key, dsaEncoding: 'ieee-p1363' }, compactSignature(signature));
	},
};
