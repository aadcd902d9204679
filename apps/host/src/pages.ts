import type { HostMapping, UserMemoryRegion, Vm } from '@cvm/kvm';
import type { SharedPages } from '@cvm/kvm/vmm';
import { type Gpa, type Hva, PAGE_SIZE } from '@cvm/layout';
import { type GpaRange, helperRanges } from '@cvm/ovmf-mh/host';
import type {
	PageHelper,
	PageHelperTarget,
	PageOpener,
	PageSealer,
	PageSink,
	PageSource,
	RamBlock,
} from '@cvm/qemu-mig';

/** A RAM block of the VM: its name in the stream, where the guest sees it, and the DRAM behind it. */
export interface MappedBlock extends RamBlock {
	readonly gpa: Gpa;
	readonly slot: number;
	/** KVM_MEM_* without the logging bit. */
	readonly flags: number;
	readonly mapping: HostMapping;
}

/** What the host's pages need from the VM. */
export interface GuestPages {
	readonly vm: Vm;
	readonly blocks: readonly MappedBlock[];
	readonly shared: SharedPages;
	/** Pages that the VMM itself wrote, or whose status changed: KVM's log does not know them. One bitmap per block. */
	readonly touched: readonly Uint32Array[];
	/** Whether pages are private unless the guest shared them. */
	readonly confidential: boolean;
	allocate(bytes: number): Uint8Array;
	/** KVM_SET_USER_MEMORY_REGION on the VM, and on its mirror if it has one. */
	setRegion(region: UserMemoryRegion): number;
}

const gfnOf = (block: MappedBlock, page: number): number => block.gpa / PAGE_SIZE + page;

/** The block and page of a guest frame, or `undefined` if no RAM is there (MMIO). */
export function pageOfFrame(blocks: readonly MappedBlock[], gfn: number): { block: number; page: number } | undefined {
	const block = blocks.findIndex((b) => gfn >= b.gpa / PAGE_SIZE && gfn < (b.gpa + b.usedLength) / PAGE_SIZE);
	const found = blocks[block];
	return found && { block, page: gfn - found.gpa / PAGE_SIZE };
}

/** Marks a frame for sending again. */
export function touch(pages: Pick<GuestPages, 'blocks' | 'touched'>, gfn: number): void {
	const place = pageOfFrame(pages.blocks, gfn);
	const bitmap = place && pages.touched[place.block];
	if (place && bitmap) bitmap[place.page >> 5] = (bitmap[place.page >> 5] ?? 0) | (1 << (place.page & 31));
}

/** A firmware command refused: what KVM and the firmware said. */
export class SevCommandError extends Error {
	override readonly name = 'SevCommandError';
	readonly code = 'sev-command';
}

const LOG_DIRTY_PAGES = 1;
const READONLY = 2;
/** QEMU's block of a graphics card: RAM, but not where the guest's firmware recorded any. */
const VIDEO_MEMORY = 'vga.vram';

/** Who encrypts and decrypts pages. With a helper the sealer has but the list of shared ranges to give, and the opener to take. */
export interface PageTransport<Seal, Help> {
	readonly crypt?: Seal | undefined;
	readonly helper?: Help | undefined;
	/** Pages that stay here, as a helper's own memory does. */
	readonly omits?: ((gpa: number, offset: number) => boolean) | undefined;
}

const HELPERS: readonly GpaRange[] = helperRanges();

/** Whether a page is the helper's own: what is there belongs to this machine and stays. */
export const isHelperMemory = (gpa: number): boolean => HELPERS.some(({ start, end }) => gpa >= start && gpa < end);

