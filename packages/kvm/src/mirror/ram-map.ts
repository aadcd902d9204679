import { type Hva, hva, isAligned, PAGE_SIZE } from '@cvm/layout';
import { mirrorError } from './error.js';

/** A block of guest RAM, whether the guest can see it at present or not: QEMU's RAMBlock. */
export interface RamBlock {
	readonly name: string;
	/** Its address in the space of all blocks (QEMU's ram_addr_t), in bytes. */
	readonly offset: number;
	readonly size: number;
	/** Where the VMM has it mapped. */
	readonly hva: Hva;
}

/** A part of a guest-physical range. */
export interface RamPiece {
	readonly gpa: number;
	readonly length: number;
	/** Where it lies in RAM, or −1: there is no RAM (MMIO). */
	readonly ramAddr: number;
}

/** RAM that the guest sees: `length` bytes of block space at a guest-physical address. */
export interface RamMapping {
	readonly gpa: number;
	readonly ramAddr: number;
	readonly length: number;
}

/**
 * The RAM of a guest, and where the guest sees it. A RAM address names a byte for as long as its block exists; a guest-physical
 * one only while the byte is mapped. So what is remembered of encrypted memory is keyed by RAM address: memory that is unmapped
 * (virtio-mem, a closed option-ROM window, a save area) is still there and must still be moved. All addresses are numbers in
 * bytes, below 2^53.
 */
export interface RamMap {
	/** In ascending order of `offset`. */
	readonly blocks: readonly RamBlock[];
	/** In ascending order of `gpa`. */
	readonly mappings: readonly RamMapping[];
	/** End of the last block. */
	readonly size: number;
	/** −1: no RAM there. */
	toRam(gpa: number): number;
	/** The lowest guest-physical address that shows it, or −1: the guest does not see it at present. */
	toGpa(ramAddr: number): number;
	/** −1: no block. */
	toHva(ramAddr: number): number;
	/** A range in its order, cut where blocks and mappings end: every byte is in one piece. Neighbours that continue are one piece. */
	split(gpa: number, length: number): RamPiece[];
	/** The same for a range of RAM addresses: what the guest sees of it; `gpa` −1 where it does not. */
	splitRam(ramAddr: number, length: number): RamPiece[];
	/** A new block at the end, not mapped. @throws MirrorError `ram` unless `size` and `at` are whole pages */
	addBlock(name: string, size: number, at: Hva): RamBlock;
	/** Shows RAM to the guest. @throws MirrorError `ram` if it is not in blocks, not whole pages, or something is there already */
	map(mapping: RamMapping): void;
	/** Takes RAM away from the guest; the part of a mapping that is outside of the range stays. */
	unmap(gpa: number, length: number): void;
}

const hex = (n: number): string => `0x${n.toString(16)}`;

