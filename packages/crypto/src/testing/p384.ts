import type { CryptoProvider, EcdsaSignature, P384PublicKey } from '../provider.js';
import { codeOf, type TestFramework } from './framework.js';
import { ascii, flipped, hex, inSharedMemory, unhex } from './hex.js';

/** Order of the group and field prime (SP 800-186 §3.2.1.4). */
const N = unhex('ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973');
const P = unhex('fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff');
const ZERO = new Uint8Array(48);
const ONE = unhex(`${'00'.repeat(47)}01`);

/** RFC 6979 A.2.6. */
const PRIVATE = unhex(
	'6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5',
);
const PUBLIC = {
	x: unhex('ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc13'),
	y: unhex('8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720'),
};
const SIGNATURES = [
	[
		'sha256',
		'sample',
		'21b13d1e013c7fa1392d03c5f99af8b30c570c6f98d4ea8e354b63a21d3daa33bde1e888e63355d92fa2b3c36d8fb2cd',
		'f3aa443fb107745bf4bd77cb3891674632068a10ca67e3d45db2266fa7d1feebefdc63eccd1ac42ec0cb8668a4fa0ab0',
	],
	[
		'sha384',
		'sample',
		'94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46',
		'99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8',
	],
	[
		'sha384',
		'test',
		'8203b63d3c853e8d77227fb377bcf7b7b772e97892a80f36ab775d509d7a5feb0542a7f0812998da8f1dd3ca3cf023db',
		'ddd0760448d42d8a43af45af836fce4de8be06b485e9b61b827c2f13173923e06a739f040649a667bf3b828246baa5a5',
	],
] as const;

/** The point whose x is zero: own computation from the curve equation. Its x has a second, unreduced form: p itself. */
const AT_ZERO = unhex(
	'c306610fb0ae5a159cf45c06069f22a6c5eb3641c602d42dea2c4b4f75550793406d80d2b91ad54f9048bd487af1ade1',
);

const short = (data: Uint8Array): Uint8Array => data.subarray(1);
const long = (data: Uint8Array): Uint8Array => new Uint8Array([0, ...data]);

/** Scalars outside [1, n − 1] and of other lengths. */
const BAD_SCALARS: readonly (readonly [string, Uint8Array])[] = [
	['zero', ZERO],
	['n', N],
	['2^384 − 1', new Uint8Array(48).fill(0xff)],
	['no bytes', new Uint8Array()],
	['47 bytes', short(PRIVATE)],
	['49 bytes', long(PRIVATE)],
];

const BAD_POINTS: readonly (readonly [string, P384PublicKey])[] = [
	['(0, 0)', { x: ZERO, y: ZERO }],
	['a point beside the curve', { x: PUBLIC.x, y: flipped(PUBLIC.y, 383) }],
	['swapped coordinates', { x: PUBLIC.y, y: PUBLIC.x }],
	['an unreduced x', { x: P, y: AT_ZERO }],
	['coordinates above p', { x: new Uint8Array(48).fill(0xff), y: new Uint8Array(48).fill(0xff) }],
	['47 bytes of x', { x: short(PUBLIC.x), y: PUBLIC.y }],
	['49 bytes of y', { x: PUBLIC.x, y: long(PUBLIC.y) }],
	['no bytes', { x: new Uint8Array(), y: new Uint8Array() }],
];