/** Guest memory as the sending engine sees it. */
export function pageSource(pages: GuestPages, transport: PageTransport<PageSealer, PageHelper> = {}): PageSource {
	const { crypt: sealer, helper, omits } = transport;
	const { vm, blocks, shared, touched, confidential } = pages;
	const scratch = blocks.map((b) => new Uint32Array(Math.ceil(b.usedLength / PAGE_SIZE / 64) * 2));
	const setLogging = (on: boolean) => {
		for (const { slot, gpa, usedLength, mapping, flags } of blocks) {
			const wanted = on ? flags | LOG_DIRTY_PAGES : flags;
			const region = { slot, flags: wanted, guestPhysAddr: gpa, memorySize: usedLength, userspaceAddr: mapping.hva };
			const result = pages.setRegion(region);
			if (result !== 0) throw new Error(`dirty logging of slot ${slot}: errno ${-result}`);
		}
	};
	return {
		blocks,
		...(sealer && { sealer }),
		...(helper && { helper }),
		...(omits && {
			omits: (index: number, page: number) => omits((blocks[index]?.gpa ?? 0) + page * PAGE_SIZE, page * PAGE_SIZE),
		}),
		startDirtyLog: () => {
			for (const bitmap of touched) bitmap.fill(0);
			setLogging(true);
		},
		stopDirtyLog: () => setLogging(false),
		syncDirty: (index, into) => {
			const [block, log, own] = [blocks[index], scratch[index], touched[index]];
			if (!block || !log || !own) throw new RangeError(`no RAM block ${index}`);
			const result = vm.getDirtyLog(block.slot, log);
			if (result !== 0) throw new Error(`KVM_GET_DIRTY_LOG of ${block.idstr}: errno ${-result}`);
			for (let i = 0; i < into.length; i++) into[i] = (into[i] ?? 0) | (log[i] ?? 0) | (own[i] ?? 0);
			own.fill(0);
		},
		isPrivate: (index, page) => {
			const block = blocks[index];
			if (!confidential || block === undefined) return false;
			// No helper is asked for ROM and for video memory; as posted these go plain (QEMU v2 patch 6/12), which is to say as DRAM has them.
			if (helper && ((block.flags & READONLY) !== 0 || block.idstr === VIDEO_MEMORY)) return false;
			return !shared.has(gfnOf(block, page));
		},
		plainPage: (index, page) => {
			const block = blocks[index];
			if (!block) throw new RangeError(`no RAM block ${index}`);
			return block.mapping.bytes.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
		},
		allocate: (bytes) => pages.allocate(bytes),
	};
}

/** Guest memory as the loader sees it. */
export function pageSink(pages: GuestPages, transport: PageTransport<PageOpener, PageHelperTarget> = {}): PageSink {
	const { crypt: opener, helper } = transport;
	const at = (index: number, page: number): Uint8Array => {
		const bytes = pages.blocks[index]?.mapping.bytes;
		if (!bytes) throw new RangeError(`no RAM block ${index}`);
		return bytes.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
	};
	// DEVIATION(QEMU v2 patch 6/12): there the target's ROM is overwritten by what the source had in its own, ciphertext under
	// another key. Here each machine keeps the ROM that its launch measured, and its helper's memory.
	const keeps = (index: number, page: number): boolean => {
		const block = pages.blocks[index];
		return (
			helper !== undefined &&
			block !== undefined &&
			((block.flags & READONLY) !== 0 || isHelperMemory(block.gpa + page * PAGE_SIZE))
		);
	};
	return {
		blocks: pages.blocks,
		...(opener && { opener }),
		...(helper && { helper }),
		plainPage: (block, page, bytes) => {
			if (!keeps(block, page)) at(block, page).set(bytes);
		},
		zeroPage: (block, page, fill) => {
			if (!keeps(block, page)) at(block, page).fill(fill);
		},
	};
}

/** Host-virtual addresses of pages of a block, in a list that is reused. */
export class PageAddresses {
	readonly #list: Hva[] = [];

	of(block: MappedBlock, pages: Uint32Array, count: number): readonly Hva[] {
		for (let i = 0; i < count; i++) this.#list[i] = (block.mapping.hva + (pages[i] ?? 0) * PAGE_SIZE) as Hva;
		return this.#list;
	}
}
