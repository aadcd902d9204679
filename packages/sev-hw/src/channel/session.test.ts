import { nobleProvider, seededRandom } from '@cvm/crypto';
import { fromHex, toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { countingRandom, flipBit, scalar } from '../../test/fake-platform.js';
import { Status } from '../abi/status.js';
import { createSession, deriveMasterSecret, openSession, policyMac, sessionBuffer, wrappingKeys } from './session.js';

const provider = nobleProvider;
const client = { privateKey: scalar(1), publicKey: provider.p384.publicKey(scalar(1)) };
const server = { privateKey: scalar(2), publicKey: provider.p384.publicKey(scalar(2)) };
const zeros = (length: number) => new Uint8Array(length);

describe('published vectors (virtee/sev test suite; SEV API 0.24 §6.2)', () => {
	it('derives the master secret', () => {
		expect(toHex(deriveMasterSecret(provider, zeros(16), zeros(16)))).toBe('ab4d269fcc62bedb4511d56c386ce706');
	});

	it('wraps TEK and TIK of zeros under that master secret', () => {
		const { kek, kik } = wrappingKeys(provider, fromHex('ab4d269fcc62bedb4511d56c386ce706'));
		expect(toHex(kek)).toBe('b6abfbfb75ea1ea74ed8750b8afdb973');
		expect(toHex(kik)).toBe('53b524bf5669a363f365c864acba8572');
		const wrapTk = fromHex('2137bc7f9bb8bd7c3e55a576a15d3454 b3856b8ba27afadf46dcfee9f02c02c4');
		expect(toHex(provider.hmacSha256(kik, wrapTk))).toBe(
			'3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d',
		);
	});

	it('authenticates policy 0 under a TIK of zeros', () => {
		expect(toHex(policyMac(provider, zeros(16), 0))).toBe(
			'aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af',
		);
	});
});

describe('a session with every input fixed (own computation, by an independent script)', () => {
	// Draw order: TEK 20…2f, TIK 30…3f, nonce 10…1f, WRAP_IV 40…4f.
	const random = () => countingRandom(0x20, 0x30, 0x10, 0x40);
	const options = { privateKey: client.privateKey, peer: server.publicKey, policy: 0x25 };
	const expected = `
		101112131415161718191a1b1c1d1e1f 89008427d59af48a57cc0c14e54281b0
		303c8c19cc11856cb93e277484accd50 404142434445464748494a4b4c4d4e4f
		08458271796a934bafbe4e5971fa3fd9 fe094dacd83364439887e6fe79cb7838
		ecb7132d6bb36a4613d63075acc3bdae 4626bb854b83d82f0ea4461b07e8ce30`;

	it('agrees on Z and derives the keys from it', () => {
		const z = provider.p384.ecdh(client.privateKey, server.publicKey);
		expect(toHex(z)).toBe(
			'49ca5424673f106fc1968da5deb509bb51af15f9a4ffda8f0a41dd2528a086e7a9f0f24b9b2ac7f90577c5363ce9a445',
		);
		const masterSecret = deriveMasterSecret(provider, z, fromHex('101112131415161718191a1b1c1d1e1f'));
		expect(toHex(masterSecret)).toBe('ada6b461333e2cbeea201cc05036ebbd');
		const { kek, kik } = wrappingKeys(provider, masterSecret);
		expect(toHex(kek)).toBe('15ca880010ecffc8cfd646f9339ec8e4');
		expect(toHex(kik)).toBe('792623b4d9654e52a2abeeb8e377d4e1');
	});

	it('makes the 128 bytes', () => {
		const { session, keys } = createSession(provider, random(), options);
		expect(session).toEqual(fromHex(expected));
		expect(toHex(keys.tek)).toBe('202122232425262728292a2b2c2d2e2f');
		expect(toHex(keys.tik)).toBe('303132333435363738393a3b3c3d3e3f');
		expect(toHex(keys.masterSecret)).toBe('ada6b461333e2cbeea201cc05036ebbd');
	});

	it('is opened by the server to the same keys', () => {
		const { session, keys } = createSession(provider, random(), options);
		const opened = openSession(provider, { privateKey: server.privateKey, peer: client.publicKey, session });
		expect(opened).toEqual({ status: Status.SUCCESS, keys });
	});
});

describe('openSession', () => {
	const { session } = createSession(provider, seededRandom('session'), {
		privateKey: client.privateKey,
		peer: server.publicKey,
		policy: 1,
	});
	const open = (changed: Uint8Array) =>
		openSession(provider, { privateKey: server.privateKey, peer: client.publicKey, session: changed });

	test.prop([fc.constantFrom([0x00, 0x10], [0x10, 0x30], [0x40, 0x60]), fc.nat({ max: 255 })], { numRuns: 60 })(
		'refuses a flipped bit in nonce, wrapped keys or their MAC',
		([start, end], offset) => {
			const changed = flipBit(session, start * 8 + (offset % ((end - start) * 8)));
			expect(open(changed)).toEqual({ status: Status.BAD_MEASUREMENT });
		},
	);

	it('does not notice a changed WRAP_IV, which the MAC leaves out: the keys come out different', () => {
		const opened = open(flipBit(session, 0x30 * 8));
		expect(opened.status).toBe(Status.SUCCESS);
		expect(opened.keys?.tik).not.toEqual(open(session).keys?.tik);
	});

	it('leaves the policy MAC to the caller', () => {
		const changed = flipBit(session, 0x60 * 8);
		const tik = open(changed).keys?.tik;
		expect(tik).toBeDefined();
		expect(policyMac(provider, tik ?? zeros(16), 1)).not.toEqual(sessionBuffer.decode(changed).policyMac);
		expect(policyMac(provider, tik ?? zeros(16), 1)).toEqual(sessionBuffer.decode(session).policyMac);
	});

	it('refuses a session made for another server or by another client', () => {
		const elsewhere = { privateKey: scalar(3), peer: client.publicKey, session };
		const stranger = { privateKey: server.privateKey, peer: provider.p384.publicKey(scalar(3)), session };
		expect(openSession(provider, elsewhere)).toEqual({ status: Status.BAD_MEASUREMENT });
		expect(openSession(provider, stranger)).toEqual({ status: Status.BAD_MEASUREMENT });
	});

	it('refuses a peer off the curve and a buffer of another length', () => {
		const peer = { ...client.publicKey, y: scalar(7) };
		expect(openSession(provider, { privateKey: server.privateKey, peer, session })).toEqual({
			status: Status.INVALID_CERTIFICATE,
		});
		expect(open(session.subarray(1))).toEqual({ status: Status.INVALID_LENGTH });
		expect(open(zeros(129))).toEqual({ status: Status.INVALID_LENGTH });
	});
});

describe('policyMac', () => {
	test.prop([fc.nat({ max: 0xffffffff }), fc.nat({ max: 31 })])(
		'depends on each of the 32 policy bits',
		(policy, bit) => {
			const changed = (policy ^ (1 << bit)) >>> 0;
			expect(policyMac(provider, zeros(16), changed)).not.toEqual(policyMac(provider, zeros(16), policy));
		},
	);
});
