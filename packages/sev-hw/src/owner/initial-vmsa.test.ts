import { nodeProvider } from '@cvm/crypto/node';
import { fromHex, guidToBytes, toHex } from '@cvm/layout';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { join } from '../../test/fake-platform.js';
import { vmsa, vmsaSegment } from '../vmsa/layout.js';
import {
	CPU_SIGNATURES,
	cpuSignature,
	guestLaunchDigest,
	initialVmsa,
	kernelHashesTable,
	launchDigest,
	readSevBlocks,
} from './index.js';

const provider = nodeProvider;
const RESET = '00f771de-1a7e-4fcb-890e-68c77e2fb44e';
const HASHES = '7255371f-3a3b-4b04-927b-1da6efa8d454';
const FOOTER = '96b582de-1fb2-45f7-baea-a366c55a082d';
const firmwareError = (message: string) =>
	expect.objectContaining({ name: 'OwnerError', code: 'firmware', message: expect.stringContaining(message) });

const entry = (guid: string, data: Uint8Array, length = data.length + 18) =>
	join(data, Uint8Array.of(length & 0xff, length >> 8), guidToBytes(guid));
/** The end of an image with these entries, the first one visited last. */
function image(
	entries: readonly Uint8Array[],
	{ front = 64, total = undefined as number | undefined } = {},
): Uint8Array {
	const inner = join(...entries);
	const footer = entry(FOOTER, new Uint8Array(0), total ?? inner.length + 18);
	return join(new Uint8Array(front).fill(0xcc), inner, footer, new Uint8Array(32));
}
const reset = entry(RESET, fromHex('04b08000'));
const hashes = entry(HASHES, fromHex('00fc8000 00040000'));

describe('readSevBlocks', () => {
	it('finds both blocks in either order, among others', () => {
		const other = entry('4c2eb361-7d9b-4cc3-8081-127c90d3d294', new Uint8Array(8));
		const expected = { apResetVector: 0x80b004, hashTable: { base: 0x80fc00, size: 0x400 } };
		expect(readSevBlocks(image([reset, other, hashes]))).toEqual(expected);
		expect(readSevBlocks(image([hashes, reset, other]))).toEqual(expected);
	});

	it('takes a hash table at 0 as unsupported, and what is not there as absent', () => {
		expect(readSevBlocks(image([entry(HASHES, new Uint8Array(8))]))).toEqual({});
		expect(readSevBlocks(image([reset]))).toEqual({ apResetVector: 0x80b004 });
		expect(readSevBlocks(image([]))).toEqual({});
		expect(readSevBlocks(new Uint8Array(4096))).toEqual({});
		expect(readSevBlocks(new Uint8Array(10))).toEqual({});
	});

	it('lets the entry nearest to the end win, as QEMU does', () => {
		expect(readSevBlocks(image([entry(RESET, fromHex('01000000')), reset])).apResetVector).toBe(0x80b004);
	});

	it.each([
		['a table longer than the image', image([reset], { total: 400 })],
		['a table shorter than its footer', image([reset], { total: 17 })],
		['an entry longer than the table', image([entry(RESET, new Uint8Array(4), 23)])],
		['an entry shorter than its header', image([entry(RESET, new Uint8Array(4), 17)])],
	])('refuses %s', (_, bad) => {
		expect(() => readSevBlocks(bad)).toThrow(firmwareError('expected one that fits the table'));
	});

	it.each([
		['reset block', entry(RESET, new Uint8Array(3)), 'expected 4 bytes, got 3'],
		['hash table', entry(HASHES, new Uint8Array(7)), 'expected 8 bytes, got 7'],
	])('refuses a short %s', (_, bad, message) => {
		expect(() => readSevBlocks(image([bad]))).toThrow(firmwareError(message));
	});

	test.prop([fc.uint8Array({ maxLength: 200 })])('answers or refuses with one line, whatever the bytes', (noise) => {
		try {
			readSevBlocks(join(noise, image([]).subarray(-50)));
		} catch (error) {
			expect(error).toMatchObject({ name: 'OwnerError', code: 'firmware' });
		}
	});
});

describe('CPU_SIGNATURES', () => {
	it.each([
		['EPYC-v4', 0x800f12],
		['EPYC-Rome', 0x830f10],
		['EPYC-Milan', 0xa00f11],
		['EPYC-Genoa', 0xa10f10],
		['EPYC-Turin', 0xb00f00],
	] as const)('%s is packed as CPUID says it (own computation)', (name, signature) => {
		expect(CPU_SIGNATURES[name]).toBe(signature);
	});

	it('keeps a family of at most 15 in one field (own computation)', () => {
		expect(cpuSignature({ family: 6, model: 0x2a, stepping: 7 })).toBe(0x206a7);
		expect(cpuSignature({ family: 0xf, model: 0, stepping: 0 })).toBe(0xf00);
		expect(cpuSignature({ family: 0x10, model: 0, stepping: 0 })).toBe(0x100f00);
	});
});

