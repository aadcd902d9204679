import { pow } from '@noble/curves/abstract/modular.js';
import { bytesToNumberBE, numberToBytesBE } from '@noble/curves/utils.js';
import type { CryptoProvider, RsaPrivateKey } from '../provider.js';
import { codeOf, type TestFramework } from './framework.js';
import { ascii, flipped, hex, pattern, unhex } from './hex.js';

const E = Uint8Array.of(1, 0, 1);

/** Keys made for this suite by OpenSSL: no secret. 1025 bits make the encoded message a byte shorter than the modulus. */
const KEY_1024: RsaPrivateKey = {
	modulus: unhex(`b53ce579a30e1dbef9f43153987cf936e7a3fdb620e070af9e035f268d2d927ad817506b9bb3e1f6f1bca8ea3d54445c
fc33b062fda43f0ee71f084a8afa0f06a06cf43008932d324078576dbf16a5cc8088c97d1258f2f09f1953ab1135a3ac
93464a84bfae18bf99b2f0bd14e008d22c225074f331280e94c9a83e13043e11`),
	exponent: E,
	privateExponent:
		unhex(`a7b4e6139c929f6bed17cddd3129d3e2be8ebd631f2110a5316ea549a3321c6d98305ab678aa07dadeee58d0085845ba
5595ef0e6aeee57b00db726ca815a4784a601733752ed0feae76eddb632e8e8420eeaa5c0ca253c3415f02d8b46369c6
73869dcfb4e69c93b6a7350cd10fe405ef12f89b14dd3a4eb297b1a42ef86801`),
};
const KEY_1025: RsaPrivateKey = {
	modulus: unhex(`019a49e62105ec7ef2af6b3f196357bdbf544843bbed8100fdd31fbca03416cae31b4a9e364e6091531e732f1b86f160
5dc0c5424c01fc95349f2b7d1e9ca0ad64e1b8a3ca73da058c5d9c2d9c97d897db7b9d9985bd33d5cf45ab4c32ceb87a
6426d8487c8a56d22b32a21ea1161c4445e9d7039e08ba943556986707115b5545`),
	exponent: E,
	privateExponent:
		unhex(`0174b37e8e2f00674d73565bea6718d4301292d69cc721f1d1a1506a1ba955af15e0bbc6be94321ab143aee473000112
45f80ff8aa6cff92564be4c872df5b024579d8a8e6fedef5316bfda1db3d1ad83917c5166955e010af864343de46dee0
fb5a7910b0b5b703dc4f9ddc7f68ef7537aa73764121aa73ef6e0cbbe4669e89c1`),
};

/** Project Wycheproof, testvectors_v1/rsa_pss_2048_sha256_mgf1_32_test.json, tcId 3 (Apache-2.0). */
const WYCHEPROOF = {
	key: {
		modulus: unhex(`a2b451a07d0aa5f96e455671513550514a8a5b462ebef717094fa1fee82224e637f9746d3f7cafd31878d80325b6ef5a
1700f65903b469429e89d6eac8845097b5ab393189db92512ed8a7711a1253facd20f79c15e8247f3d3e42e46e48c98e
254a2fe9765313a03eff8f17e1a029397a1fa26a8dce26f490ed81299615d9814c22da610428e09c7d9658594266f5c0
21d0fceca08d945a12be82de4d1ece6b4c03145b5d3495d4ed5411eb878daf05fd7afc3e09ada0f1126422f590975a19
69816f48698bcbba1b4d9cae79d460d8f9f85e7975005d9bc22c4e5ac0f7c1a45d12569a62807d3b9a02e5a530e77306
6f453d1f5b4c2e9cf7820283f742b9d5`),
		exponent: E,
	},
	message: ascii('Test'),
	signature: unhex(`401eb03cdb47ca88033e3030f6bdecbac8f5c8fc1dd6a13d23d379ed9a2b309891d13d74fea9d21d159b9e6d8f37efa2
489962e24555f56dd434ff1d31ce4f9f5abd3f22cbea8b691d6a11e44efb83e2bca155e6a164325e0fde2a8865afd5c9
f51161a9d615f62af7ec2e31b3e5ab649c164490d31d88cfae35b84aea7925690f929a144b6d2f48e8fb894a52deecd1
b9a6496990c4ecf1588699a42cacd10c53af350514e4291ea9a058e77f101e32c1c0cefa61d945f7bc931f8bd19e7ba3
169358a60e5a8b0123bc3199b9fdcafe8e519c41ba675491a27b85e44ef2d77277c10fe107293c8290186913bc9a99b6
40d8da041b64f31eab1d35920985f4a5`),
} as const;

