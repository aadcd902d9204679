import { describe, expect, it } from 'vitest';
import * as abi from '../src/abi/index.js';
import { Status, statusName, statusText } from '../src/abi/status.js';
import structs from './vectors/abi.json' with { type: 'json' };

/*
 * vectors/abi.json: sizes and offsets that gcc 12 on x86-64 gives for the packed structures of Linux 6.x
 * include/linux/psp-sev.h (and sev_user_data_status of its uapi part, whose `flags` begins at our `owner`). Regenerate by
 * printing sizeof and offsetof of each structure named there.
 */
const BUFFERS = { ...abi } as unknown as Record<string, { size: number; offsetOf(field: string): number }>;

describe.each(structs)('$struct', ({ buffer, size, offsets }) => {
	it('has the size and the offsets that a C compiler gives', () => {
		const layout = BUFFERS[buffer];
		expect(layout?.size).toBe(size);
		for (const [field, offset] of Object.entries(offsets))
			expect([field, layout?.offsetOf(field)]).toEqual([field, offset]);
	});
});

describe('the command table', () => {
	const rules = Object.values(abi.COMMANDS);
	it('gives every id once', () => {
		expect(new Set(rules.map((rule) => rule.id)).size).toBe(rules.length);
	});
	it('has a buffer for every command that copies one, and none for the others', () => {
		for (const rule of rules) expect('buffer' in rule).toBe(rule.copyBack !== 'none');
	});
	it('has a row for every structure of the fixture', () => {
		const used = new Set<unknown>(rules.map((rule) => ('buffer' in rule ? rule.buffer : undefined)));
		for (const { buffer } of structs) expect(used.has(BUFFERS[buffer])).toBe(true);
	});
});

describe('status codes', () => {
	it("have the specification's names and QEMU's texts", () => {
		expect([Status.SUCCESS, Status.DF_FLUSH_REQUIRED, Status.SECURE_DATA_INVALID, Status.AEAD_OFLOW]).toEqual([
			0, 15, 24, 29,
		]);
		expect(statusName(2)).toBe('INVALID_GUEST_STATE');
		expect(statusText(7)).toBe('Policy is not allowed');
		expect(statusText(0)).toBe('');
	});
	it('stay numbers when they are unknown', () => {
		expect([statusName(0x19), statusText(0xffff)]).toEqual(['0x19', 'unknown error']);
	});
});

describe('a policy', () => {
	it.each([
		[0, 24, 0, 24, true],
		[0, 25, 0, 24, false],
		[0, 255, 1, 0, true],
		[1, 0, 0, 255, false],
		[1, 1, 1, 0, false],
	])('that wants %d.%d is met by %d.%d: %s', (wantedMajor, wantedMinor, major, minor, met) => {
		expect(abi.policyAllowsVersion(((wantedMajor << 16) | (wantedMinor << 24)) >>> 0, { major, minor })).toBe(met);
	});
	it('has reserved bits 15:6', () => {
		for (let bit = 0; bit < 32; bit++) expect(abi.policyIsWellFormed(2 ** bit)).toBe(bit < 6 || bit > 15);
	});
});
