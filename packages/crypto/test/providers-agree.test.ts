import { constants, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { type CryptoProvider, type HashName, nobleProvider, type RsaPrivateKey } from '../src/index.js';
import { nodeProvider } from '../src/node/index.js';
import { ascii, hex, pattern, unhex } from '../src/testing/hex.js';

const bytes = (maxLength: number, minLength = 0) => fc.uint8Array({ minLength, maxLength });
const aesKey = fc.oneof(bytes(16, 16), bytes(32, 32));
const hashName = fc.constantFrom<HashName>('sha256', 'sha384');
const providers = [nobleProvider, nodeProvider] as const;

/** What each provider gives, for one assertion that they are the same. */
const both = <T>(give: (provider: CryptoProvider) => T): [T, T] => [give(nobleProvider), give(nodeProvider)];

describe('noble and node:crypto agree', () => {
	test.prop([aesKey, fc.nat(300)], { numRuns: 40 })('on whole blocks', (key, blocks) => {
		for (const direction of ['encrypt', 'decrypt'] as const) {
			const [noble, node] = both((provider) => {
				const data = pattern(16 * blocks);
				provider.blockCipher(key)[direction](data, data);
				return hex(data);
			});
			expect(noble).toBe(node);
		}
	});

	test.prop([hashName, bytes(300), bytes(300), bytes(200)], { numRuns: 40 })(
		'on hashes and HMAC',
		(name, a, b, key) => {
			const [noble, node] = both((provider) => [hex(provider.digest(name, a, b)), hex(provider.hmacSha256(key, a, b))]);
			expect(noble).toEqual(node);
		},
	);

	test.prop([aesKey, bytes(128, 8), bytes(64), bytes(300)], { numRuns: 40 })('on GCM', (key, iv, aad, plaintext) => {
		const [noble, node] = both((provider) => provider.gcmSeal(key, iv, aad, plaintext));
		expect(hex(noble)).toBe(hex(node));
		for (const provider of providers) expect(provider.gcmOpen(key, iv, aad, noble)).toEqual(plaintext);
	});

	test.prop([bytes(48, 48), bytes(48, 48), hashName, bytes(100)], { numRuns: 8 })('on P-384', (a, b, name, message) => {
		fc.pre(nobleProvider.p384.isValidPrivateKey(a) && nobleProvider.p384.isValidPrivateKey(b));
		const [noble, node] = both(({ p384 }) => ({
			key: p384.publicKey(a),
			z: p384.ecdh(a, p384.publicKey(b)),
			signature: p384.sign(a, message, name),
		}));
		expect(noble).toEqual(node);
		for (const { p384 } of providers) {
			expect(p384.verify(noble.key, message, noble.signature, name)).toBe(true);
			expect(p384.verify(noble.key, Uint8Array.of(...message, 0), noble.signature, name)).toBe(false);
		}
	});

	test.prop([bytes(48, 48)], { numRuns: 100 })(
		'on which random coordinates are a point, and on rejecting nearly all',
		(x) => {
			const [noble, node] = both(({ p384 }) => p384.isValidPublicKey({ x, y: x }));
			expect(noble).toBe(node);
		},
	);
});

describe('ECDSA signatures', () => {
	const key = unhex('6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5');

	for (const { name, p384 } of providers) {
		it(`are those of RFC 6979 A.2.6 under ${name}`, () => {
			// The first s is above n / 2: signatures of SEV are not normalised.
			expect(hex(p384.sign(key, ascii('sample'), 'sha256').s)).toBe(
				'f3aa443fb107745bf4bd77cb3891674632068a10ca67e3d45db2266fa7d1feebefdc63eccd1ac42ec0cb8668a4fa0ab0',
			);
			expect(hex(p384.sign(key, ascii('sample'), 'sha384').r)).toBe(
				'94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46',
			);
		});
	}
});

describe('RSA-PSS against OpenSSL', () => {
	const number = (text: string | undefined): Uint8Array => Uint8Array.from(Buffer.from(text ?? '', 'base64url'));
	const numbersOf = (key: KeyObject): RsaPrivateKey => {
		const { n, e, d } = key.export({ format: 'jwk' });
		return { modulus: number(n), exponent: number(e), privateExponent: number(d) };
	};
	const pss = (key: KeyObject, saltLength: number) => ({ key, saltLength, padding: constants.RSA_PKCS1_PSS_PADDING });
	const message = ascii('certificate body');

	for (const modulusLength of [1024, 1027, 1031, 2048]) {
		const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength });
		const key = numbersOf(privateKey);

		it(`both accept what OpenSSL signs at ${modulusLength} bits with no salt, a short, the usual and the longest`, () => {
			for (const hash of ['sha256', 'sha384'] as const) {
				const hashBytes = hash === 'sha256' ? 32 : 48;
				const longest = Math.ceil((modulusLength - 1) / 8) - hashBytes - 2;
				for (const saltLength of [0, 1, Math.min(hashBytes, longest), longest]) {
					const signature = new Uint8Array(sign(hash, message, pss(privateKey, saltLength)));
					for (const { rsaPss } of providers) {
						expect(rsaPss.verify(key, message, signature, hash)).toBe(true);
						expect(rsaPss.verify(key, ascii('another'), signature, hash)).toBe(false);
					}
				}
			}
		});

		it(`OpenSSL accepts what both sign at ${modulusLength} bits`, () => {
			const [noble, node] = both(({ rsaPss }) => rsaPss.sign(key, message, 'sha256', pattern(32)));
			expect(hex(noble)).toBe(hex(node));
			expect(verify('sha256', message, pss(publicKey, 32), noble)).toBe(true);
		});
	}

	it('both refuse a PKCS #1 v1.5 signature', () => {
		const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 1024 });
		const signature = sign('sha256', message, { key: privateKey, padding: constants.RSA_PKCS1_PADDING });
		for (const { rsaPss } of providers) {
			expect(rsaPss.verify(numbersOf(privateKey), message, new Uint8Array(signature), 'sha256')).toBe(false);
		}
	});
});
