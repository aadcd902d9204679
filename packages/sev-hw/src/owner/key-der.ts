import { type CryptoProvider, constantTimeEqual, wipe } from '@cvm/crypto';
import { fromHex } from '@cvm/layout';
import { isPrivateKey } from '../certificates/key-generation.js';
import { concat } from './concat.js';
import { OwnerError } from './error.js';

const SCALAR = 48;
/** ECPrivateKey up to the scalar (RFC 5915), then the curve's name as [0]; the public key follows as [1]. */
const SEC1_FRONT = fromHex('3081a4 020101 0430');
const SEC1_CURVE = fromHex('a007 06052b81040022');
/** PrivateKeyInfo up to the scalar (RFC 5958): id-ecPublicKey on secp384r1, then an ECPrivateKey without a curve. */
const PKCS8_FRONT = fromHex('3081b6 020100 3010 06072a8648ce3d0201 06052b81040022 04819e 30819b 020101 0430');
/** The public key as [1], a BIT STRING with an uncompressed point. */
const PUBLIC_FRONT = fromHex('a164 036200 04');

/** A P-384 private key (48 bytes, big-endian) as the DER of SEC 1: `EC PRIVATE KEY` in PEM files. @throws OwnerError `key` */
export function privateKeyToSec1(provider: CryptoProvider, privateKey: Uint8Array): Uint8Array {
	return concat(SEC1_FRONT, checked(provider, privateKey), SEC1_CURVE, publicPart(provider, privateKey));
}

/** A P-384 private key (48 bytes, big-endian) as the DER of PKCS #8: `PRIVATE KEY` in PEM files. @throws OwnerError `key` */
export function privateKeyToPkcs8(provider: CryptoProvider, privateKey: Uint8Array): Uint8Array {
	return concat(PKCS8_FRONT, checked(provider, privateKey), publicPart(provider, privateKey));
}

/**
 * The P-384 private key in a DER file of either form, 48 bytes big-endian. Only the encodings that OpenSSL and this
 * package write are taken, and the public key in the file has to be that of the private one.
 *
 * @throws OwnerError `key`
 */
export function privateKeyFromDer(provider: CryptoProvider, der: Uint8Array): Uint8Array {
	for (const [front, encode] of [
		[SEC1_FRONT, privateKeyToSec1],
		[PKCS8_FRONT, privateKeyToPkcs8],
	] as const) {
		const privateKey = new Uint8Array(der.subarray(front.length, front.length + SCALAR));
		if (!isPrivateKey(provider, privateKey)) continue;
		if (constantTimeEqual(encode(provider, privateKey), der)) return privateKey;
		wipe(privateKey);
	}
	throw new OwnerError('key', `private key: expected SEC 1 or PKCS #8 DER of a P-384 key, got ${der.length} bytes`);
}

function checked(provider: CryptoProvider, privateKey: Uint8Array): Uint8Array {
	if (isPrivateKey(provider, privateKey)) return privateKey;
	throw new OwnerError('key', `private key: expected a P-384 scalar of 48 bytes, got ${privateKey.length} bytes`);
}

function publicPart(provider: CryptoProvider, privateKey: Uint8Array): Uint8Array {
	const { x, y } = provider.p384.publicKey(privateKey);
	return concat(PUBLIC_FRONT, x, y);
}