describe('initialVmsa', () => {
	const signature = CPU_SIGNATURES['EPYC-v4'];
	const decode = (area: Uint8Array) => vmsa.decode(area);

	it('starts the first virtual CPU at the reset vector, and the others where the firmware says', () => {
		const boot = decode(initialVmsa({ vcpu: 0, signature, apResetVector: 0x80b004 }));
		const other = decode(initialVmsa({ vcpu: 3, signature, apResetVector: 0x80b004 }));
		expect([boot.rip, vmsaSegment.decode(boot.cs).base]).toEqual([0xfff0n, 0xffff0000n]);
		expect([other.rip, vmsaSegment.decode(other.cs).base]).toEqual([0xb004n, 0x800000n]);
		expect({ ...other, rip: boot.rip, cs: boot.cs }).toEqual(boot);
	});

	it('fills in the floating-point part unless it is told not to', () => {
		const full = initialVmsa({ vcpu: 0, signature });
		const bare = initialVmsa({ vcpu: 0, signature, fpuInit: false });
		expect([decode(full).mxcsr, decode(full).fcw]).toEqual([0x1f80, 0x37f]);
		expect(toHex(full.subarray(0x400, 0x412))).toBe('0000000000000000801f0000000000007f03');
		expect(bare.subarray(0x3f0).every((byte) => byte === 0)).toBe(true);
		expect(bare.subarray(0, 0x3f0)).toEqual(full.subarray(0, 0x3f0));
	});

	it('carries the processor signature and the features', () => {
		const area = decode(initialVmsa({ vcpu: 0, signature, sevFeatures: 0x21n }));
		expect([area.rdx, area.sevFeatures]).toEqual([0x800f12n, 0x21n]);
		expect(decode(initialVmsa({ vcpu: 0, signature })).sevFeatures).toBe(0n);
	});

	it('refuses a second virtual CPU without a reset vector', () => {
		expect(() => initialVmsa({ vcpu: 1, signature })).toThrow(firmwareError("virtual CPU 1: expected the firmware's"));
	});
});

describe('guestLaunchDigest', () => {
	const firmware = image([reset, hashes]);
	const signature = CPU_SIGNATURES['EPYC-Milan'];
	const start = { signature, apResetVector: 0x80b004 };
	const boot = { kernel: Uint8Array.of(1), commandLine: Uint8Array.of(0x61) };
	const digest = (...parts: Uint8Array[]) => launchDigest(provider, [firmware, ...parts]);

	it('is firmware, hashes, save areas, in this order, each only where there are any', () => {
		const areas = [0, 1, 2].map((vcpu) => initialVmsa({ ...start, vcpu }));
		const table = kernelHashesTable(provider, boot);
		const vcpus = { signature, count: 3 };
		expect(guestLaunchDigest(provider, { firmware })).toEqual(digest());
		expect(guestLaunchDigest(provider, { firmware, boot })).toEqual(digest(table));
		expect(guestLaunchDigest(provider, { firmware, vcpus })).toEqual(digest(...areas));
		expect(guestLaunchDigest(provider, { firmware, boot, vcpus })).toEqual(digest(table, ...areas));
	});

	it('takes a reset vector that is given before the one in the image', () => {
		const given = { signature, apResetVector: 0x1234 };
		const areas = [0, 1].map((vcpu) => initialVmsa({ ...given, vcpu }));
		expect(guestLaunchDigest(provider, { firmware, vcpus: { ...given, count: 2 } })).toEqual(digest(...areas));
	});

	it('needs a reset block only for a second virtual CPU', () => {
		const plain = new Uint8Array(4096);
		const one = { firmware: plain, vcpus: { signature, count: 1 } };
		const area = initialVmsa({ signature, vcpu: 0 });
		expect(guestLaunchDigest(provider, one)).toEqual(launchDigest(provider, [plain, area]));
		expect(() => guestLaunchDigest(provider, { firmware: plain, vcpus: { signature, count: 2 } })).toThrow(
			firmwareError('virtual CPU 1'),
		);
	});

	it('refuses kernel hashes for a firmware that has no place for them', () => {
		expect(() => guestLaunchDigest(provider, { firmware: image([reset]), boot })).toThrow(
			firmwareError('kernel hashes: expected a firmware with a hash table'),
		);
	});

	it.each([0, -1, 1.5, Number.NaN, 4097])('refuses %d virtual CPUs', (count) => {
		expect(() => guestLaunchDigest(provider, { firmware, vcpus: { signature, count } })).toThrow(
			`virtual CPUs: expected 1 to 4096, got ${count}`,
		);
	});
});