const SALT_BYTES = { sha256: 32, sha384: 48 } as const;

export function rsaPssSuite(provider: CryptoProvider, { describe, it, expect }: TestFramework): void {
	const { rsaPss } = provider;
	const message = ascii('certificate body');

	describe('RSA-PSS', () => {
		it('accepts the Wycheproof signature, also with zeros before the numbers of the key', () => {
			const { key, signature } = WYCHEPROOF;
			expect(rsaPss.verify(key, WYCHEPROOF.message, signature, 'sha256')).toBe(true);
			const padded = {
				modulus: new Uint8Array([0, 0, ...key.modulus]),
				exponent: new Uint8Array([...new Uint8Array(253), ...E]),
			};
			expect(rsaPss.verify(padded, WYCHEPROOF.message, signature, 'sha256')).toBe(true);
		});

		it('refuses turned bits, another message, another hash and other lengths of the signature', () => {
			const { key, signature } = WYCHEPROOF;
			const accepts = (s: Uint8Array) => rsaPss.verify(key, WYCHEPROOF.message, s, 'sha256');
			for (let bit = 0; bit < 8 * signature.length; bit += 257) expect(accepts(flipped(signature, bit))).toBe(false);
			expect(rsaPss.verify(key, ascii('test'), signature, 'sha256')).toBe(false);
			expect(rsaPss.verify(key, WYCHEPROOF.message, signature, 'sha384')).toBe(false);
			expect(accepts(signature.subarray(0, 255))).toBe(false);
			expect(accepts(new Uint8Array([0, ...signature]))).toBe(false);
			expect(accepts(new Uint8Array())).toBe(false);
		});

		it('refuses the trivial signatures 0, 1, n − 1, n and all ones', () => {
			const { key } = WYCHEPROOF;
			const n = key.modulus;
			const one = new Uint8Array(n.length).fill(1, n.length - 1);
			for (const s of [
				new Uint8Array(n.length),
				one,
				flipped(n, 8 * (n.length - 1)),
				n,
				new Uint8Array(n.length).fill(0xff),
			]) {
				expect(rsaPss.verify(key, WYCHEPROOF.message, s, 'sha256')).toBe(false);
			}
		});

		for (const [bits, key] of [
			[1024, KEY_1024],
			[1025, KEY_1025],
		] as const) {
			it(`signs with the given salt what it then accepts, at ${bits} bits`, () => {
				for (const hash of ['sha256', 'sha384'] as const) {
					const salt = pattern(SALT_BYTES[hash]);
					const signature = rsaPss.sign(key, message, hash, salt);
					expect(signature.length).toBe(Math.ceil(bits / 8));
					expect(rsaPss.verify(key, message, signature, hash)).toBe(true);
					expect(rsaPss.verify(key, ascii('another'), signature, hash)).toBe(false);
					expect(hex(rsaPss.sign(key, message, hash, salt))).toBe(hex(signature));
					expect(hex(rsaPss.sign(key, message, hash, salt.fill(0))) === hex(signature)).toBe(false);
				}
			});
		}

		/** The signature of what `change` makes of the encoded message: well-formed arithmetic around a bad encoding. */
		const resigned = (
			key: RsaPrivateKey,
			saltByte: number,
			change: (encoded: bigint) => bigint,
		): Uint8Array | undefined => {
			const n = bytesToNumberBE(key.modulus);
			const good = rsaPss.sign(key, message, 'sha256', new Uint8Array(32).fill(saltByte));
			const encoded = change(pow(bytesToNumberBE(good), bytesToNumberBE(key.exponent), n));
			if (encoded >= n) return undefined;
			return numberToBytesBE(pow(encoded, bytesToNumberBE(key.privateExponent), n), key.modulus.length);
		};
		/** The same with the first salt that leaves the changed message below the modulus. */
		const forged = (key: RsaPrivateKey, change: (encoded: bigint) => bigint): Uint8Array => {
			for (let saltByte = 0; saltByte < 64; saltByte++) {
				const signature = resigned(key, saltByte, change);
				if (signature !== undefined) return signature;
			}
			throw new Error('salt: expected one that leaves the encoding below the modulus, got none');
		};
		/** Where the 0x01 before the salt lies in an encoded message for SHA-256: before 32 of salt, 32 of hash, a trailer. */
		const SEPARATOR_BIT = 8n * 65n;

		const FORGERIES: readonly (readonly [string, RsaPrivateKey, (encoded: bigint) => bigint])[] = [
			['another trailer', KEY_1024, (encoded) => encoded ^ 0x70n],
			['0x03 before the salt', KEY_1024, (encoded) => encoded ^ (2n << SEPARATOR_BIT)],
			['0x00 before the salt', KEY_1024, (encoded) => encoded ^ (1n << SEPARATOR_BIT)],
			['padding that is not zero', KEY_1024, (encoded) => encoded ^ (1n << 1000n)],
			['another hash', KEY_1024, (encoded) => encoded ^ (1n << 100n)],
			['another salt', KEY_1024, (encoded) => encoded ^ (1n << 300n)],
			['the unused top bit set', KEY_1024, (encoded) => encoded | (1n << 1023n)],
			['a bit above its bytes set', KEY_1025, (encoded) => encoded | (1n << 1024n)],
		];
		for (const [what, key, change] of FORGERIES) {
			it(`refuses an encoded message with ${what}`, () => {
				expect(
					rsaPss.verify(
						key,
						message,
						forged(key, (encoded) => encoded),
						'sha256',
					),
				).toBe(true);
				expect(rsaPss.verify(key, message, forged(key, change), 'sha256')).toBe(false);
			});
		}

		it('refuses a signature to which the modulus was added', () => {
			const signature = rsaPss.sign(KEY_1025, message, 'sha256', new Uint8Array(32));
			const sum = numberToBytesBE(bytesToNumberBE(signature) + bytesToNumberBE(KEY_1025.modulus), signature.length);
			expect(rsaPss.verify(KEY_1025, message, signature, 'sha256')).toBe(true);
			expect(rsaPss.verify(KEY_1025, message, sum, 'sha256')).toBe(false);
		});

		it('refuses the same keys to sign and to verify', () => {
			const { modulus, exponent, privateExponent } = KEY_1024;
			const salt = new Uint8Array(32);
			const signature = rsaPss.sign(KEY_1024, message, 'sha256', salt);
			const keys: readonly (readonly [string, RsaPrivateKey])[] = [
				['an even modulus', { modulus: flipped(modulus, 8 * 127), exponent, privateExponent }],
				['no modulus', { modulus: new Uint8Array(), exponent, privateExponent }],
				['a modulus of zero', { modulus: new Uint8Array(128), exponent, privateExponent }],
				['a modulus of 1016 bits', { modulus: modulus.slice(0, 127).fill(1, 126), exponent, privateExponent }],
				['a modulus of 4104 bits', { modulus: new Uint8Array(513).fill(0xff), exponent, privateExponent }],
				['no exponent', { modulus, exponent: new Uint8Array(), privateExponent }],
				['an exponent of zero', { modulus, exponent: Uint8Array.of(0), privateExponent }],
				['an exponent of one', { modulus, exponent: Uint8Array.of(1), privateExponent }],
				['an even exponent', { modulus, exponent: Uint8Array.of(1, 0, 0), privateExponent }],
				['an exponent of 72 bits', { modulus, exponent: new Uint8Array(9).fill(1), privateExponent }],
			];
			for (const [what, key] of keys) {
				expect(`${what}: ${codeOf(() => rsaPss.sign(key, message, 'sha256', salt))}`).toBe(`${what}: key`);
				const s = signature.length === key.modulus.length ? signature : new Uint8Array(key.modulus.length);
				expect(`${what}: ${rsaPss.verify(key, message, s, 'sha256')}`).toBe(`${what}: false`);
			}
		});

		it('signs neither with another salt length nor with a wrong private exponent', () => {
			expect(codeOf(() => rsaPss.sign(KEY_1024, message, 'sha256', new Uint8Array(31)))).toBe('length');
			expect(codeOf(() => rsaPss.sign(KEY_1024, message, 'sha384', new Uint8Array(32)))).toBe('length');
			const wrong = { ...KEY_1024, privateExponent: flipped(KEY_1024.privateExponent, 500) };
			expect(codeOf(() => rsaPss.sign(wrong, message, 'sha256', new Uint8Array(32)))).toBe('key');
			const none = { ...KEY_1024, privateExponent: new Uint8Array() };
			expect(codeOf(() => rsaPss.sign(none, message, 'sha256', new Uint8Array(32)))).toBe('key');
			const endless = { ...KEY_1024, privateExponent: new Uint8Array(129).fill(1) };
			expect(codeOf(() => rsaPss.sign(endless, message, 'sha256', new Uint8Array(32)))).toBe('key');
		});
	});
}
