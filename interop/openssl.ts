import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromHex, toHex } from '@cvm/layout';
import { temporaryFolder } from './programs.js';

/**
 * The `openssl` program as a second opinion: every primitive of SEV by its command line, over encodings built here byte by
 * byte. Nothing of `@cvm/crypto` or of the certificate codecs is used.
 */
const folder = temporaryFolder();
let files = 0;

function fileWith(data: Uint8Array): string {
	const name = join(folder, `openssl-${files++}`);
	writeFileSync(name, data);
	return name;
}

/** Standard output of `openssl`, which must succeed. */
export function openssl(argv: readonly string[], input: Uint8Array = new Uint8Array(0)): Uint8Array {
	const { status, stdout, stderr, error } = spawnSync('openssl', argv, { input });
	if (error !== undefined) throw error;
	if (status !== 0) throw new Error(`openssl ${argv.join(' ')}: exit code ${status}: ${stderr}`);
	return Uint8Array.from(stdout);
}

export const concat = (...parts: readonly Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(parts));
export const reversed = (data: Uint8Array): Uint8Array => data.slice().reverse();
export const u32 = (value: number): Uint8Array => {
	const out = new Uint8Array(4);
	new DataView(out.buffer).setUint32(0, value, true);
	return out;
};
export const ascii = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'latin1'));

/** HMAC-SHA-256 by `openssl dgst`. */
export const hmac = (key: Uint8Array, ...message: readonly Uint8Array[]): Uint8Array =>
	openssl(['dgst', '-sha256', '-mac', 'HMAC', '-macopt', `hexkey:${toHex(key)}`, '-binary'], concat(...message));

/** SHA-256 by `openssl dgst`. */
export const sha256 = (...message: readonly Uint8Array[]): Uint8Array =>
	openssl(['dgst', '-sha256', '-binary'], concat(...message));

/** AES-128-CTR by `openssl enc`; encryption and decryption are the same. */
export const aesCtr = (key: Uint8Array, iv: Uint8Array, data: Uint8Array): Uint8Array =>
	openssl(['enc', '-aes-128-ctr', '-K', toHex(key), '-iv', toHex(iv), '-nopad'], data);

/** One block of NIST SP 800-108 in counter mode, with SEV's little-endian numbers, over `openssl`'s HMAC. */
export const kdf128 = (key: Uint8Array, label: string, context: Uint8Array = new Uint8Array(0)): Uint8Array =>
	hmac(key, u32(1), ascii(label), Uint8Array.of(0), context, u32(128)).slice(0, 16);

/** DER: tag, length, contents. */
function der(tag: number, ...contents: readonly Uint8Array[]): Uint8Array {
	const body = concat(...contents);
	const n = body.length;
	const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 0xff];
	return concat(Uint8Array.of(tag, ...length), body);
}

/** DER INTEGER of a big-endian number: no needless zeros in front, one where the number would read as negative. */
function integer(bigEndian: Uint8Array): Uint8Array {
	const first = bigEndian.findIndex((byte) => byte !== 0);
	const digits = first < 0 ? Uint8Array.of(0) : bigEndian.subarray(first);
	return der(0x02, (digits[0] ?? 0) >= 0x80 ? Uint8Array.of(0) : new Uint8Array(0), digits);
}

const EC_P384 = fromHex('3010 06072a8648ce3d0201 06052b81040022');
const RSA = fromHex('300d 06092a864886f70d010101 0500');
const bitString = (data: Uint8Array) => der(0x03, Uint8Array.of(0), data);

const pem = (data: Uint8Array): Uint8Array => {
	const lines =
		Buffer.from(data)
			.toString('base64')
			.match(/.{1,64}/g) ?? [];
	return ascii(['-----BEGIN PUBLIC KEY-----', ...lines, '-----END PUBLIC KEY-----', ''].join('\n'));
};

/** A public key as OpenSSL reads it, PEM. */
export const ecPublicKey = (x: Uint8Array, y: Uint8Array): Uint8Array =>
	pem(der(0x30, EC_P384, bitString(concat(Uint8Array.of(4), x, y))));

export const rsaPublicKey = (modulus: Uint8Array, exponent: Uint8Array): Uint8Array =>
	pem(der(0x30, RSA, bitString(der(0x30, integer(modulus), integer(exponent)))));

/** An ECDSA signature as OpenSSL reads it, of big-endian integers. */
export const ecdsaSignature = (r: Uint8Array, s: Uint8Array): Uint8Array => der(0x30, integer(r), integer(s));

/** `openssl dgst -verify`: whether it says `Verified OK`. Any other trouble is an error. */
export function verifies(
	hash: 'sha256' | 'sha384',
	publicKey: Uint8Array,
	signature: Uint8Array,
	message: Uint8Array,
	options: readonly string[] = [],
): boolean {
	const key = ['-verify', fileWith(publicKey), '-signature', fileWith(signature)];
	const { stdout, stderr, error } = spawnSync('openssl', ['dgst', `-${hash}`, ...key, ...options], { input: message });
	if (error !== undefined) throw error;
	const answer = stdout.toString().trim();
	if (answer === 'Verified OK') return true;
	if (answer === 'Verification failure' || answer === 'Verification Failure') return false;
	throw new Error(`openssl dgst -verify: ${answer} ${stderr}`);
}

/** As `verifies`, for RSASSA-PSS with MGF1 over the same hash and a salt as long as the hash. */
export const verifiesPss = (
	hash: 'sha256' | 'sha384',
	publicKey: Uint8Array,
	signature: Uint8Array,
	message: Uint8Array,
): boolean =>
	verifies(hash, publicKey, signature, message, [
		...['-sigopt', 'rsa_padding_mode:pss', '-sigopt', 'rsa_pss_saltlen:digest', '-sigopt', `rsa_mgf1_md:${hash}`],
	]);

/** The x-coordinate of the shared point by `openssl pkeyutl -derive`; the private key in DER, the public one in PEM. */
export const ecdh = (privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array =>
	openssl(['pkeyutl', '-derive', '-keyform', 'DER', '-inkey', fileWith(privateKey), '-peerkey', fileWith(publicKey)]);
