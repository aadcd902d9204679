import { describe, expect, it } from 'vitest';
import { decodeGlobalState, decodeShared, encodeGlobalState, encodeShared, vmSection } from './devices.js';

describe('globalstate', () => {
	it('is the 104 bytes that QEMU 7.2 sends for a running machine (migration/global_state.c)', () => {
		const body = encodeGlobalState('running');
		expect(body).toHaveLength(104);
		expect(Buffer.from(body.subarray(0, 12)).toString('hex')).toBe('0000000872756e6e696e6700');
		expect(body.subarray(12).every((byte) => byte === 0)).toBe(true);
	});

	it.each(['running', 'paused', 'prelaunch', 'finish-migrate', ''])("'%s' comes back", (state) => {
		expect(decodeGlobalState(encodeGlobalState(state))).toBe(state);
	});

	it.each([0, 4, 103, 105])('is none with %i bytes', (length) => {
		expect(decodeGlobalState(new Uint8Array(length))).toBeUndefined();
	});

	it('is none without the end of its text', () => {
		const body = encodeGlobalState('running');
		body.fill(0x61, 4);
		expect(decodeGlobalState(body)).toBeUndefined();
	});
});

describe('the section of the VM', () => {
	const body = vmSection.encode({ migrationMsr: 1n, program: 2, vcpus: 3 });

	it('keeps its offsets: two hosts of different age must agree on them', () => {
		expect(Buffer.from(body).toString('hex')).toBe('01000000000000000200000003000000');
		expect(vmSection.decode(body)).toEqual({ migrationMsr: 1n, program: 2, vcpus: 3 });
	});

	it.each([0, 15, 17])('refuses %i bytes', (length) => {
		expect(() => vmSection.decode(new Uint8Array(length))).toThrow(/cvm\/vm/);
	});
});

describe('the section of shared ranges', () => {
	it('keeps its form', () => {
		const list = [
			{ gfnStart: 1, gfnEnd: 3 },
			{ gfnStart: 0x100000, gfnEnd: 0x100001 },
		];
		const body = encodeShared(list);
		expect(Buffer.from(body.subarray(0, 16)).toString('hex')).toBe('01000000000000000300000000000000');
		expect(decodeShared(body)).toEqual(list);
		expect(decodeShared(new Uint8Array())).toEqual([]);
	});

	it.each([
		['part of a range', new Uint8Array(17)],
		['an empty range', encodeShared([{ gfnStart: 4, gfnEnd: 4 }])],
		['a range backwards', encodeShared([{ gfnStart: 4, gfnEnd: 3 }])],
		['a range without end', encodeShared([{ gfnStart: 4, gfnEnd: 2 ** 41 }])],
		['more than are kept', new Uint8Array(16 * 65537)],
	])('refuses %s', (_, body) => {
		expect(() => decodeShared(body)).toThrow(/^cvm\/shared: expected [^\n]+$/);
	});
});
