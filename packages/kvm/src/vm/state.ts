import { PAGE_SHIFT } from '@cvm/layout';
import type { SiliconHandle } from '@cvm/sev-hw';
import { Quirk, USER_MEM_SLOTS } from '../abi/capabilities.js';
import type { Kernel } from '../kernel.js';
import { openDirtyRing } from '../memory/dirty-ring.js';
import { entryAbove, SLOT_DOUBLES, SLOT_INVALID, SLOT_RING } from '../memory/slot-table.js';
import { isMsrAllowed } from '../msr/filter-state.js';
import { createPageStatusBuffer } from '../page-status/in-kvm.js';
import { VmWord } from './words.js';

/*
 * What the threads of one VM share. The main thread (the ioctls) writes it, the vCPU threads read it; the exceptions are
 * the TLB words and the dirty bitmaps. The state of one vCPU is in `vcpu-state.ts`.
 */

export { VmWord } from './words.js';

const SHARED_BYTES = 4096 + 16 * 0x600;
/** Entries of the memslot table: every id of the one address space that vCPUs translate in. */
const MAX_SLOTS = USER_MEM_SLOTS;
/** vCPUs of one VM. */
export const MAX_VCPUS = 32;

/** One VM for another thread: structured-cloneable. `openVmState` opens it. */
export interface VmHandle {
	readonly kind: 'cvm-vm';
	readonly kernel: Kernel;
	readonly shared: SharedArrayBuffer;
	/** The memslot table. */
	readonly slots: SharedArrayBuffer;
	/** Dirty bitmaps of all logging slots. */
	readonly dirty: SharedArrayBuffer;
	readonly silicon: SiliconHandle;
	/** Page status that KVM keeps: postings up to v10, else `undefined`. */
	readonly pageStatus: SharedArrayBuffer | undefined;
}

/** KVM_MEM_* flags of a memslot (linux/kvm.h). */
export const MemFlag = { logDirtyPages: 1, readonly: 2 } as const;

/** New shared buffers for a VM. `ramBytes` bounds the memory whose dirty bitmaps fit. */
export function createVmHandle(o: {
	kernel: Kernel;
	cbitPosition: number;
	ramBytes: number;
	silicon: SiliconHandle;
}): VmHandle {
	const shared = new SharedArrayBuffer(SHARED_BYTES);
	const words = new Int32Array(shared);
	words[VmWord.cbitPosition] = o.cbitPosition;
	// Most of both is never touched, and so takes no memory. A slot's bitmap is rounded up to 64 pages.
	const slots = new SharedArrayBuffer(MAX_SLOTS * SLOT_DOUBLES * 8);
	const dirty = new SharedArrayBuffer((Math.ceil(o.ramBytes / (64 << PAGE_SHIFT)) + MAX_SLOTS) * 8);
	return {
		kind: 'cvm-vm',
		kernel: o.kernel,
		shared,
		slots,
		dirty,
		silicon: o.silicon,
		pageStatus: createPageStatusBuffer(o.kernel),
	};
}

/** The shared buffers as the main thread writes them. */
export interface VmWords {
	readonly words: Int32Array;
	/** The memslot table, `SLOT_DOUBLES` per slot: written by `replaceSlot`. */
	readonly slots: Float64Array;
	readonly dirty: Int32Array;
}

/** Views of a handle's buffers. */
export const vmWords = (handle: VmHandle): VmWords => ({
	words: new Int32Array(handle.shared),
	slots: new Float64Array(handle.slots),
	dirty: new Int32Array(handle.dirty),
});

/** A VM as a vCPU thread sees it. Every getter reads the current value. */
export interface VmState {
	/** For `Atomics` on the words of {@link VmWord}. */
	readonly words: Int32Array;
	readonly kernel: Kernel;
	/** 0 = no key. */
	readonly asid: number;
	readonly sevActive: boolean;
	/** SEV-ES: registers of the guest are in save areas. */
	readonly sevEs: boolean;
	/** KVM_CREATE_IRQCHIP. */
	readonly hasIrqchip: boolean;
	/** KVM puts VMMCALL where a guest without SEV has VMCALL: KVM_X86_QUIRK_FIX_HYPERCALL_INSN is not disabled. */
	readonly fixesHypercalls: boolean;
	readonly pageEncHcEnable: boolean;
	readonly exitHypercallMask: number;
	readonly msrExitMask: number;
	readonly cbitPosition: number;
	readonly tlbGeneration: number;
	/** System-physical address behind a guest-physical one (without C-bit), or −1. Holds to the end of the page. */
	translate(gpa: number): number;
	/**
	 * What nested paging makes of a guest-physical address: {@link translate}, but where a save area was put over the slots. KVM's own
	 * accesses to guest memory go by the slots.
	 */
	translateNested(gpa: number): number;
	/** Whether a save area stands at a guest-physical address: nobody may store there. */
	isSaveArea(gpa: number): boolean;
	/** Whether the guest may store to a guest-physical address that translates: false in a KVM_MEM_READONLY slot. */
	isWritable(gpa: number): boolean;
	/**
	 * Notes a store to the page of `gpa`, if its slot logs. Call it *after* the store, and for every store. With dirty rings only
	 * a vCPU's thread can note anything (Linux warns of any other store).
	 */
	markDirty(gpa: number): void;
	/** Whether the vCPU's dirty ring is too full for it to enter the guest. */
	readonly isRingFull: boolean;
	/** Starts a new TLB generation and returns it. */
	bumpTlbGeneration(): number;
	/** The MSR filter's answer: false = the access is denied. */
	isMsrAllowed(index: number, access: 'read' | 'write'): boolean;
}

