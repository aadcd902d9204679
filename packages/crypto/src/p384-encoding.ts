import { p384 } from '@noble/curves/nist.js';
import { bytesToNumberBE } from '@noble/curves/utils.js';
import { CryptoError } from './error.js';
import type { EcdsaSignature, P384PublicKey } from './provider.js';

/** Bytes of a P-384 coordinate or scalar. */
export const P384_BYTES = 48;

const { Fn, Fp } = p384.Point;

/** Whether 48 big-endian bytes are a scalar in [1, n − 1]: true of private keys and of both halves of a signature. */
export function isScalar(data: Uint8Array): boolean {
	return data.length === P384_BYTES && Fn.isValidNot0(bytesToNumberBE(data));
}

/** Whether both coordinates are reduced field elements that satisfy the curve equation (SEC 1 §3.2.2.1; cofactor 1). */
export function isPoint({ x, y }: P384PublicKey): boolean {
	if (x.length !== P384_BYTES || y.length !== P384_BYTES) return false;
	const a = bytesToNumberBE(x);
	const b = bytesToNumberBE(y);
	if (!Fp.isValid(a) || !Fp.isValid(b)) return false;
	const { a: curveA, b: curveB } = p384.Point.CURVE();
	// The point at infinity has no affine coordinates; (0, 0), which some encodings use for it, is not on this curve.
	return Fp.eql(Fp.sqr(b), Fp.add(Fp.mul(Fp.add(Fp.sqr(a), curveA), a), curveB));
}

/** @throws CryptoError unless the scalar is a private key */
export function requirePrivateKey(privateKey: Uint8Array): void {
	if (isScalar(privateKey)) return;
	throw new CryptoError('key', 'P-384 private key', '48 bytes in [1, n − 1]', `${privateKey.length} other bytes`);
}

/** @throws CryptoError unless the point is a public key */
export function requirePublicKey(publicKey: P384PublicKey): void {
	if (isPoint(publicKey)) return;
	const got = `${publicKey.x.length} + ${publicKey.y.length} other bytes`;
	throw new CryptoError('key', 'P-384 public key', '48 + 48 bytes of a point on the curve', got);
}

/** The uncompressed form 0x04 ‖ x ‖ y (SEC 1 §2.3.3). */
export function uncompressed({ x, y }: P384PublicKey): Uint8Array {
	const out = new Uint8Array(1 + 2 * P384_BYTES);
	out[0] = 4;
	out.set(x, 1);
	out.set(y, 1 + P384_BYTES);
	return out;
}

/** Coordinates out of the uncompressed form. */
export const fromUncompressed = (point: Uint8Array): P384PublicKey => ({
	x: point.slice(1, 1 + P384_BYTES),
	y: point.slice(1 + P384_BYTES),
});

/** r ‖ s (IEEE P1363). */
export function compactSignature({ r, s }: EcdsaSignature): Uint8Array {
	const out = new Uint8Array(2 * P384_BYTES);
	out.set(r, 0);
	out.set(s, P384_BYTES);
	return out;
}
