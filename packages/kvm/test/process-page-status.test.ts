import { describe, expect, it } from 'vitest';
import { kvmPageEncBitmap, kvmSharedPagesEntry, kvmSharedPagesList, PAGE_STATUS_IOCTLS } from '../src/abi/index.js';
import { VmWord } from '../src/vm-state.js';
import { contextAt, NOWHERE, program, sevGuest, vmOf } from './process-rig.js';

const request = (series: keyof typeof PAGE_STATUS_IOCTLS) => {
	const numbers = PAGE_STATUS_IOCTLS[series];
	return { get: numbers?.get ?? 0, set: numbers?.set ?? 0, reset: numbers?.reset ?? 0 };
};

describe('the page status of earlier postings', () => {
	it('v5: GET writes exactly as many bits as asked for, and RESET has no argument', () => {
		const p = program({ series: 'v5' });
		const { vm } = sevGuest(p);
		const { get, set, reset } = request('v5');
		const encBitmap = p.put(Uint8Array.of(0b1111_0101, 0xff, 0, 0, 0, 0, 0, 0));
		const ask = kvmPageEncBitmap.encode({ startGfn: 0n, numPages: 12n, encBitmap });
		expect(p.process.ioctl(vm, set, ask)).toBe(0);
		const out = p.put(new Uint8Array(8));
		expect(p.process.ioctl(vm, get, kvmPageEncBitmap.encode({ numPages: 12n, encBitmap: out }))).toBe(0);
		expect([...p.at(out, 8)]).toEqual([0b1111_0101, 0x0f, 0, 0, 0, 0, 0, 0]);
		expect(p.process.ioctl(vm, reset, 0xdead)).toBe(0);
		expect(p.process.ioctl(vm, get, kvmPageEncBitmap.encode({ numPages: 12n, encBitmap: out }))).toBe(0);
		expect([...p.at(out, 2)]).toEqual([0xff, 0x0f]);
	});

	it('refuses what cannot be read, and what is too much, before it copies', () => {
		const p = program({ series: 'v5' });
		const { vm } = sevGuest(p);
		const { get, set } = request('v5');
		const bitmap = (fields: Parameters<typeof kvmPageEncBitmap.encode>[0]) => kvmPageEncBitmap.encode(fields);
		for (const number of [get, set]) {
			expect(p.process.ioctl(vm, number, NOWHERE)).toBe(-14);
			expect(p.process.ioctl(vm, number, bitmap({ numPages: 1n, encBitmap: NOWHERE }))).toBe(-14);
			expect(p.process.ioctl(vm, number, bitmap({ numPages: 1n << 63n, encBitmap: NOWHERE }))).toBe(-12);
			expect(p.process.ioctl(p.createVm(), number, bitmap({ numPages: 1n }))).toBe(-25);
		}
	});

	it('v10: GET and SET of the list, whose entries are added to those there are', () => {
		const p = program({ series: 'v10' });
		const { vm } = sevGuest(p);
		Atomics.store(contextAt(p, vm).words, VmWord.liveMigration, 1);
		const { get, set } = request('v10');
		const entries = p.put(kvmSharedPagesEntry.encode({ gfnStart: 3n, gfnEnd: 9n }));
		const pnents = p.put(Uint8Array.of(1, 0, 0, 0));
		expect(p.process.ioctl(vm, set, kvmSharedPagesList.encode({ pnents, buffer: entries }))).toBe(0);
		const buffer = p.put(new Uint8Array(64));
		const found = p.put(new Uint8Array(4));
		expect(p.process.ioctl(vm, get, kvmSharedPagesList.encode({ pnents: found, buffer, size: 15 }))).toBe(-7);
		expect(p.process.ioctl(vm, get, kvmSharedPagesList.encode({ pnents: NOWHERE, buffer, size: 64 }))).toBe(-14);
		expect(p.process.ioctl(vm, get, kvmSharedPagesList.encode({ pnents: found, buffer, size: 64 }))).toBe(0);
		expect([...p.at(found, 4)]).toEqual([1, 0, 0, 0]);
		expect(kvmSharedPagesEntry.decode(p.at(buffer, 16))).toEqual({ gfnStart: 3n, gfnEnd: 9n });
		const many = p.put(Uint8Array.of(0xff, 0xff, 0xff, 0xff));
		expect(p.process.ioctl(vm, set, kvmSharedPagesList.encode({ pnents: many, buffer }))).toBe(-14);
		expect(p.process.ioctl(vm, set, kvmSharedPagesList.encode({ pnents, buffer: 0n }))).toBe(0);
		expect(vmOf(p, vm).pageStatus.getSharedList({ size: 64 }).entries).toEqual([]);
	});

	it('is no ioctl of v12 and later', () => {
		const p = program({ abi: 'v12' });
		const { vm } = sevGuest(p);
		expect(p.process.ioctl(vm, request('v5').get, new Uint8Array(24))).toBe(-25);
		expect(p.process.ioctl(vm, request('v10').get, new Uint8Array(24))).toBe(-25);
	});
});
