import { fc, test } from '@fast-check/vitest';
import { beforeEach, describe, expect, it } from 'vitest';
import { MSR_KVM_MIGRATION_CONTROL, MsrFilterDefault } from '../abi/capabilities.js';
import { Errno } from '../abi/errno.js';
import { createKernel } from '../kernel.js';
import { createVmHandle, openVmState, vmWords } from '../vm/state.js';
import { type MsrFilter, setMsrFilter } from './filter.js';
import { isMsrAllowed } from './filter-state.js';

const newHandle = () =>
	createVmHandle({
		kernel: createKernel('upstream'),
		cbitPosition: 51,
		ramBytes: 2 ** 20,
		silicon: { kind: 'cvm-silicon' },
	});
const READ = 1;
const WRITE = 2;
const { ALLOW, DENY } = MsrFilterDefault;
const range = (over: Partial<MsrFilter['ranges'][number]> = {}) => ({
	flags: READ | WRITE,
	nmsrs: 1,
	base: MSR_KVM_MIGRATION_CONTROL,
	bitmap: new Uint8Array(8),
	...over,
});

let words: Int32Array;
beforeEach(() => {
	({ words } = vmWords(newHandle()));
});
const set = (flags: number, ...ranges: MsrFilter['ranges']) => setMsrFilter(words, { flags, ranges });
const both = (index: number) => [isMsrAllowed(words, index, 'read'), isMsrAllowed(words, index, 'write')];

describe('KVM_X86_SET_MSR_FILTER', () => {
	it.each<[string, number, MsrFilter['ranges']]>([
		['an unknown flag', 2, [range()]],
		['an unknown flag beside a known one', 3, [range()]],
		['deny by default without any range', DENY, []],
		['deny by default with only empty ranges', DENY, [range({ nmsrs: 0 }), range({ nmsrs: 0 })]],
		['a range without an access', ALLOW, [range({ flags: 0 })]],
		['a range with an unknown access', ALLOW, [range({ flags: 4 | READ })]],
		['a bitmap of more than 0x600 bytes', ALLOW, [range({ nmsrs: 0x3001, bitmap: new Uint8Array(0x608) })]],
		['a bad range behind a good one', ALLOW, [range(), range({ flags: 8 })]],
		['seventeen ranges', ALLOW, Array.from({ length: 17 }, () => range())],
	])('refuses %s with EINVAL', (_, flags, ranges) => {
		expect(set(flags, ...ranges)).toBe(-Errno.EINVAL);
	});

	it('refuses a bitmap that cannot be read to its end with EFAULT', () => {
		expect(set(ALLOW, range({ nmsrs: 65, bitmap: new Uint8Array(15) }))).toBe(-Errno.EFAULT);
		expect(set(ALLOW, range({ nmsrs: 65, bitmap: new Uint8Array(16) }))).toBe(0);
	});

	it('takes the largest bitmap', () => {
		expect(set(ALLOW, range({ nmsrs: 0x3000, base: 0, bitmap: new Uint8Array(0x600) }))).toBe(0);
		expect(both(0x2fff)).toEqual([false, false]);
		expect(both(0x3000)).toEqual([true, true]);
	});

	it('does not even look at the flags of an empty range', () => {
		expect(set(ALLOW, range({ nmsrs: 0, flags: 0xff }))).toBe(0);
		expect(both(MSR_KVM_MIGRATION_CONTROL)).toEqual([true, true]);
	});

	it('leaves the old filter in place when it refuses the new one', () => {
		set(ALLOW, range());
		set(DENY);
		set(ALLOW, range({ flags: 0 }));
		expect(both(MSR_KVM_MIGRATION_CONTROL)).toEqual([false, false]);
		expect(both(0x10)).toEqual([true, true]);
	});

	it('replaces the whole old filter', () => {
		set(DENY, range(), range({ base: 0x10, bitmap: new Uint8Array(8).fill(0xff) }));
		expect(set(ALLOW, range({ base: 0x20 }))).toBe(0);
		expect(both(MSR_KVM_MIGRATION_CONTROL)).toEqual([true, true]);
		expect(both(0x10)).toEqual([true, true]);
		expect(both(0x20)).toEqual([false, false]);
		expect(set(ALLOW)).toBe(0);
		expect(both(0x20)).toEqual([true, true]);
	});
});