/** A map without RAM. */
export function createRamMap(): RamMap {
	const blocks: RamBlock[] = [];
	let mappings: RamMapping[] = [];
	const size = (): number => {
		const last = blocks.at(-1);
		return last === undefined ? 0 : last.offset + last.size;
	};
	const mappingAt = (gpa: number) => mappings.find((m) => gpa >= m.gpa && gpa < m.gpa + m.length);
	const blockAt = (ramAddr: number) => blocks.find((b) => ramAddr >= b.offset && ramAddr < b.offset + b.size);

	const requirePages = (thing: string, ...numbers: number[]): void => {
		for (const n of numbers) {
			if (!Number.isSafeInteger(n) || n < 0 || !isAligned(n, PAGE_SIZE))
				throw mirrorError('ram', thing, 'whole pages', hex(n));
		}
	};
	const splitRam = (ramAddr: number, length: number): RamPiece[] => {
		const pieces: RamPiece[] = [];
		for (let at = ramAddr, end = ramAddr + length; at < end; ) {
			const inside = mappings.find((m) => at >= m.ramAddr && at < m.ramAddr + m.length);
			const starts = mappings.map((m) => m.ramAddr).filter((start) => start > at);
			const until = inside === undefined ? Math.min(end, ...starts) : Math.min(end, inside.ramAddr + inside.length);
			const gpa = inside === undefined ? -1 : inside.gpa + (at - inside.ramAddr);
			pieces.push({ gpa, length: until - at, ramAddr: at });
			at = until;
		}
		return pieces;
	};

	return {
		blocks,
		get mappings() {
			return mappings;
		},
		get size() {
			return size();
		},
		toRam: (gpa) => {
			const mapping = mappingAt(gpa);
			return mapping === undefined ? -1 : mapping.ramAddr + (gpa - mapping.gpa);
		},
		toGpa: (ramAddr) => {
			// In ascending order of GPA: the first that has it is the lowest.
			for (const m of mappings)
				if (ramAddr >= m.ramAddr && ramAddr < m.ramAddr + m.length) return m.gpa + (ramAddr - m.ramAddr);
			return -1;
		},
		toHva: (ramAddr) => {
			const block = blockAt(ramAddr);
			return block === undefined ? -1 : block.hva + (ramAddr - block.offset);
		},
		split: (gpa, length) => {
			const pieces: RamPiece[] = [];
			for (let at = gpa, end = gpa + length; at < end; ) {
				const mapping = mappingAt(at);
				const next = mapping === undefined ? mappings.find((m) => m.gpa > at)?.gpa : mapping.gpa + mapping.length;
				const ramAddr = mapping === undefined ? -1 : mapping.ramAddr + (at - mapping.gpa);
				const blockEnd = mapping === undefined ? end : at + leftInBlock(blockAt(ramAddr), ramAddr);
				const until = Math.min(end, next ?? end, blockEnd);
				join(pieces, { gpa: at, length: until - at, ramAddr }, blockAt);
				at = until;
			}
			return pieces;
		},
		splitRam,
		addBlock: (name, bytes, at) => {
			requirePages(`RAM block ${name}`, bytes, at);
			if (bytes === 0) throw mirrorError('ram', `RAM block ${name}`, 'at least one page', '0 bytes');
			const block: RamBlock = { name, offset: size(), size: bytes, hva: at };
			blocks.push(block);
			return block;
		},
		map: (mapping) => {
			const { gpa, ramAddr, length } = mapping;
			requirePages('mapping of RAM', gpa, ramAddr, length);
			if (length === 0) throw mirrorError('ram', 'mapping of RAM', 'at least one page', '0 bytes');
			if (ramAddr + length > size())
				throw mirrorError('ram', 'mapping of RAM', `an end up to ${hex(size())}`, hex(ramAddr + length));
			const other = mappings.find((m) => gpa < m.gpa + m.length && m.gpa < gpa + length);
			if (other !== undefined)
				throw mirrorError('ram', 'mapping of RAM', 'a free range', `that of GPA ${hex(other.gpa)}`);
			mappings = [...mappings, { gpa, ramAddr, length }].sort((a, b) => a.gpa - b.gpa);
		},
		unmap: (gpa, length) => {
			const end = gpa + length;
			mappings = mappings.flatMap((m) => {
				const mEnd = m.gpa + m.length;
				if (mEnd <= gpa || m.gpa >= end) return [m];
				const left = { ...m, length: gpa - m.gpa };
				const right = { gpa: end, ramAddr: m.ramAddr + (end - m.gpa), length: mEnd - end };
				return [left, right].filter((part) => part.length > 0);
			});
		},
	};
}

const leftInBlock = (block: RamBlock | undefined, ramAddr: number): number =>
	block === undefined ? Number.POSITIVE_INFINITY : block.offset + block.size - ramAddr;

/** Adds a piece, as part of the one before it if that goes on in the same block. */
function join(pieces: RamPiece[], piece: RamPiece, blockAt: (ramAddr: number) => RamBlock | undefined): void {
	const last = pieces.at(-1);
	const continues =
		last !== undefined &&
		(last.ramAddr < 0
			? piece.ramAddr < 0
			: piece.ramAddr === last.ramAddr + last.length && blockAt(piece.ramAddr) === blockAt(last.ramAddr));
	if (continues) pieces[pieces.length - 1] = { ...last, length: last.length + piece.length };
	else pieces.push(piece);
}

/** Where RAM above the hole for devices begins. */
export const FOUR_GIB = 2 ** 32;
/** What QEMU's q35 machine has below the hole if there is more than fits: hw/i386/pc_q35.c. */
const Q35_BELOW_4G = 0x8000_0000;
const Q35_BELOW_4G_MAX = 0xb000_0000;

/** The RAM of a PC: one block `pc.ram`. */
export interface PcRamOptions {
	readonly ramBytes: number;
	/** Where the VMM has it mapped. */
	readonly hva: number;
	/** Bytes below 4 GiB. As QEMU's q35 by default: all of less than 0xB0000000 bytes, else 2 GiB. */
	readonly below4g?: number;
}

/**
 * The RAM of QEMU's PC machine: addresses below `below4g` are RAM addresses, those from 4 GiB on follow.
 *
 * @throws MirrorError `ram` for lengths that are not whole pages, or a low part above 4 GiB
 */
export function createPcRamMap({ ramBytes, hva: at, below4g = defaultBelow4g(ramBytes) }: PcRamOptions): RamMap {
	const map = createRamMap();
	map.addBlock('pc.ram', ramBytes, hva(at));
	if (below4g > FOUR_GIB) throw mirrorError('ram', 'RAM below 4 GiB', `at most ${hex(FOUR_GIB)}`, hex(below4g));
	const low = Math.min(below4g, ramBytes);
	if (low > 0) map.map({ gpa: 0, ramAddr: 0, length: low });
	if (ramBytes > low) map.map({ gpa: FOUR_GIB, ramAddr: low, length: ramBytes - low });
	return map;
}

const defaultBelow4g = (ramBytes: number): number => (ramBytes >= Q35_BELOW_4G_MAX ? Q35_BELOW_4G : ramBytes);
