import { PAGE_SIZE } from '@cvm/layout';
import { beforeEach, describe, expect, it } from 'vitest';
import { createKernel } from '../kernel.js';
import { replaceSlot, type SlotEntry } from '../memory/slot-table.js';
import { createVmHandle, openVmState, type VmHandle, type VmState, VmWord, vmWords } from './state.js';

const PAGES = 100;
let handle: VmHandle;
let state: VmState;
let view: ReturnType<typeof vmWords>;
let present: Map<number, SlotEntry>;

beforeEach(() => {
	handle = createVmHandle({
		kernel: createKernel('v12'),
		cbitPosition: 47,
		ramBytes: PAGES * PAGE_SIZE,
		silicon: { kind: 'cvm-silicon' },
	});
	state = openVmState(handle);
	view = vmWords(handle);
	present = new Map();
});

/** One slot: guest pages 16 … 16 + `pages` at SPA 0x200000, with the dirty bitmap at word `bitmap`. */
function putSlot(pages: number, bitmap: number, at = 0): void {
	const gpa = (16 + at * 1000) * PAGE_SIZE;
	const old = present.get(at);
	const slot = { gpa, bytes: pages * PAGE_SIZE, spa: 0x200000, bitmap, flags: 0, id: at };
	replaceSlot(view, old, slot);
	present.set(at, slot);
}

describe('a VM without memory', () => {
	it('translates nothing, not even address 0', () => {
		expect(state.translate(0)).toBe(-1);
		expect(state.isWritable(0)).toBe(false);
		expect(() => state.markDirty(0)).not.toThrow();
		expect(view.dirty.every((word) => word === 0)).toBe(true);
	});

	it('starts without ASID, exits or SEV', () => {
		expect(state).toMatchObject({
			asid: 0,
			sevActive: false,
			pageEncHcEnable: false,
			exitHypercallMask: 0,
			msrExitMask: 0,
			cbitPosition: 47,
			kernel: createKernel('v12'),
		});
	});
});

describe('what the main thread writes', () => {
	it.each([
		['asid', VmWord.asid, 7, 7],
		['sevActive', VmWord.sevActive, 1, true],
		['pageEncHcEnable', VmWord.pageEncHcEnable, 1, true],
		['exitHypercallMask', VmWord.exitHypercallMask, 0x1000, 0x1000],
		['msrExitMask', VmWord.msrExitMask, 4, 4],
	] as const)('appears as %s at the next look', (name, word, value, expected) => {
		expect(state[name]).not.toBe(expected);
		Atomics.store(view.words, word, value);
		expect(state[name]).toBe(expected);
	});

	it('appears through a clone of the handle, which shares the memory', () => {
		const clone = openVmState({ ...handle });
		Atomics.store(view.words, VmWord.asid, 3);
		expect(clone.asid).toBe(3);
		const generation = clone.bumpTlbGeneration();
		expect(state.tlbGeneration).toBe(generation);
	});

	it('is seen although the slot was hit before: the copy of a slot dies with its table', () => {
		putSlot(4, -1);
		expect(state.translate(16 * PAGE_SIZE)).toBe(0x200000);
		putSlot(1, -1);
		expect(state.translate(16 * PAGE_SIZE)).toBe(0x200000);
		expect(state.translate(17 * PAGE_SIZE)).toBe(-1);
	});

	it('turns logging on for a slot that was hit without it', () => {
		putSlot(4, -1);
		state.markDirty(16 * PAGE_SIZE);
		putSlot(4, 2);
		state.markDirty(17 * PAGE_SIZE);
		expect([...view.dirty.subarray(0, 4)]).toEqual([0, 0, 2, 0]);
	});
});

describe('a dirty mark', () => {
	it.each([
		[0, 0, 1],
		[31, 0, 1 << 31],
		[32, 1, 1],
		[63, 1, 1 << 31],
		[64, 2, 1],
	])('for page %i is in word %i', (page, word, bits) => {
		putSlot(70, 0);
		state.markDirty((16 + page) * PAGE_SIZE + PAGE_SIZE - 1);
		expect(view.dirty[word]).toBe(bits);
		expect([...view.dirty].filter((w) => w !== 0)).toEqual([bits]);
	});

	it('keeps the other bits', () => {
		putSlot(4, 0);
		for (const page of [0, 2, 2, 3]) state.markDirty((16 + page) * PAGE_SIZE);
		expect(view.dirty[0]).toBe(0b1101);
	});

	it('goes to the bitmap of its own slot', () => {
		putSlot(4, 0);
		putSlot(4, 2, 1);
		state.markDirty(16 * PAGE_SIZE);
		state.markDirty(1017 * PAGE_SIZE);
		state.markDirty(18 * PAGE_SIZE);
		expect([...view.dirty.subarray(0, 4)]).toEqual([0b101, 0, 0b10, 0]);
	});
});

describe('guest-physical addresses above 4 GiB', () => {
	it('translate without losing bits', () => {
		replaceSlot(view, undefined, { gpa: 2 ** 40, bytes: 2 * PAGE_SIZE, spa: 0x300000, bitmap: 0, flags: 0, id: 0 });
		expect(state.translate(2 ** 40 + PAGE_SIZE + 5)).toBe(0x301005);
		expect(state.translate(2 ** 40 + 2 * PAGE_SIZE)).toBe(-1);
		state.markDirty(2 ** 40 + PAGE_SIZE);
		expect(view.dirty[0]).toBe(2);
	});
});
