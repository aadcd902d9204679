import { PAGE_SIZE } from '@cvm/layout';
import type { GuestCpu } from '../vcpu/program.js';
import { BootFlag, E820Type, KernelOffset, MemoryMap } from './boot-protocol.js';
import { bootParam, e820At, e820Count } from './e820.js';
import { isSevActive, kernelBase } from './kernel-data.js';
import { LARGE_PAGE, lookupLeaf } from './page-tables.js';

const { helperGate, helperSharedMap, helperSharedMapBytes } = MemoryMap;
/** The first address without a bit. */
const MAP_END = helperSharedMapBytes * 8 * PAGE_SIZE;

const hasHelper = (cpu: GuestCpu): boolean => (cpu.loadU32(bootParam(cpu, 'flags')) & BootFlag.helper) !== 0;

/**
 * The guest's own record of what it shares, PROJECT: `MemoryMap.helperSharedMap`, a bit per frame, 1 = shared, for a migration
 * helper in the guest (`BootFlag.helper`). The helper believes it and not the host. It is private memory, and as far as RAM goes it
 * is what the kernel's page tables say, whenever nobody holds the lock over them.
 *
 * A helper seals pages while the kernel changes them, and the guest may be stopped for good between any two steps. The rule that
 * makes both safe: **a page that is private and holds something is never recorded as shared**, since nobody would prove its
 * contents to the target. Around it stands whatever fails loudly or not at all:
 *
 * - `set_memory_decrypted`: page tables, TLBs, record, then the host. Between the first and the third the helper seals what the page
 *   still holds, which harms nobody; nothing is written through the shared mapping before the host was told.
 * - `set_memory_encrypted`: page tables, TLBs, the host, then the record, made anew from the tables under their lock. Were the record
 *   first, a guest stopped in between would have a page that the helper vouches for and the host sends as it is: the target
 *   would find other contents and refuse. This way the helper refuses to seal the page, and whoever asked sends it as it
 *   is; what it holds is undefined until the caller, who waits for the end, writes to it.
 * - `early_set_memory_…` keep contents, so that record and conversion are one step, and the host hears of it afterwards. A guest that is
 *   stopped before it does after re-encryption cannot arrive whole, and its target says so.
 */
export const keepsRecord = (cpu: GuestCpu): boolean => isSevActive(cpu) && hasHelper(cpu);

/** Sets or clears the bits of whole frames `[from, to)`. */
function setFrames(cpu: GuestCpu, from: number, to: number, shared: boolean): void {
	const partial = (byte: number, first: number, last: number): void => {
		const mask = (0xff << first) & (0xff >>> (7 - last)) & 0xff;
		const old = cpu.loadU8(helperSharedMap + byte);
		cpu.storeU8(helperSharedMap + byte, shared ? old | mask : old & ~mask);
	};
	const end = Math.min(to, MAP_END / PAGE_SIZE);
	if (from >= end) return;
	const [first, last] = [Math.floor(from / 8), Math.floor((end - 1) / 8)];
	if (first === last) {
		partial(first, from % 8, (end - 1) % 8);
		return;
	}
	partial(first, from % 8, 7);
	cpu.fill(helperSharedMap + first + 1, last - first - 1, shared ? 0xff : 0);
	partial(last, 0, (end - 1) % 8);
}

/**
 * Records whole pages `[from, end)` as shared or private: firmware's, which knows what it does. Pages beyond the map are left out.
 */
export const setRecordedSharing = (cpu: GuestCpu, from: number, end: number, shared: boolean): void =>
	setFrames(cpu, from / PAGE_SIZE, end / PAGE_SIZE, shared);

/**
 * Makes the record of the pages at virtual addresses `[from, end)` say what the page tables say. One to one, as the whole kernel is;
 * what is not mapped keeps its bits. The caller holds the lock over the tables, or is alone.
 */
export function recordSharing(cpu: GuestCpu, from: number, end: number): void {
	// Frames of one kind that lie together are one write.
	let [start, next, kind] = [0, 0, false];
	const add = (frame: number, count: number, shared: boolean): void => {
		if (frame === next && shared === kind) {
			next += count;
			return;
		}
		setFrames(cpu, start, next, kind);
		[start, next, kind] = [frame, frame + count, shared];
	};
	for (let va = from - (from % PAGE_SIZE); va < end; ) {
		const leaf = lookupLeaf(cpu, va);
		const size = leaf?.size ?? LARGE_PAGE;
		const stop = Math.min(end, va - (va % size) + size);
		if (leaf !== undefined) {
			const frame = (leaf.address + (va % size)) / PAGE_SIZE;
			add(frame, Math.ceil((stop - va) / PAGE_SIZE), !leaf.isEncrypted);
		}
		va = stop;
	}
	setFrames(cpu, start, next, kind);
}

/**
 * Starts the record of a kernel that has just taken its own page tables: all RAM that it was given is private but for
 * `.bss..decrypted`. What the firmware shares is its own, and stays. Without a helper nothing happens.
 */
export function resetRecord(cpu: GuestCpu): void {
	if (!keepsRecord(cpu)) return;
	for (let i = e820Count(cpu) - 1; i >= 0; i--) {
		const { addr, size, type } = e820At(cpu, i);
		if (type !== E820Type.ram) continue;
		setFrames(cpu, Math.ceil(addr / PAGE_SIZE), Math.floor((addr + size) / PAGE_SIZE), false);
	}
	const base = kernelBase(cpu);
	setFrames(cpu, (base + KernelOffset.bssDecrypted) / PAGE_SIZE, (base + KernelOffset.end) / PAGE_SIZE, true);
}

/**
 * Whether a workload must rest now: the migration helper has closed the gate, because the guest is leaving or was given up. Asked
 * before every step; two loads. A host that starts the vCPUs all the same gets no further than the next question.
 */
export const mustRest = (cpu: GuestCpu): boolean => hasHelper(cpu) && cpu.loadU32(helperGate) !== 0;
