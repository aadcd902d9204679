import { describe, expect, it } from 'vitest';
import { type Case, changed, expectRefusal, FORBIDDEN } from './refusal.js';
import { ASID, controllerOf, GuestState, guestIn, initialised, patternPage, type Rig } from './rig.js';

const SRC = 0x300000n;
const DST = 0x320000n;
const PAGE = 4096;

/** Guest pages at `at`, each filled with its own number from 1 on. */
function fill(rig: Rig, at: bigint, pages: number): void {
	for (let i = 0; i < pages; i++) {
		controllerOf(rig).write(ASID, Number(at) + i * PAGE, new Uint8Array(PAGE).fill(i + 1));
	}
}

/** The first byte of each guest page at `at`, whose other bytes are the same. */
function numbers(rig: Rig, at: bigint, pages: number): (number | undefined)[] {
	return Array.from({ length: pages }, (_, i) => {
		const out = new Uint8Array(PAGE);
		controllerOf(rig).read(ASID, Number(at) + i * PAGE, out);
		return out.every((byte) => byte === out[0]) ? out[0] : undefined;
	});
}

describe('COPY', () => {
	const cases: readonly Case[] = [
		['a handle that nobody has', { handle: 99 }, 'INVALID_GUEST'],
		['no length', { length: 0 }, 'INVALID_LENGTH'],
		['a length that is no multiple of 4096', { length: 2048 }, 'INVALID_LENGTH'],
		['a source that is not page-aligned', { srcPaddr: SRC + 16n }, 'INVALID_ADDRESS'],
		['a destination that is not page-aligned', { dstPaddr: DST + 2048n }, 'INVALID_ADDRESS'],
		['length before alignment', { length: 1, srcPaddr: 1n }, 'INVALID_LENGTH'],
		...[...FORBIDDEN, ['running out of DRAM by a page', 0x3ff000n] as const].flatMap(([where, address]): Case[] => [
			[`a source ${where}`, { srcPaddr: address, length: 2 * PAGE }, 'INVALID_ADDRESS'],
			[`a destination ${where}`, { dstPaddr: address, length: 2 * PAGE }, 'INVALID_ADDRESS'],
		]),
	];
	it.each(cases)('refuses %s', (_, change, status) => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		const sound = { handle, length: PAGE, srcPaddr: SRC, dstPaddr: DST };
		expectRefusal(rig, 'COPY', changed(rig, sound, change), status);
	});
	it('refuses a guest without ASID, before it looks at the length', () => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		rig.must('DEACTIVATE', { handle });
		expectRefusal(rig, 'COPY', { handle, length: 0 }, 'INACTIVE');
	});

	it('gives what the guest would have written there itself', () => {
		const rig = initialised();
		const { handle, page } = guestIn(rig, GuestState.RUNNING);
		const source = rig.at(page, PAGE);
		rig.must('COPY', { handle, length: PAGE, srcPaddr: page, dstPaddr: DST });
		const copied = rig.at(DST, PAGE);
		expect(copied).not.toEqual(source);
		expect(rig.at(page, PAGE)).toEqual(source);
		controllerOf(rig).write(ASID, Number(DST), patternPage());
		expect(copied).toEqual(rig.at(DST, PAGE));
	});

	it('does nothing when source and destination are the same, but for the C-bit', () => {
		const rig = initialised();
		const { handle, page } = guestIn(rig, GuestState.RUNNING);
		const before = rig.snapshot();
		rig.must('COPY', { handle, length: PAGE, srcPaddr: page, dstPaddr: page | (1n << 51n) });
		expect(rig.snapshot()).toEqual(before);
	});

	it.each([
		['up', SRC, SRC + 4096n],
		['down', SRC + 4096n, SRC],
	])('moves pages that overlap %s as they were', (_, srcPaddr, dstPaddr) => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		fill(rig, srcPaddr, 3);
		rig.must('COPY', { handle, length: 3 * PAGE, srcPaddr, dstPaddr });
		expect(numbers(rig, dstPaddr, 3)).toEqual([1, 2, 3]);
	});

	it.each([
		['up', SRC, DST],
		['down', DST, SRC],
	])('leaves the pages around the destination alone, going %s', (_, srcPaddr, dstPaddr) => {
		const rig = initialised();
		const { handle } = guestIn(rig, GuestState.RUNNING);
		fill(rig, srcPaddr - 4096n, 4);
		controllerOf(rig).write(ASID, Number(dstPaddr) - PAGE, new Uint8Array(4 * PAGE).fill(9));
		rig.must('COPY', { handle, length: 2 * PAGE, srcPaddr, dstPaddr });
		expect(numbers(rig, dstPaddr - 4096n, 4)).toEqual([9, 2, 3, 9]);
		expect(numbers(rig, srcPaddr - 4096n, 4)).toEqual([1, 2, 3, 4]);
	});

	it.each([GuestState.LUPDATE, GuestState.SENT])('is allowed in guest state %d', (state) => {
		const rig = initialised();
		const { handle, page } = guestIn(rig, state);
		rig.must('COPY', { handle, length: PAGE, srcPaddr: page, dstPaddr: DST });
		const out = new Uint8Array(PAGE);
		controllerOf(rig).read(ASID, Number(DST), out);
		expect(out).toEqual(patternPage());
	});
});
