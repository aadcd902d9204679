import { describe, expect, it } from 'vitest';
import { decodeGlobalState, encodeGlobalState, vmSection } from './devices.js';

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
