import { describe, expect, it } from 'vitest';
import { kvmPageEncBitmap, kvmSharedPagesEntry, kvmSharedPagesList, PAGE_STATUS_IOCTLS } from '../src/abi/index.js';
import { VmWord } from '../src/vm/state.js';
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
		expect(p.process.ioctl(vm, set, kvmSharedPagesList.encode({ pnents: many, buffer }))).toBe(-12);
		expect(p.process.ioctl(vm, set, kvmSharedPagesList.encode({ pnents, buffer: 0n }))).toBe(0);
		expect(vmOf(p, vm).pageStatus.getSharedList({ size: 64 }).entries).toEqual([]);
	});

	it('v10: asks for a SEV guest, then for what the guest enabled, then for room, before it looks at memory', () => {
		const p = program({ series: 'v10' });
		const { vm } = sevGuest(p);
		const { get, set } = request('v10');
		const list = (fields: Parameters<typeof kvmSharedPagesList.encode>[0]) =>
			kvmSharedPagesList.encode({ pnents: NOWHERE, buffer: NOWHERE, size: 64, ...fields });
		const plain = p.createVm();
		for (const number of [get, set]) {
			expect(p.process.ioctl(plain, number, new Uint8Array(23))).toBe(-14);
			expect(p.process.ioctl(plain, number, list({}))).toBe(-25);
		}
		expect(p.process.ioctl(vm, get, list({}))).toBe(-22);
		Atomics.store(contextAt(p, vm).words, VmWord.liveMigration, 1);
		expect(p.process.ioctl(vm, get, list({ size: 0 }))).toBe(-22);
		expect(p.process.ioctl(vm, get, list({}))).toBe(-14);
		const pnents = p.put(Uint8Array.of(9, 9, 9, 9));
		expect(p.process.ioctl(vm, get, list({ pnents, size: 1 }))).toBe(0);
		expect([...p.at(pnents, 4)]).toEqual([0, 0, 0, 0]);
		expect(p.process.ioctl(vm, set, list({}))).toBe(-14);
		const one = p.put(Uint8Array.of(1, 0, 0, 0));
		expect(p.process.ioctl(vm, set, list({ pnents: one }))).toBe(-14);
		// More than KVM could copy: nothing is read.
		expect(p.process.ioctl(vm, set, list({ pnents: p.put(Uint8Array.of(1, 0, 4, 0)) }))).toBe(-12);
	});

	it.each([
		['no entries', 0n],
		['no buffer', 1n],
	])('v10: SET with %s clears the list', (_, count) => {
		const p = program({ series: 'v10' });
		const { vm } = sevGuest(p);
		const { set } = request('v10');
		const buffer = p.put(kvmSharedPagesEntry.encode({ gfnStart: 3n, gfnEnd: 9n }));
		const pnents = (n: bigint) => p.put(Uint8Array.of(Number(n), 0, 0, 0));
		const add = kvmSharedPagesList.encode({ pnents: pnents(1n), buffer });
		expect([p.process.ioctl(vm, set, add), p.process.ioctl(vm, set, add)]).toEqual([0, 0]);
		Atomics.store(contextAt(p, vm).words, VmWord.liveMigration, 1);
		expect(vmOf(p, vm).pageStatus.getSharedList({ size: 64 }).entries).toHaveLength(2);
		const clear = kvmSharedPagesList.encode({ pnents: pnents(count), buffer: count === 0n ? buffer : 0n });
		expect(p.process.ioctl(vm, set, clear)).toBe(0);
		expect(vmOf(p, vm).pageStatus.getSharedList({ size: 64 }).entries).toEqual([]);
	});

	it.each(['v7', 'v8', 'v9'] as const)(
		'%s: GET is EINVAL until the guest enabled it, SET without a bitmap resets',
		(series) => {
			const p = program({ series });
			const { vm } = sevGuest(p);
			const { get, set } = request(series);
			const clear = p.put(new Uint8Array(8));
			const out = p.put(new Uint8Array(8));
			const call = (number: number, encBitmap: bigint, numPages = 8n) =>
				p.process.ioctl(vm, number, kvmPageEncBitmap.encode({ numPages, encBitmap }));
			expect(call(get, NOWHERE)).toBe(-22);
			Atomics.store(contextAt(p, vm).words, VmWord.liveMigration, 1);
			expect(call(get, NOWHERE)).toBe(-14);
			expect([call(set, clear), call(get, out), p.at(out, 1)[0]]).toEqual([0, 0, 0]);
			expect([call(set, 0n, 2n ** 64n - 1n), call(get, out), p.at(out, 1)[0]]).toEqual([0, 0, 0xff]);
		},
	);

	it('a VM whose context went to another one answers EIO, through the facade too', () => {
		for (const series of ['v5', 'v10'] as const) {
			const p = program({ series });
			const { vm } = sevGuest(p);
			contextAt(p, vm).sev.dead = true;
			const { pageStatus } = vmOf(p, vm);
			const request = { startGfn: 0, numPages: 8, bitmap: new Uint8Array(8) };
			expect([
				pageStatus.getBitmap(request),
				pageStatus.setBitmap(request),
				pageStatus.reset(),
				pageStatus.getSharedList({ size: 16 }).ret,
				pageStatus.setSharedList([]),
			]).toEqual([-5, -5, -5, -5, -5]);
		}
	});

	it('is no ioctl of v12 and later', () => {
		const p = program({ abi: 'v12' });
		const { vm } = sevGuest(p);
		expect(p.process.ioctl(vm, request('v5').get, new Uint8Array(24))).toBe(-25);
		expect(p.process.ioctl(vm, request('v10').get, new Uint8Array(24))).toBe(-25);
	});
});