describe('a lookup in the filter', () => {
	it('allows everything while there is no filter', () => {
		expect(both(0)).toEqual([true, true]);
		expect(both(0xffffffff)).toEqual([true, true]);
	});

	it('denies exactly the migration MSR with the filter that QEMU installs', () => {
		set(ALLOW, range());
		expect(both(MSR_KVM_MIGRATION_CONTROL)).toEqual([false, false]);
		expect(both(MSR_KVM_MIGRATION_CONTROL - 1)).toEqual([true, true]);
		expect(both(MSR_KVM_MIGRATION_CONTROL + 1)).toEqual([true, true]);
	});

	it('is seen by a thread through its VM state', () => {
		const handle = newHandle();
		const state = openVmState(handle);
		expect(state.isMsrAllowed(MSR_KVM_MIGRATION_CONTROL, 'write')).toBe(true);
		setMsrFilter(vmWords(handle).words, { flags: ALLOW, ranges: [range({ flags: WRITE })] });
		expect(state.isMsrAllowed(MSR_KVM_MIGRATION_CONTROL, 'write')).toBe(false);
		expect(state.isMsrAllowed(MSR_KVM_MIGRATION_CONTROL, 'read')).toBe(true);
	});

	it('exempts x2APIC registers, whatever the filter says', () => {
		set(DENY, range({ base: 0x700, nmsrs: 0x300, bitmap: new Uint8Array(96) }));
		expect(both(0x7ff)).toEqual([false, false]);
		expect(both(0x800)).toEqual([true, true]);
		expect(both(0x8ff)).toEqual([true, true]);
		expect(both(0x900)).toEqual([false, false]);
	});

	it('lets the first range decide that matches index and access', () => {
		const allow = new Uint8Array(8).fill(1);
		set(DENY, range({ flags: READ }), range({ bitmap: allow }));
		expect(both(MSR_KVM_MIGRATION_CONTROL)).toEqual([false, true]);
	});

	it('does not let a range wrap from the last MSR to the first', () => {
		set(ALLOW, range({ base: 0xffffffff, nmsrs: 2 }));
		expect(both(0xffffffff)).toEqual([false, false]);
		expect(both(0)).toEqual([true, true]);
	});

	test.prop([
		fc.array(
			fc.record({
				flags: fc.constantFrom(READ, WRITE, READ | WRITE),
				nmsrs: fc.integer({ min: 0, max: 130 }),
				base: fc.integer({ min: 0xc0000000, max: 0xc0000100 }),
				bitmap: fc.uint8Array({ minLength: 24, maxLength: 24 }),
			}),
			{ minLength: 1, maxLength: 16 },
		),
		fc.constantFrom<number>(ALLOW, DENY),
		fc.array(fc.integer({ min: 0xbffffff0, max: 0xc0000190 }), { minLength: 10, maxLength: 40 }),
	])('answers as a plain reading of the rules does', (ranges, flags, indexes) => {
		fc.pre(flags === ALLOW || ranges.some(({ nmsrs }) => nmsrs > 0));
		expect(set(flags, ...ranges)).toBe(0);
		for (const index of indexes) {
			for (const [name, access] of [['read', READ] as const, ['write', WRITE] as const]) {
				const hit = ranges.find((r) => index >= r.base && index < r.base + r.nmsrs && (r.flags & access) !== 0);
				const bit =
					hit === undefined
						? undefined
						: (((hit.bitmap[(index - hit.base) >> 3] ?? 0) >> ((index - hit.base) & 7)) & 1) === 1;
				expect(isMsrAllowed(words, index, name)).toBe(bit ?? flags === ALLOW);
			}
		}
	});
});
