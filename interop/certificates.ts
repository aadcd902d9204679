import { ecdsaSignature, ecPublicKey, reversed, rsaPublicKey } from './openssl.js';

/** Parts of certificates for OpenSSL, cut out by offset (SEV API 0.24 App. B and C), without this project's codecs. */
const number = (data: Uint8Array, at: number) => new DataView(data.buffer, data.byteOffset).getUint32(at, true);

/** A SEV certificate: 2084 bytes. */
export function sevParts(cert: Uint8Array) {
	const coordinate = (at: number) => reversed(cert.subarray(at, at + 48));
	const slot = (at: number) => ({
		usage: number(cert, at),
		algo: number(cert, at + 4),
		ecdsa: ecdsaSignature(coordinate(at + 8), coordinate(at + 8 + 72)),
		/** Of a key with this many bytes of modulus. */
		rsa: (size: number) => reversed(cert.subarray(at + 8, at + 8 + size)),
	});
	return {
		body: cert.slice(0, 0x414),
		publicKey: ecPublicKey(coordinate(0x14), coordinate(0x5c)),
		slots: [slot(0x414), slot(0x61c)] as const,
	};
}

/** An ARK or ASK. */
export function amdParts(cert: Uint8Array) {
	const size = number(cert, 0x3c) / 8;
	const integer = (at: number) => reversed(cert.subarray(at, at + size));
	return {
		size,
		hash: size === 256 ? ('sha256' as const) : ('sha384' as const),
		body: cert.slice(0, 0x40 + 2 * size),
		publicKey: rsaPublicKey(integer(0x40 + size), integer(0x40)),
		signature: reversed(cert.subarray(0x40 + 2 * size)),
	};
}
