import { PAGE_SIZE } from '@cvm/layout';
import { BATCH_PAGES, type GpaRange, HelperGeometry, helperRanges, MAX_RAM } from '../geometry.js';
import { HelperStatus } from '../mailbox/abi.js';
import type { HelperMemory } from './ports.js';

/** Frames that share 16 bytes of a map and belong to one stream. */
export const GROUP_FRAMES = 128;
const GROUP_BYTES = GROUP_FRAMES / 8;
const GROUP_WORDS = GROUP_FRAMES / 32;
/** Of a map that is cleared or written at a time. */
const MAP_CHUNK = 4096;
const ZEROS = new Uint8Array(MAP_CHUNK);

/** `ram` without what is the helper's own. Ascending, whole pages. */
function guestRanges(ram: readonly GpaRange[]): GpaRange[] {
	let ranges = ram.map(({ start, end }) => ({ start, end: Math.min(end, MAX_RAM) }));
	for (const own of helperRanges()) {
		ranges = ranges.flatMap(({ start, end }) => [
			{ start, end: Math.min(end, own.start) },
			{ start: Math.max(start, own.end), end },
		]);
		ranges = ranges.filter(({ start, end }) => start < end);
	}
	return ranges.sort((a, b) => a.start - b.start);
}

/**
 * The guest's frames: which are its RAM, what it shares, which were sealed or opened in this epoch. The last are bitmaps in private
 * memory, read and written by groups of 128 frames, so that helpers at work never touch the same bytes.
 */
export class GuestFrames {
	private readonly memory: HelperMemory;
	private known: readonly GpaRange[] | undefined;
	private cut: readonly GpaRange[] = [];
	/** Of the batch at hand: its groups, and their words of RAM, of shared pages, and of pages of this epoch. */
	private readonly groups = new Int32Array(BATCH_PAGES);
	private readonly ramBits = new Uint32Array(BATCH_PAGES * GROUP_WORDS);
	private readonly sharedBits = new Uint32Array(BATCH_PAGES * GROUP_WORDS);
	private readonly epochBits = new Uint32Array(BATCH_PAGES * GROUP_WORDS);
	private readonly batchBits = new Uint32Array(BATCH_PAGES * GROUP_WORDS);
	private used = 0;
	private readonly piece = new Uint8Array(GROUP_BYTES);
	private readonly pieceView = new DataView(this.piece.buffer);
	private readonly mask = new Uint32Array(GROUP_WORDS);

	constructor(memory: HelperMemory) {
		this.memory = memory;
	}

	/** The guest's RAM outside the helper. */
	get ranges(): readonly GpaRange[] {
		// The list of the firmware never changes; a platform may find it late.
		if (this.known !== this.memory.ram) {
			this.known = this.memory.ram;
			this.cut = guestRanges(this.known);
		}
		return this.cut;
	}

	/** Groups that hold RAM end before this one. */
	get groupEnd(): number {
		const end = this.ranges.at(-1)?.end ?? 0;
		return Math.ceil(end / (GROUP_FRAMES * PAGE_SIZE));
	}

	/** Begins a batch: nothing is known of any group. */
	begin(): void {
		this.used = 0;
	}

	/**
	 * Whether the page may be in the batch; remembers that it is.
	 *
	 * @param checkShared whether the guest's own word on shared pages counts
	 */
	admit(gpa: number, stream: number, streams: number, checkShared: boolean): HelperStatus {
		if (!(gpa >= 0 && gpa < MAX_RAM) || gpa % PAGE_SIZE !== 0) return HelperStatus.address;
		const frame = gpa / PAGE_SIZE;
		const group = Math.floor(frame / GROUP_FRAMES);
		if (group % streams !== stream) return this.isRam(frame) ? HelperStatus.stream : HelperStatus.address;
		const at = this.slot(group) * GROUP_WORDS + ((frame >>> 5) & 3);
		const bit = 1 << (frame & 31);
		if (((this.ramBits[at] ?? 0) & bit) === 0) return HelperStatus.address;
		if (((this.batchBits[at] ?? 0) & bit) !== 0) return HelperStatus.list;
		if (checkShared && ((this.sharedBits[at] ?? 0) & bit) !== 0) return HelperStatus.shared;
		if (((this.epochBits[at] ?? 0) & bit) !== 0) return HelperStatus.duplicate;
		this.batchBits[at] = (this.batchBits[at] ?? 0) | bit;
		return HelperStatus.success;
	}

