import { nobleProvider, seededRandom } from '@cvm/crypto';
import { fromHex, toHex } from '@cvm/layout';
import {
	createLaunchSession,
	kernelHashesTable,
	launchDigest,
	packageSecret,
	privateKeyToPkcs8,
	Status,
	verifyMeasurement,
} from '@cvm/sev-hw/owner';
import { describe, expect, it } from 'vitest';
import { sevParts } from './certificates.js';
import { aesCtr, ascii, concat, ecdh, hmac, kdf128, sha256, u32 } from './openssl.js';
import { sevPlatform } from './platform.js';

const POLICY = 0x10000001;
const provider = nobleProvider;
const ownerKey = new Uint8Array(48).fill(0x41);
const part = (data: Uint8Array, at: number, length: number) => data.slice(at, at + length);

/** The keys of a channel from its session buffer (SEV API 0.24 §6.2), by OpenSSL alone. */
function unwrap(session: Uint8Array, z: Uint8Array) {
	const nonce = part(session, 0x00, 16);
	const master = kdf128(z, 'sev-master-secret', nonce);
	const [kek, kik] = [kdf128(master, 'sev-kek'), kdf128(master, 'sev-kik')];
	const wrapped = part(session, 0x10, 32);
	const tk = aesCtr(kek, part(session, 0x30, 16), wrapped);
	return { master, wrapMac: hmac(kik, wrapped), tek: tk.slice(0, 16), tik: tk.slice(16) };
}

/** A packet for LAUNCH_SECRET (SEV API 0.24 §6.6), by OpenSSL alone. */
function seal(tek: Uint8Array, tik: Uint8Array, iv: Uint8Array, secret: Uint8Array, measure: Uint8Array) {
	const payload = aesCtr(tek, iv, secret);
	const length = u32(payload.length);
	const mac = hmac(tik, Uint8Array.of(1), u32(0), iv, length, length, payload, measure);
	return { header: concat(u32(0), iv, mac), payload };
}

describe('OpenSSL as the guest owner', () => {
	const platform = sevPlatform('channel');
	const { pdh } = platform.certificates();
	const random = seededRandom('owner');
	const owner = createLaunchSession({ provider, random, platformPdh: pdh, policy: POLICY, privateKey: ownerKey });
	const z = ecdh(privateKeyToPkcs8(provider, ownerKey), sevParts(pdh).publicKey);
	const keys = unwrap(owner.session, z);
	const guest = Uint8Array.from({ length: 8192 }, (_, i) => (7 * i + 3) % 256);
	const { handle, blob } = platform.launch({ policy: POLICY, ...owner }, guest);

	it('agrees on the shared point', () => {
		expect(toHex(z)).toBe(toHex(provider.p384.ecdh(ownerKey, pointOf(pdh))));
	});

	it('derives the same master secret and unwraps the same keys', () => {
		expect(keys.master).toEqual(owner.keys.masterSecret);
		expect(keys.tek).toEqual(owner.keys.tek);
		expect(keys.tik).toEqual(owner.keys.tik);
	});

	it('agrees on both MACs of the session buffer', () => {
		expect(part(owner.session, 0x40, 32)).toEqual(keys.wrapMac);
		expect(part(owner.session, 0x60, 32)).toEqual(hmac(keys.tik, u32(POLICY)));
	});

	it('computes the launch digest and the measurement that the firmware answers', () => {
		const digest = sha256(guest);
		expect(launchDigest(provider, [guest])).toEqual(digest);
		const { major, minor, build } = platform.version;
		const version = Uint8Array.of(4, major, minor, build);
		expect(part(blob, 0, 32)).toEqual(hmac(keys.tik, version, u32(POLICY), digest, part(blob, 32, 16)));
		const expected = { tik: keys.tik, version: platform.version, policy: POLICY, digest };
		expect(verifyMeasurement(provider, blob, expected)).toBe(Status.SUCCESS);
	});

	it('hashes kernel, initrd and command line into the same table', () => {
		const [kernel, initrd, commandLine] = [ascii('kernel'), ascii('initrd'), ascii('console=ttyS0')];
		const table = kernelHashesTable(provider, { kernel, initrd, commandLine });
		expect(part(table, 0x24, 32)).toEqual(sha256(commandLine, Uint8Array.of(0)));
		expect(part(table, 0x56, 32)).toEqual(sha256(initrd));
		expect(part(table, 0x88, 32)).toEqual(sha256(kernel));
	});

	it('packages a secret that the firmware takes, bit for bit as this package does', () => {
		const measure = part(blob, 0, 32);
		const secret = Uint8Array.from({ length: 64 }, (_, i) => 0xff - i);
		const ours = packageSecret({ provider, random, keys: owner.keys, measure, secret });
		const theirs = seal(keys.tek, keys.tik, part(ours.header, 4, 16), secret, measure);
		expect(ours).toEqual(theirs);
		platform.inject(handle, theirs);
		const forged = { ...theirs, payload: theirs.payload.map((byte, i) => (i === 0 ? byte ^ 1 : byte)) };
		expect(() => platform.inject(handle, forged)).toThrow('BAD_MEASUREMENT');
	});

	it('counts as we do where the counter runs over', () => {
		const iv = new Uint8Array(16).fill(0xff);
		const keyBytes = { tek: fromHex('000102030405060708090a0b0c0d0e0f'), tik: keys.tik };
		const secret = new Uint8Array(48);
		const measure = new Uint8Array(32);
		const fixed = { bytes: () => iv.slice(), fill: (out: Uint8Array) => void out.set(iv) };
		const ours = packageSecret({ provider, random: fixed, keys: keyBytes, measure, secret });
		expect(ours).toEqual(seal(keyBytes.tek, keyBytes.tik, iv, secret, measure));
	});
});

/** The point of a certificate, cut out by offset. */
function pointOf(cert: Uint8Array) {
	const coordinate = (at: number) => cert.slice(at, at + 48).reverse();
	return { x: coordinate(0x14), y: coordinate(0x5c) };
}
