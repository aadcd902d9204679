import { type Hva, hva, PAGE_SIZE, pagesIn, type Spa, spa } from '@cvm/layout';
import { KvmError } from '../error.js';

/** What the VMM mapped: consecutive frames of DRAM. */
export interface HostMapping {
	readonly hva: Hva;
	readonly spa: Spa;
	/** The frames as the host sees them, without a C-bit: ciphertext where a guest wrote through its key. */
	readonly bytes: Uint8Array;
}

/** DRAM as the host kernel hands it out: whole frames from 1 MiB up, zeroed. */
export interface HostMemory {
	/** Anonymous, locked, physically contiguous memory. @throws KvmError `out-of-memory`, `bad-length` */
	mmap(bytes: number): HostMapping;
	/** The frames return when nobody has them pinned any more. @throws KvmError `not-mapped` */
	munmap(mapping: HostMapping): void;
	readonly freeBytes: number;
}

/** What the kernel itself does with memory; the VMM sees {@link HostMemory} of it. */
export interface KernelMemory extends HostMemory {
	/**
	 * The physical address behind a host-virtual one if the VMM has the whole range mapped, or −1. Neighbouring mappings are
	 * neighbours in physical memory too, so a range that resolves is contiguous.
	 */
	resolve(hva: number, length: number): number;
	/** The physical address of a view of mapped memory, or −1 if it is a view of something else. */
	locate(bytes: Uint8Array): number;
	/** Keeps the frames of a resolved range from being handed out again until `unpin`. */
	pin(spa: number, length: number): void;
	unpin(spa: number, length: number): void;
	/** Frames that no process has mapped: command buffers, bounce pages. @throws KvmError as `mmap` */
	allocate(bytes: number): { readonly spa: Spa; readonly bytes: Uint8Array };
	/** Gives back what `allocate` took: erased, as the frames of `munmap` are. */
	free(block: { readonly spa: Spa; readonly bytes: Uint8Array }): void;
}

/** Below 1 MiB lie legacy ranges, ASEG among them, which the firmware refuses. */
const FIRST_FRAME = 0x100;
/** PROJECT: where user mappings appear. A host-virtual address is its physical one plus this. */
const USER_BASE = 0x7f00_0000_0000;

const USED = 1;
const MAPPED = 2;

/** The frames of a machine. */
export function createHostMemory(dram: Uint8Array): KernelMemory {
	const total = Math.floor(dram.length / PAGE_SIZE);
	const state = new Uint8Array(total);
	const pins = new Uint32Array(total);
	const live = new Set<HostMapping>();
	let free = Math.max(0, total - FIRST_FRAME);
	let next = FIRST_FRAME;

	/** First frame of a free run in [from, to), or −1. */
	const find = (from: number, to: number, pages: number): number => {
		let run = 0;
		for (let frame = from; frame < to; frame++) {
			run = state[frame] === 0 && pins[frame] === 0 ? run + 1 : 0;
			if (run === pages) return frame - pages + 1;
		}
		return -1;
	};
	const take = (bytes: number, flags: number) => {
		if (!Number.isSafeInteger(bytes) || bytes <= 0) {
			throw new KvmError('bad-length', 'mmap', 'a length above 0', `${bytes}`);
		}
		const pages = pagesIn(bytes);
		let first = find(next, total, pages);
		if (first < 0) first = find(FIRST_FRAME, total, pages);
		if (first < 0) {
			throw new KvmError('out-of-memory', 'mmap', `${pages} contiguous free pages`, `${free} free pages in pieces`);
		}
		state.fill(flags, first, first + pages);
		free -= pages;
		next = first + pages;
		const at = first * PAGE_SIZE;
		return { spa: spa(at), bytes: dram.subarray(at, at + pages * PAGE_SIZE) };
	};
	// Cleared on its way out, not on its way in: fresh DRAM is zero already, and large.
	const release = (frame: number): void => {
		if (state[frame] !== 0 || pins[frame] !== 0) return;
		dram.fill(0, frame * PAGE_SIZE, (frame + 1) * PAGE_SIZE);
		free++;
	};
	const drop = (first: number, bytes: number): void => {
		for (let frame = first; frame < first + bytes / PAGE_SIZE; frame++) {
			state[frame] = 0;
			release(frame);
		}
	};
	const resolve = (address: number, length: number): number => {
		const at = address - USER_BASE;
		if (at < 0 || length <= 0 || at + length > dram.length) return -1;
		const last = Math.floor((at + length - 1) / PAGE_SIZE);
		for (let frame = Math.floor(at / PAGE_SIZE); frame <= last; frame++) {
			if (((state[frame] ?? 0) & MAPPED) === 0) return -1;
		}
		return at;
	};

	return {
		mmap: (bytes) => {
			const taken = take(bytes, USED | MAPPED);
			const mapping: HostMapping = { hva: hva(USER_BASE + taken.spa), ...taken };
			live.add(mapping);
			return mapping;
		},
		munmap: (mapping) => {
			if (!live.delete(mapping)) throw new KvmError('not-mapped', 'munmap', 'a live mapping', 'something else');
			drop(mapping.spa / PAGE_SIZE, mapping.bytes.length);
		},
		allocate: (bytes) => take(bytes, USED),
		free: (block) => drop(block.spa / PAGE_SIZE, block.bytes.length),
		get freeBytes() {
			return free * PAGE_SIZE;
		},
		resolve,
		locate: (bytes) =>
			bytes.buffer === dram.buffer ? resolve(USER_BASE + bytes.byteOffset - dram.byteOffset, bytes.length) : -1,
		pin: (at, length) => {
			const end = Math.ceil((at + length) / PAGE_SIZE);
			for (let frame = Math.floor(at / PAGE_SIZE); frame < end; frame++) pins[frame] = (pins[frame] ?? 0) + 1;
		},
		unpin: (at, length) => {
			const end = Math.ceil((at + length) / PAGE_SIZE);
			for (let frame = Math.floor(at / PAGE_SIZE); frame < end; frame++) {
				pins[frame] = (pins[frame] ?? 1) - 1;
				release(frame);
			}
		},
	};
}