	/** Marks the batch's pages as those of this epoch. */
	commit(): void {
		for (let slot = 0; slot < this.used; slot++) {
			for (let i = 0; i < GROUP_WORDS; i++) {
				const at = slot * GROUP_WORDS + i;
				this.pieceView.setUint32(4 * i, (this.epochBits[at] ?? 0) | (this.batchBits[at] ?? 0), true);
			}
			this.memory.write(HelperGeometry.epochMap + (this.groups[slot] ?? 0) * GROUP_BYTES, this.piece);
		}
	}

	/**
	 * The private frames of a group, in ascending order.
	 *
	 * @param out frame numbers, room for {@link GROUP_FRAMES}
	 * @returns how many
	 */
	privateFrames(group: number, out: Uint32Array): number {
		this.ramMask(group);
		this.memory.read(HelperGeometry.sharedMap + group * GROUP_BYTES, this.piece);
		let count = 0;
		for (let i = 0; i < GROUP_FRAMES; i++) {
			const bits = (this.mask[i >>> 5] ?? 0) & ~this.pieceView.getUint32(4 * (i >>> 5), true);
			if ((bits & (1 << (i & 31))) !== 0) out[count++] = group * GROUP_FRAMES + i;
		}
		return count;
	}

	/** A new epoch: no page was sealed or opened in it. */
	clearEpoch(): void {
		this.writeMap(HelperGeometry.epochMap, undefined);
	}

	/** What the guest shares, a bit per frame up to the end of RAM. */
	readShared(): Uint8Array {
		const map = new Uint8Array(this.groupEnd * GROUP_BYTES);
		this.memory.read(HelperGeometry.sharedMap, map);
		return map;
	}

	/** Takes over what the guest shares. As long as what `readShared` gives. */
	writeShared(map: Uint8Array): void {
		this.writeMap(HelperGeometry.sharedMap, map);
	}

	private writeMap(address: number, map: Uint8Array | undefined): void {
		const length = this.groupEnd * GROUP_BYTES;
		for (let at = 0; at < length; at += MAP_CHUNK) {
			const bytes = Math.min(MAP_CHUNK, length - at);
			this.memory.write(address + at, map?.subarray(at, at + bytes) ?? ZEROS.subarray(0, bytes));
		}
	}

	private isRam(frame: number): boolean {
		const gpa = frame * PAGE_SIZE;
		return this.ranges.some(({ start, end }) => gpa >= start && gpa + PAGE_SIZE <= end);
	}

	private slot(group: number): number {
		// Pages of a batch mostly lie side by side: the last group first.
		for (let slot = this.used - 1; slot >= 0; slot--) if (this.groups[slot] === group) return slot;
		const slot = this.used++;
		this.groups[slot] = group;
		this.ramMask(group);
		this.ramBits.set(this.mask, slot * GROUP_WORDS);
		this.batchBits.fill(0, slot * GROUP_WORDS, (slot + 1) * GROUP_WORDS);
		this.loadBits(HelperGeometry.sharedMap, group, this.sharedBits, slot);
		this.loadBits(HelperGeometry.epochMap, group, this.epochBits, slot);
		return slot;
	}

	private loadBits(map: number, group: number, out: Uint32Array, slot: number): void {
		this.memory.read(map + group * GROUP_BYTES, this.piece);
		for (let i = 0; i < GROUP_WORDS; i++) out[slot * GROUP_WORDS + i] = this.pieceView.getUint32(4 * i, true);
	}

	/** A bit in `mask` for each frame of the group that is the guest's RAM. */
	private ramMask(group: number): void {
		const first = group * GROUP_FRAMES;
		this.mask.fill(0);
		for (const { start, end } of this.ranges) {
			const from = Math.max(start / PAGE_SIZE - first, 0);
			const to = Math.min(end / PAGE_SIZE - first, GROUP_FRAMES);
			if (from === 0 && to === GROUP_FRAMES) {
				this.mask.fill(0xffffffff);
				return;
			}
			for (let i = Math.ceil(from); i + 1 <= to; i++) this.mask[i >>> 5] = (this.mask[i >>> 5] ?? 0) | (1 << (i & 31));
		}
	}
}
