import { nobleProvider } from '@cvm/crypto';
import { fromHex, toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { flipBit } from '../../test/fake-platform.js';
import { Status } from '../abi/status.js';
import { openPacket, PacketContext, packetHeader, packetMac, sealPacket } from './packet.js';

const provider = nobleProvider;
const counting = (start: number, length = 16) => Uint8Array.from({ length }, (_, i) => start + i);
const keys = { tek: counting(0x00), tik: counting(0x10) };
const iv = counting(0x20);
const measure = counting(0x80, 32);
const context = PacketContext.data;

describe('data packets with every input fixed (own computation, by an independent script)', () => {
	it('seals 16 zero bytes', () => {
		const { header, payload } = sealPacket(provider, keys, { context, iv, plaintext: new Uint8Array(16) });
		expect(toHex(payload)).toBe('5be87e2e5b447c944b21c9af7756c0d8');
		expect(header).toEqual(
			fromHex(`00000000 202122232425262728292a2b2c2d2e2f
				c81fdc6cf7def343cccad0171628f4d09810893011bf5ac4b36117f0a9efb21e`),
		);
	});

	it('seals a page', () => {
		const plaintext = Uint8Array.from({ length: 4096 }, (_, i) => 7 * i + 3);
		const { header, payload } = sealPacket(provider, keys, { context, iv, plaintext });
		expect(toHex(payload.subarray(0, 16))).toBe('58e26f36446251a0706380ff2008a5b4');
		expect(toHex(provider.digest('sha256', payload))).toBe(
			'ff11ff92e81cced97e3dde55bd721fbcf5f87033f57feb0c5ba85cfc9ae82576',
		);
		expect(toHex(packetHeader.decode(header).mac)).toBe(
			'ac8a0ca19bcef109b40f88610862da59715874d4198ff4fb7fe72546422a0279',
		);
	});

	it('carries the counter over all 128 bits', () => {
		const wrapping = { context, iv: new Uint8Array(16).fill(0xff), plaintext: new Uint8Array(32) };
		const { header, payload } = sealPacket(provider, keys, wrapping);
		expect(toHex(payload)).toBe('3c441f32ce07822364d7a2990e50bb13c6a13b37878f5b826f4f8162a1c8d879');
		expect(toHex(packetHeader.decode(header).mac)).toBe(
			'6ec3a9ee98069b6e5f4ab6d804d465cbf3a2f1b6fb5a3593123b7f1ea93df182',
		);
	});
});

describe('openPacket', () => {
	const plaintext = counting(1, 64);
	const sealed = sealPacket(provider, keys, { context, iv, plaintext });
	const packet = { context, header: sealed.header, guestLength: 64, payload: sealed.payload };
	const open = (change: Partial<Parameters<typeof openPacket>[2]>) =>
		openPacket(provider, keys, { ...packet, ...change });
	const refused = { status: Status.BAD_MEASUREMENT };
	const withFlags = (flags: number, of: number, m?: Uint8Array) => {
		const input = { context: of, flags, iv, guestLength: 64, transLength: 64, ciphertext: sealed.payload };
		const mac = packetMac(provider, keys.tik, m ? { ...input, measure: m } : input);
		return packetHeader.encode({ flags, iv, mac });
	};

	test.prop([
		fc.constantFrom(1, 2, 4),
		fc.uint8Array({ minLength: 16, maxLength: 16 }),
		fc.uint8Array({ minLength: 1, maxLength: 200 }),
	])('gives back what was sealed', (of, otherIv, data) => {
		const { header, payload } = sealPacket(provider, keys, { context: of, iv: otherIv, plaintext: data });
		expect(openPacket(provider, keys, { context: of, header, guestLength: data.length, payload })).toEqual({
			status: Status.SUCCESS,
			plaintext: data,
		});
	});

	it('refuses every flipped bit of the header, except COMPRESSED, which is refused first', () => {
		for (let bit = 1; bit < 52 * 8; bit++) expect(open({ header: flipBit(sealed.header, bit) })).toEqual(refused);
		expect(open({ header: flipBit(sealed.header, 0) })).toEqual({ status: Status.UNSUPPORTED });
	});

	it('refuses every flipped bit of the payload', () => {
		for (let bit = 0; bit < 64 * 8; bit++) expect(open({ payload: flipBit(sealed.payload, bit) })).toEqual(refused);
	});

	it('refuses another length, context, measurement or key', () => {
		expect(open({ guestLength: 48 })).toEqual(refused);
		expect(open({ payload: sealed.payload.subarray(0, 48) })).toEqual(refused);
		expect(open({ payload: sealed.payload.subarray(0, 48), guestLength: 48 })).toEqual(refused);
		expect(open({ context: PacketContext.secret })).toEqual(refused);
		expect(open({ context: PacketContext.measure })).toEqual(refused);
		expect(open({ measure })).toEqual(refused);
		expect(openPacket(provider, { ...keys, tik: counting(0x11) }, packet)).toEqual(refused);
	});

	it('refuses a header that is cut off, and ignores bytes behind a whole one', () => {
		expect(open({ header: sealed.header.subarray(0, 51) })).toEqual({ status: Status.INVALID_LENGTH });
		const longer = new Uint8Array(60).fill(9);
		longer.set(sealed.header);
		expect(open({ header: longer }).status).toBe(Status.SUCCESS);
	});

	it('authenticates the flags that it ignores', () => {
		expect(open({ header: withFlags(0xfffffffe, context) })).toEqual({ status: Status.SUCCESS, plaintext });
	});

	it('refuses compression before the MAC in data packets and after it in secrets', () => {
		const forged = packetHeader.encode({ flags: 1, iv, mac: new Uint8Array(32) });
		const secret = { context: PacketContext.secret, measure };
		expect(open({ header: forged })).toEqual({ status: Status.UNSUPPORTED });
		expect(open({ ...secret, header: forged })).toEqual(refused);
		expect(open({ ...secret, header: withFlags(1, PacketContext.secret, measure) })).toEqual({
			status: Status.UNSUPPORTED,
		});
	});

	it('binds a secret to its measurement', () => {
		const secret = { context: PacketContext.secret, iv, plaintext, measure };
		const { header, payload } = sealPacket(provider, keys, secret);
		const p = { context: PacketContext.secret, header, guestLength: 64, payload };
		expect(openPacket(provider, keys, { ...p, measure })).toEqual({ status: Status.SUCCESS, plaintext });
		expect(openPacket(provider, keys, { ...p, measure: flipBit(measure, 7) })).toEqual(refused);
		expect(openPacket(provider, keys, p)).toEqual(refused);
	});
});
