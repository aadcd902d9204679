import { PAGE_SHIFT } from '@cvm/layout';
import type { SiliconHandle } from '@cvm/sev-hw';
import type { Kernel } from './kernel.js';
import { isMsrAllowed } from './msr-filter-state.js';
import { VmWord } from './vm-words.js';

/*
 * What the threads of one VM share. The main thread (the ioctls) writes it, the vCPU threads read it; the exceptions are
 * the TLB words and the dirty bitmaps. The state of one vCPU is in `vcpu-state.ts`.
 */

export { VmWord } from './vm-words.js';

const SHARED_BYTES = 4096 + 16 * 0x600;
/** Entries of the memslot table. */
export const MAX_SLOTS = 32;
/** vCPUs of one VM. */
export const MAX_VCPUS = 32;

const SLOTS_AT = 1024;
/** Doubles per memslot: guest-physical address, bytes, system-physical address, first word of the dirty bitmap or −1. */
export const SLOT_DOUBLES = 4;

/** One VM for another thread: structured-cloneable. `openVmState` opens it. */
export interface VmHandle {
	readonly kind: 'cvm-vm';
	readonly kernel: Kernel;
	readonly shared: SharedArrayBuffer;
	/** Dirty bitmaps of all logging slots. */
	readonly dirty: SharedArrayBuffer;
	readonly silicon: SiliconHandle;
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
	// A slot's bitmap is rounded up to 64 pages.
	const dirty = new SharedArrayBuffer((Math.ceil(o.ramBytes / (64 << PAGE_SHIFT)) + MAX_SLOTS) * 8);
	return { kind: 'cvm-vm', kernel: o.kernel, shared, dirty, silicon: o.silicon };
}

/** The shared buffers as the main thread writes them. */
export interface VmWords {
	readonly words: Int32Array;
	/** The memslot table, {@link SLOT_DOUBLES} per slot. */
	readonly slots: Float64Array;
	readonly dirty: Int32Array;
}

/** Views of a handle's buffers. */
export const vmWords = (handle: VmHandle): VmWords => ({
	words: new Int32Array(handle.shared),
	slots: new Float64Array(handle.shared, SLOTS_AT, MAX_SLOTS * SLOT_DOUBLES),
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
	readonly pageEncHcEnable: boolean;
	readonly exitHypercallMask: number;
	readonly msrExitMask: number;
	readonly cbitPosition: number;
	readonly tlbGeneration: number;
	/** System-physical address behind a guest-physical one (without C-bit), or −1. Holds to the end of the page. */
	translate(gpa: number): number;
	/** Whether the guest may store to a guest-physical address that translates: false in a KVM_MEM_READONLY slot. */
	isWritable(gpa: number): boolean;
	/** Notes a store to the page of `gpa`, if its slot logs. Call it *after* the store, and for every store. */
	markDirty(gpa: number): void;
	/** Starts a new TLB generation and returns it. */
	bumpTlbGeneration(): number;
	/** The MSR filter's answer: false = the access is denied. */
	isMsrAllowed(index: number, access: 'read' | 'write'): boolean;
}

/** Opens a VM's shared state, in any thread. One per thread: it remembers the slot it used last. */
export function openVmState(handle: VmHandle): VmState {
	const { words, slots, dirty } = vmWords(handle);
	let generation = -1;
	// The slot last hit, copied, so that a hit costs one atomic load.
	let start = 0;
	let end = 0;
	let spa = 0;
	let bitmap = -1;
	let flags = 0;

	/** Whether a slot holds `gpa`; if so the variables above describe it. */
	const seek = (gpa: number): boolean => {
		if (generation === Atomics.load(words, VmWord.slotGeneration) && gpa >= start && gpa < end) return true;
		for (;;) {
			const before = Atomics.load(words, VmWord.slotGeneration);
			if ((before & 1) !== 0) continue;
			const count = words[VmWord.slotCount] ?? 0;
			let found = false;
			for (let i = 0; i < count && !found; i++) {
				const at = i * SLOT_DOUBLES;
				start = slots[at] ?? 0;
				end = start + (slots[at + 1] ?? 0);
				if (gpa < start || gpa >= end) continue;
				spa = slots[at + 2] ?? 0;
				bitmap = slots[at + 3] ?? -1;
				flags = words[VmWord.slotFlags + i] ?? 0;
				found = true;
			}
			if (Atomics.load(words, VmWord.slotGeneration) !== before) continue;
			generation = found ? before : -1;
			return found;
		}
	};
	const read = (word: number) => Atomics.load(words, word);

	return {
		words,
		kernel: handle.kernel,
		get asid() {
			return read(VmWord.asid);
		},
		get sevActive() {
			return read(VmWord.sevActive) === 1;
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
		translate: (gpa) => (seek(gpa) ? spa + (gpa - start) : -1),
		isWritable: (gpa) => seek(gpa) && (flags & MemFlag.readonly) === 0,
		markDirty: (gpa) => {
			if (!seek(gpa) || bitmap < 0) return;
			const page = Math.floor((gpa - start) / 4096);
			Atomics.or(dirty, bitmap + (page >>> 5), 1 << (page & 31));
		},
		bumpTlbGeneration: () => Atomics.add(words, VmWord.tlbGeneration, 1) + 1,
		isMsrAllowed: (index, access) => isMsrAllowed(words, index, access),
	};
}
