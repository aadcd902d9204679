import { ctr } from '../ctr.js';
import { kdf } from '../kdf.js';
import type { CryptoProvider } from '../provider.js';
import { codeOf, type TestFramework } from './framework.js';
import { ascii, hex, inSharedMemory, pattern, unhex } from './hex.js';

/** FIPS 180-4 example messages. */
const DIGESTS = [
	['sha256', '', 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'],
	['sha256', 'abc', 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'],
	['sha384', '', '38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b'],
	['sha384', 'abc', 'cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7'],
] as const;

/** RFC 4231 §4.2 to §4.8; test case 5 truncates its output. */
const HMACS = [
	['1', '0b'.repeat(20), ascii('Hi There'), 'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7'],
	[
		'2',
		hex(ascii('Jefe')),
		ascii('what do ya want for nothing?'),
		'5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
	],
	[
		'3',
		'aa'.repeat(20),
		new Uint8Array(50).fill(0xdd),
		'773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe',
	],
	[
		'4',
		'0102030405060708090a0b0c0d0e0f10111213141516171819',
		new Uint8Array(50).fill(0xcd),
		'82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b',
	],
	[
		'6',
		'aa'.repeat(131),
		ascii('Test Using Larger Than Block-Size Key - Hash Key First'),
		'60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54',
	],
	[
		'7',
		'aa'.repeat(131),
		ascii(
			'This is a test using a larger than block-size key and a larger than block-size data. ' +
				'The key needs to be hashed before being used by the HMAC algorithm.',
		),
		'9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2',
	],
] as const;

export function hashingSuite(provider: CryptoProvider, { describe, it, expect }: TestFramework): void {
	describe('hashes', () => {
		for (const [name, message, digest] of DIGESTS) {
			it(`gives the ${name} of ${JSON.stringify(message)} in FIPS 180-4, fed whole or by byte`, () => {
				expect(hex(provider.digest(name, ascii(message)))).toBe(digest);
				const hash = provider.hash(name);
				for (const byte of ascii(message)) hash.update(Uint8Array.of(byte));
				expect(hex(hash.digest())).toBe(digest);
			});
		}

		it('hashes the concatenation of its parts, shared memory included', () => {
			const [a, b] = [pattern(100), pattern(5000)];
			const together = new Uint8Array([...a, ...b]);
			expect(hex(provider.digest('sha384', a, new Uint8Array(), inSharedMemory(b)))).toBe(
				hex(provider.digest('sha384', together)),
			);
			expect(hex(provider.digest('sha256'))).toBe(hex(provider.digest('sha256', new Uint8Array())));
		});

		it('takes nothing more after the digest', () => {
			for (const name of ['sha256', 'sha384'] as const) {
				const hash = provider.hash(name);
				hash.digest();
				expect(codeOf(() => hash.update(new Uint8Array(1)))).toBe('finished');
				expect(codeOf(() => hash.digest())).toBe('finished');
			}
		});

		it('gives digests that no later call changes', () => {
			const first = provider.digest('sha256', ascii('abc'));
			const before = hex(first);
			for (let i = 0; i < 100; i++) provider.digest('sha256', Uint8Array.of(i));
			expect(hex(first)).toBe(before);
			expect(Object.getPrototypeOf(first)).toBe(Uint8Array.prototype);
		});
	});

	describe('HMAC-SHA-256', () => {
		for (const [number, key, message, mac] of HMACS) {
			it(`gives test case ${number} of RFC 4231, whole and in parts`, () => {
				expect(hex(provider.hmacSha256(unhex(key), message))).toBe(mac);
				expect(hex(provider.hmacSha256(inSharedMemory(unhex(key)), message.subarray(0, 3), message.subarray(3)))).toBe(
					mac,
				);
			});
		}

		it('is what FIPS 198-1 §4 says for messages of any length', () => {
			const key = pattern(16);
			const padded = (pad: number) => Uint8Array.from({ length: 64 }, (_, i) => (key[i] ?? 0) ^ pad);
			for (const length of [0, 64, 4096, 16384, 16640, 16641, 100_000]) {
				const message = pattern(length);
				const inner = provider.digest('sha256', padded(0x36), message);
				const expected = hex(provider.digest('sha256', padded(0x5c), inner));
				expect(hex(provider.hmacSha256(key, message))).toBe(expected);
				expect(hex(provider.hmacSha256(key, message.subarray(0, 29), message.subarray(29)))).toBe(expected);
			}
		});

		it('gives MACs that no later call changes', () => {
			const first = provider.hmacSha256(pattern(16), ascii('abc'));
			const before = hex(first);
			provider.hmacSha256(pattern(32), ascii('abcd'));
			expect(hex(first)).toBe(before);
		});

		it('tells apart keys, messages, and a key that is empty', () => {
			const macs = [
				provider.hmacSha256(new Uint8Array(), ascii('a')),
				provider.hmacSha256(Uint8Array.of(1), ascii('a')),
				provider.hmacSha256(Uint8Array.of(1), ascii('b')),
				provider.hmacSha256(Uint8Array.of(1)),
			].map(hex);
			expect(new Set(macs).size).toBe(macs.length);
		});
	});

	describe('the key derivation of SEV', () => {
		const nothing = new Uint8Array();

		it('gives the session values published in the tests of the virtee/sev crate', () => {
			const master = kdf(provider, new Uint8Array(16), 'sev-master-secret', new Uint8Array(16), 128);
			expect(hex(master)).toBe('ab4d269fcc62bedb4511d56c386ce706');
			const wrapped = new Uint8Array(32);
			ctr(provider.blockCipher(kdf(provider, master, 'sev-kek', nothing, 128)), new Uint8Array(16), wrapped, wrapped);
			expect(hex(wrapped)).toBe('2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4');
			const mac = provider.hmacSha256(kdf(provider, master, 'sev-kik', nothing, 128), wrapped);
			expect(hex(mac)).toBe('3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d');
		});

		it('gives the keys that an independent script computed from a P-384 agreement', () => {
			const z = unhex(`49ca5424673f106fc1968da5deb509bb51af15f9a4ffda8f
				0a41dd2528a086e7a9f0f24b9b2ac7f90577c5363ce9a445`);
			const master = kdf(provider, z, 'sev-master-secret', unhex('101112131415161718191a1b1c1d1e1f'), 128);
			expect(hex(master)).toBe('ada6b461333e2cbeea201cc05036ebbd');
			expect(hex(kdf(provider, master, 'sev-kek', nothing, 128))).toBe('15ca880010ecffc8cfd646f9339ec8e4');
			expect(hex(kdf(provider, master, 'sev-kik', nothing, 128))).toBe('792623b4d9654e52a2abeeb8e377d4e1');
		});
	});
}
