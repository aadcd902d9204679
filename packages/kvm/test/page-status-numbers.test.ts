import { describe, expect, it } from 'vitest';
import { SERIES, type Series } from '../src/abi/generation.js';
import { Ioctl } from '../src/abi/ioctl.js';
import { kvmPageEncBitmap, liveMigrationFeature, PAGE_STATUS_IOCTLS } from '../src/abi/page-status.js';
import { openPageStatus } from '../src/page-status/in-kvm.js';
import { contextAt, program, sevGuest, vmOf } from './process-rig.js';

/** A program with a SEV guest whose frames 1, 2 and 10 are shared, and which agreed to be migrated. */
function made(series: Series) {
	const p = program({ series });
	const { vm } = sevGuest(p);
	const { kernel, handle } = contextAt(p, vm);
	if (handle.pageStatus !== undefined) {
		const status = openPageStatus(kernel, handle.pageStatus);
		for (const [gfn, pages] of [
			[1n, 2n],
			[10n, 1n],
		] as const) {
			status.record(gfn << 12n, pages, false, () => true);
		}
	}
	const feature = liveMigrationFeature(series);
	if (feature?.inKvm) vmOf(p, vm).createVcpu(0, []).setMsr(feature.msr, 1n);
	const numbers = PAGE_STATUS_IOCTLS[series];
	const bitmap = (nr: number | undefined, numPages: number, encBitmap: bigint) =>
		p.process.ioctl(vm, nr ?? 0, kvmPageEncBitmap.encode({ numPages: BigInt(numPages), encBitmap }));
	return { ...p, vm, numbers, bitmap };
}
const FRESH = new Uint8Array(16).fill(0x55);

describe.each(SERIES.slice(0, SERIES.indexOf('v10')))('the bitmap ioctls of %s', (series) => {
	const isExact = SERIES.indexOf(series) >= SERIES.indexOf('v5');

	it('write the caller’s memory as far as the posting says, and no further', () => {
		const { put, at, bitmap, numbers } = made(series);
		const to = put(FRESH);
		expect(bitmap(numbers?.get, 12, to)).toBe(0);
		expect([...at(to, 9)]).toEqual([0xf9, isExact ? 0x5b : 0xfb, ...Array(6).fill(isExact ? 0x55 : 0xff), 0x55]);
	});

	it('take a bitmap to another host', () => {
		const [source, target] = [made(series), made(series)];
		const from = source.put(FRESH);
		expect(source.bitmap(source.numbers?.get, 64, from)).toBe(0);
		if (series === 'v1') {
			expect(target.numbers?.set).toBeUndefined();
			return;
		}
		const to = target.put(FRESH);
		expect(target.bitmap(target.numbers?.set, 64, target.put(source.at(from, 8)))).toBe(0);
		expect(target.bitmap(target.numbers?.get, 64, to)).toBe(0);
		expect(target.at(to, 8)).toEqual(source.at(from, 8));
	});
});

describe('the numbers of one posting', () => {
	const ALL = new Set(
		Object.values(PAGE_STATUS_IOCTLS).flatMap(({ get, set = get, reset = get }) => [get, set, reset]),
	);

	it.each(SERIES)('are unknown to %s, unless they are its own', (series) => {
		const { process, vm, numbers } = made(series);
		const own = [numbers?.get, numbers?.set, numbers?.reset, Ioctl.KVM_RESET_DIRTY_RINGS];
		for (const nr of ALL) {
			if (!own.includes(nr)) expect([nr, process.ioctl(vm, nr, new Uint8Array(24))]).toEqual([nr, -25]);
		}
	});

	it('mean other things elsewhere: v5’s RESET is upstream’s KVM_RESET_DIRTY_RINGS', () => {
		expect(PAGE_STATUS_IOCTLS.v5?.reset).toBe(Ioctl.KVM_RESET_DIRTY_RINGS);
		const [old, upstream] = [made('v5'), made('upstream')];
		expect(old.process.ioctl(old.vm, Ioctl.KVM_RESET_DIRTY_RINGS)).toBe(0);
		expect(upstream.process.ioctl(upstream.vm, Ioctl.KVM_RESET_DIRTY_RINGS)).toBe(-22);
	});
});
