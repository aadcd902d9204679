import type { GuestCpu } from '@cvm/kvm/vcpu';
import { layout, PAGE_SIZE, reserved, u32, u64 } from '@cvm/layout';
import { type GpaRange, HelperGeometry, MAX_RAM } from '../../geometry.js';

/** 'MHREC001' as a little-endian u64. */
const RECORD_MAGIC = 0x3130304345524d48n;

/** The front of the page at {@link HelperGeometry.record}; the ranges and then the save areas follow, as u64s. PROJECT. */
const helperRecord = layout('cvm_helper_record', 32, {
	magic: u64(0),
	/** Position of the C-bit, 0 without SEV. */
	cBit: u32(8),
	/** Ranges of RAM: u64 start, u64 end each. */
	ranges: u32(12),
	/** Save areas of vCPUs: a u64 each. */
	saveAreas: u32(16),
	pad: reserved(20, 12),
});
/** Most ranges and save areas together: each range counts twice. */
const MAX_WORDS = (PAGE_SIZE - helperRecord.size) / 8;

/** What the firmware found out about the guest when it started, and no host can change later. */
export interface RecordedGuest {
	/** Position of the C-bit in a page-table entry, 0 without SEV. */
	readonly cBit: number;
	/** All RAM: whole pages, ascending, below {@link MAX_RAM}. */
	readonly ram: readonly GpaRange[];
	/** SEV-ES: addresses of the pages in which the helper finds the vCPUs' save areas, by vCPU. Empty otherwise. */
	readonly saveAreas: readonly number[];
}

const isRange = ({ start, end }: GpaRange, after: number): boolean =>
	start % PAGE_SIZE === 0 && end % PAGE_SIZE === 0 && start >= after && end > start && end <= MAX_RAM;

/**
 * Writes the page that the helper goes by, through the firmware's mapping, which must be private there.
 *
 * @throws RangeError for ranges that are not whole, ascending pages of RAM, and for more than fit the page
 */
export function recordForHelper(cpu: GuestCpu, { cBit, ram, saveAreas }: RecordedGuest): void {
	const words = [...ram.flatMap(({ start, end }) => [start, end]), ...saveAreas];
	if (words.length > MAX_WORDS) {
		throw new RangeError(`helper record: expected at most ${MAX_WORDS} words, got ${words.length}`);
	}
	let after = 0;
	for (const range of ram) {
		if (!isRange(range, after)) {
			const got = `0x${range.start.toString(16)} to 0x${range.end.toString(16)}`;
			throw new RangeError(`helper record: expected ascending whole pages below 2 GiB, got ${got}`);
		}
		after = range.end;
	}
	const page = new Uint8Array(PAGE_SIZE);
	const head = { magic: RECORD_MAGIC, cBit, ranges: ram.length, saveAreas: saveAreas.length };
	helperRecord.encodeInto(page.subarray(0, helperRecord.size), head);
	const view = new DataView(page.buffer);
	for (const [i, word] of words.entries()) view.setBigUint64(helperRecord.size + 8 * i, BigInt(word), true);
	cpu.store(HelperGeometry.record, page);
}

/** Reads that page; `undefined` if the firmware did not write it. */
export function recordedGuest(cpu: GuestCpu): RecordedGuest | undefined {
	const page = new Uint8Array(PAGE_SIZE);
	cpu.load(HelperGeometry.record, page);
	const view = new DataView(page.buffer);
	if (view.getBigUint64(helperRecord.offsetOf('magic'), true) !== RECORD_MAGIC) return undefined;
	const { cBit, ranges, saveAreas } = helperRecord.decode(page.subarray(0, helperRecord.size));
	const word = (i: number): number => Number(view.getBigUint64(helperRecord.size + 8 * i, true));
	const ram = Array.from({ length: ranges }, (_, i) => ({ start: word(2 * i), end: word(2 * i + 1) }));
	return { cBit, ram, saveAreas: Array.from({ length: saveAreas }, (_, i) => word(2 * ranges + i)) };
}