/**
 * Opens a VM's shared state, in any thread. One per thread: it remembers the slot it used last. `dirtyRing` is that of the
 * vCPU whose stores are noted.
 */
export function openVmState(handle: VmHandle, dirtyRing?: SharedArrayBuffer): VmState {
	const { words, slots, dirty } = vmWords(handle);
	const ring = dirtyRing && openDirtyRing(dirtyRing);
	let generation = -1;
	// The slot last hit, copied, so that a hit costs one atomic load.
	let start = 0;
	let end = 0;
	let spa = 0;
	let bitmap = -1;
	let flags = 0;
	let id = 0;

	/** Whether a slot holds `gpa`; if so the variables above describe it. */
	const seek = (gpa: number): boolean => {
		if (generation === Atomics.load(words, VmWord.slotGeneration) && gpa >= start && gpa < end) return true;
		for (;;) {
			const before = Atomics.load(words, VmWord.slotGeneration);
			if ((before & 1) !== 0) continue;
			const at = (entryAbove(slots, words[VmWord.slotCount] ?? 0, gpa) - 1) * SLOT_DOUBLES;
			// Not found below the first entry, nor in the gap behind one.
			start = slots[at] ?? 0;
			end = at < 0 ? 0 : start + (slots[at + 1] ?? 0);
			const found = gpa < end;
			spa = slots[at + 2] ?? 0;
			bitmap = slots[at + 3] ?? -1;
			flags = slots[at + 4] ?? 0;
			id = slots[at + 5] ?? 0;
			if (Atomics.load(words, VmWord.slotGeneration) !== before) continue;
			generation = found ? before : -1;
			return found;
		}
	};
	const read = (word: number) => Atomics.load(words, word);
	/** Index of the save area at an address, or −1. */
	const saveAreaAt = (gpa: number): number => {
		const count = read(VmWord.saveAreaCount);
		const frame = Math.floor(gpa / 2 ** PAGE_SHIFT);
		for (let i = 0; i < count; i++) if (read(VmWord.saveAreaGuestFrames + i) === frame) return i;
		return -1;
	};
	const translate = (gpa: number): number => (seek(gpa) && (flags & SLOT_INVALID) === 0 ? spa + (gpa - start) : -1);

	return {
		words,
		kernel: handle.kernel,
		get asid() {
			return read(VmWord.asid);
		},
		get sevActive() {
			return read(VmWord.sevActive) === 1;
		},
		get sevEs() {
			return read(VmWord.sevEs) === 1;
		},
		get hasIrqchip() {
			return read(VmWord.hasIrqchip) === 1;
		},
		get fixesHypercalls() {
			return read(VmWord.sevActive) === 0 && (read(VmWord.disabledQuirks) & Quirk.FIX_HYPERCALL_INSN) === 0;
		},
		get pageEncHcEnable() {
			return read(VmWord.pageEncHcEnable) === 1;
		},
		get exitHypercallMask() {
			return read(VmWord.exitHypercallMask);
		},
		get msrExitMask() {
			return read(VmWord.msrExitMask);
		},
		get cbitPosition() {
			return read(VmWord.cbitPosition);
		},
		get tlbGeneration() {
			return read(VmWord.tlbGeneration);
		},
		translate,
		translateNested: (gpa) => {
			const area = saveAreaAt(gpa);
			if (area < 0) return translate(gpa);
			return read(VmWord.saveAreaFrames + area) * 2 ** PAGE_SHIFT + (gpa % 2 ** PAGE_SHIFT);
		},
		isSaveArea: (gpa) => saveAreaAt(gpa) >= 0,
		isWritable: (gpa) => seek(gpa) && (flags & MemFlag.readonly) === 0,
		markDirty: (gpa) => {
			if (!seek(gpa) || bitmap < 0 || (ring === undefined && (flags & SLOT_RING) !== 0)) return;
			const page = Math.floor((gpa - start) / 4096);
			const word = bitmap + (page >>> 5);
			const bit = 1 << (page & 31);
			// Always a read-modify-write, also for a bit that is set: it keeps the store before it from being seen after it. With a
			// plain load, a harvest could take the bit and read the page before the store arrives there.
			const old = Atomics.or(dirty, word, bit);
			if (ring !== undefined && (old & bit) === 0) ring.push(id, page, word, bit);
		},
		get isRingFull() {
			return ring?.isFull === true;
		},
		bumpTlbGeneration: () => Atomics.add(words, VmWord.tlbGeneration, 1) + 1,
		isMsrAllowed: (index, access) => isMsrAllowed(words, index, access),
	};
}