export function p384Suite(provider: CryptoProvider, { describe, it, expect }: TestFramework): void {
	const { p384 } = provider;
	const pair = ({ x, y }: P384PublicKey): string => `${hex(x)} ${hex(y)}`;

	describe('P-384 keys', () => {
		it('derives the public key of RFC 6979 A.2.6', () => {
			expect(pair(p384.publicKey(PRIVATE))).toBe(pair(PUBLIC));
			expect(pair(p384.publicKey(inSharedMemory(PRIVATE)))).toBe(pair(PUBLIC));
		});

		it('accepts the scalars 1 and n − 1, whose points differ in sign only', () => {
			const last = flipped(N, 8 * 47);
			last[47] = (N[47] ?? 0) - 1;
			expect(p384.isValidPrivateKey(ONE) && p384.isValidPrivateKey(last)).toBe(true);
			expect(hex(p384.publicKey(ONE).x)).toBe(hex(p384.publicKey(last).x));
			expect(hex(p384.publicKey(ONE).y) === hex(p384.publicKey(last).y)).toBe(false);
		});

		it('accepts points of the curve, also the one at x = 0', () => {
			expect(p384.isValidPublicKey(PUBLIC)).toBe(true);
			expect(p384.isValidPublicKey({ x: ZERO, y: AT_ZERO })).toBe(true);
		});

		for (const [what, scalar] of BAD_SCALARS) {
			it(`refuses ${what} as a private key everywhere`, () => {
				expect(p384.isValidPrivateKey(scalar)).toBe(false);
				expect(codeOf(() => p384.publicKey(scalar))).toBe('key');
				expect(codeOf(() => p384.ecdh(scalar, PUBLIC))).toBe('key');
				expect(codeOf(() => p384.sign(scalar, ascii('sample'), 'sha384'))).toBe('key');
			});
		}

		for (const [what, point] of BAD_POINTS) {
			it(`refuses ${what} as a public key everywhere`, () => {
				const [, , r, s] = SIGNATURES[1];
				expect(p384.isValidPublicKey(point)).toBe(false);
				expect(codeOf(() => p384.ecdh(PRIVATE, point))).toBe('key');
				expect(p384.verify(point, ascii('sample'), { r: unhex(r), s: unhex(s) }, 'sha384')).toBe(false);
			});
		}
	});

	describe('P-384 agreement', () => {
		it('gives the shared x of NIST CAVP ECC CDH P-384, count 0', () => {
			const peer = {
				x: unhex('a7c76b970c3b5fe8b05d2838ae04ab47697b9eaf52e764592efda27fe7513272734466b400091adbf2d68c58e0c50066'),
				y: unhex('ac68f19f2e1cb879aed43a9969b91a0839c4c38a49749b661efedf243451915ed0905a32b060992b468c64766fc8437a'),
			};
			const own = unhex(
				'3cc3122a68f0d95027ad38c067916ba0eb8c38894d22e1b15618b6818a661774ad463b205da88cf699ab4d43c9cf98a1',
			);
			const z = '5f9d29dc5e31a163060356213669c8ce132e22f57c9a04f40ba7fcead493b457e5621e766c40a2e3d4d6a04b25e533f1';
			expect(hex(p384.ecdh(own, peer))).toBe(z);
		});

		it('is the same from both ends, with a leading zero kept', () => {
			const [a, b] = [new Uint8Array(48).fill(1), new Uint8Array(48).fill(2)];
			const z = hex(p384.ecdh(a, p384.publicKey(b)));
			expect(z).toBe(
				'49ca5424673f106fc1968da5deb509bb51af15f9a4ffda8f0a41dd2528a086e7a9f0f24b9b2ac7f90577c5363ce9a445',
			);
			expect(hex(p384.ecdh(b, p384.publicKey(a)))).toBe(z);
			// With the scalar 1 the result is the peer's x, here one of 48 zero bytes.
			expect(hex(p384.ecdh(ONE, { x: ZERO, y: AT_ZERO }))).toBe('00'.repeat(48));
		});
	});

	describe('ECDSA over P-384', () => {
		for (const [hash, message, r, s] of SIGNATURES) {
			it(`accepts the RFC 6979 A.2.6 signature of "${message}" with ${hash}`, () => {
				expect(p384.verify(PUBLIC, ascii(message), { r: unhex(r), s: unhex(s) }, hash)).toBe(true);
			});
		}

		it('signs what it then accepts, with 48-byte halves', () => {
			for (const hash of ['sha256', 'sha384'] as const) {
				const signature = p384.sign(PRIVATE, ascii('a message'), hash);
				expect(signature.r.length + signature.s.length).toBe(96);
				expect(p384.verify(PUBLIC, ascii('a message'), signature, hash)).toBe(true);
				expect(p384.verify(PUBLIC, ascii('another message'), signature, hash)).toBe(false);
			}
		});

		it('refuses turned bits, the other hash and another key', () => {
			const [hash, message, r, s] = SIGNATURES[1];
			const good: EcdsaSignature = { r: unhex(r), s: unhex(s) };
			const accepts = (signature: EcdsaSignature) => p384.verify(PUBLIC, ascii(message), signature, hash);
			for (const bit of [0, 7, 100, 383]) {
				expect(accepts({ r: flipped(good.r, bit), s: good.s })).toBe(false);
				expect(accepts({ r: good.r, s: flipped(good.s, bit) })).toBe(false);
			}
			expect(accepts({ r: good.s, s: good.r })).toBe(false);
			expect(p384.verify(PUBLIC, ascii(message), good, 'sha256')).toBe(false);
			expect(p384.verify(p384.publicKey(ONE), ascii(message), good, hash)).toBe(false);
		});

		for (const [what, scalar] of BAD_SCALARS) {
			it(`refuses ${what} as r and as s, without throwing`, () => {
				const [hash, message, r, s] = SIGNATURES[1];
				expect(p384.verify(PUBLIC, ascii(message), { r: scalar, s: unhex(s) }, hash)).toBe(false);
				expect(p384.verify(PUBLIC, ascii(message), { r: unhex(r), s: scalar }, hash)).toBe(false);
			});
		}
	});
}
