import { createECDH, createPrivateKey } from 'node:crypto';
import { nobleProvider } from '@cvm/crypto';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { flipBit, join, scalar } from '../../test/fake-platform.js';
import { privateKeyFromDer, privateKeyToPkcs8, privateKeyToSec1 } from './index.js';

const provider = nobleProvider;
const key = scalar(0x21);
const sec1 = privateKeyToSec1(provider, key);
const pkcs8 = privateKeyToPkcs8(provider, key);
const refusal = expect.objectContaining({ name: 'OwnerError', code: 'key' });

describe('private keys in DER', () => {
	it.each([
		['sec1', sec1],
		['pkcs8', pkcs8],
	] as const)('are read by Node, and are the bytes that Node writes: %s', (type, der) => {
		const imported = createPrivateKey({ key: Buffer.from(der), format: 'der', type });
		expect(imported.asymmetricKeyDetails).toEqual({ namedCurve: 'secp384r1' });
		expect(Buffer.from(imported.export({ format: 'jwk' }).d ?? '', 'base64url')).toEqual(Buffer.from(key));
		expect(Uint8Array.from(imported.export({ format: 'der', type }))).toEqual(der);
	});

	it('are read back', () => {
		expect(privateKeyFromDer(provider, sec1)).toEqual(key);
		expect(privateKeyFromDer(provider, pkcs8)).toEqual(key);
	});

	it('take a scalar that begins with zeros', () => {
		const small = new Uint8Array(48);
		small[47] = 7;
		const fromNode = createECDH('secp384r1');
		fromNode.setPrivateKey(Buffer.from(small));
		expect(Buffer.from(privateKeyToSec1(provider, small)).includes(fromNode.getPublicKey())).toBe(true);
		expect(privateKeyFromDer(provider, privateKeyToPkcs8(provider, small))).toEqual(small);
	});

	test.prop([fc.constantFrom(sec1, pkcs8), fc.nat({ max: 8 * 164 - 1 })])(
		'are refused with a flipped bit',
		(der, bit) => {
			expect(() => privateKeyFromDer(provider, flipBit(der, bit))).toThrow(refusal);
		},
	);

	test.prop([fc.constantFrom(sec1, pkcs8), fc.nat({ max: 184 })], { numRuns: 40 })(
		'are refused when cut',
		(der, length) => {
			fc.pre(length < der.length);
			expect(() => privateKeyFromDer(provider, der.subarray(0, length))).toThrow(refusal);
		},
	);

	it('are refused with a tail, on another curve, and empty', () => {
		const other = createECDH('secp256k1').generateKeys();
		for (const bad of [join(sec1, Uint8Array.of(0)), new Uint8Array(0), Uint8Array.from(other)]) {
			expect(() => privateKeyFromDer(provider, bad)).toThrow(refusal);
		}
	});

	it.each([new Uint8Array(48), scalar(0xff), scalar(1).subarray(1)])('are not made of what is no scalar', (bad) => {
		expect(() => privateKeyToSec1(provider, bad)).toThrow(refusal);
		expect(() => privateKeyToPkcs8(provider, bad)).toThrow(refusal);
	});
});
