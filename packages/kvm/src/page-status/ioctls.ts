import { PAGE_SIZE } from '@cvm/layout';
import { Errno } from '../abi/errno.js';
import { KMALLOC_LIMIT } from '../ccp/sev-device.js';
import { isPosting } from '../kernel.js';
import type { MemoryRegionArgument } from '../memory/memory-region.js';
import type { VmContext } from '../vm/context.js';
import { VmWord } from '../vm/words.js';
import { openPageStatus } from './in-kvm.js';
import type { FrameRange } from './ranges.js';

/** Where a bitmap begins: a guest frame, or in v1 a memory slot, whose first frame it is. */
export type BitmapStart = { readonly startGfn: number } | { readonly slot: number };

/**
 * The ioctls by which the postings up to v10 hand out the page status that KVM keeps. 0 or −errno. −ENOTTY: the posting
 * has no such ioctl, or the VM is no SEV guest. −EIO: its context went to another VM.
 */
export interface PageStatusIoctls {
	/**
	 * KVM_GET_PAGE_ENC_BITMAP (v1 to v9): bit = 1 encrypted. −EINVAL from v7 on: the guest did not enable live migration.
	 * −EFAULT: `bitmap` is too short. From v5 on exactly `numPages` bits are written and the rest of the last byte stays;
	 * before, whole u64s are, whose further bits are 1.
	 */
	getBitmap(request: BitmapStart & { readonly numPages: number; readonly bitmap: Uint8Array }): number;
	/** KVM_SET_PAGE_ENC_BITMAP (v2 to v9), ⌈numPages / 64⌉ u64s. Without `bitmap`, from v7 on: everything is encrypted again. */
	setBitmap(request: {
		readonly startGfn: number;
		readonly numPages: number;
		readonly bitmap: Uint8Array | undefined;
	}): number;
	/** KVM_PAGE_ENC_BITMAP_RESET (v4 to v6): everything is encrypted again. */
	reset(): number;
	/** KVM_GET_SHARED_PAGES_LIST (v10) into `size` bytes, 16 per entry. −E2BIG: there are more. */
	getSharedList(request: { readonly size: number }): { readonly ret: number; readonly entries: readonly FrameRange[] };
	/** KVM_SET_SHARED_PAGES_LIST (v10): adds entries behind those there are. `undefined` or none: clears the list. */
	setSharedList(entries: readonly FrameRange[] | undefined): number;
	/** A vCPU was reset: v3 marks everything encrypted when it is the boot vCPU. */
	onVcpuReset(index: number): void;
	/** kvm_arch_commit_memory_region: a slot was made, changed or deleted. From v7 on a new one makes the bitmap grow. */
	onRegion(region: MemoryRegionArgument): void;
}

/** For sev_dbg_crypt: what guest memory that the VMM sees at an address is, or that no slot has it. */
export type SharedLookup = (hva: number, length: number) => 'shared' | 'private' | 'no-slot';

const ENTRY_BYTES = 16;

/** The ioctls of a VM. In v9 and v10 they also tell sev_dbg_crypt which pages are shared: `sev.sharedLookup`. */
export function createPageStatusIoctls(vm: VmContext): PageStatusIoctls {
	const { kernel, words, sev, handle } = vm;
	const status = handle.pageStatus === undefined ? undefined : openPageStatus(kernel, handle.pageStatus);
	const { bitmap, list } = status ?? {};
	const between = (first: 'v1' | 'v2' | 'v4' | 'v5' | 'v7' | 'v10', last: 'v6' | 'v8' | 'v9' | 'v10') =>
		isPosting(kernel, first, last);
	const slots = new Map<number, { readonly gfnStart: number; readonly gfnEnd: number; readonly hva: number }>();
	const isEnabled = () => Atomics.load(words, VmWord.liveMigration) === 1;
	/** The VM's memslots make the bitmap grow, not what the guest says. */
	const isStatic = between('v7', 'v9');
	const clear = (): void => void status?.locked(() => bitmap?.clear());

	/** The bits of `numPages` frames as whole u64s. */
	const bits = (startGfn: number, numPages: number): Uint8Array => {
		const out = new Uint8Array(8 * Math.ceil(numPages / 64)).fill(0xff);
		status?.locked(() => {
			const pages = Math.min(numPages, (bitmap?.size ?? 0) - startGfn);
			for (let i = 0; i < pages; i++) {
				if (bitmap?.isShared(startGfn + i)) out[i >>> 3] = (out[i >>> 3] ?? 0) & ~(1 << (i & 7));
			}
		});
		return out;
	};
	/**
	 * v2 to v6 only clear bits, and start to look for them at bit `startGfn` of the caller's bitmap, so that no other start
	 * than 0 does what it should; that was mended in v7, where the bits go to the word of `startGfn` instead.
	 */
	const put = (startGfn: number, numPages: number, from: Uint8Array): void => {
		const isClear = (i: number): boolean => (((from[i >>> 3] ?? 0xff) >>> (i & 7)) & 1) === 0;
		if (between('v2', 'v6')) {
			for (let i = startGfn; i < numPages; i++) if (isClear(i)) bitmap?.set(startGfn + i, startGfn + i + 1, true);
			return;
		}
		const first = startGfn - (startGfn % 64);
		for (let i = 0; i < numPages; i++) bitmap?.set(first + i, first + i + 1, isClear(i));
	};
	const isShared = (gfnStart: number, gfnEnd: number): boolean => {
		if (list !== undefined) return list.entries.some((e) => e.gfnStart <= gfnStart && e.gfnEnd >= gfnEnd);
		for (let gfn = gfnStart; gfn < gfnEnd; gfn++) if (bitmap?.isShared(gfn) !== true) return false;
		return true;
	};
	if (status !== undefined && isPosting(kernel, 'v9', 'v10')) {
		sev.sharedLookup = (hva, length) => {
			for (const slot of slots.values()) {
				const first = slot.gfnStart + Math.floor((hva - slot.hva) / PAGE_SIZE);
				const end = slot.gfnStart + Math.ceil((hva + length - slot.hva) / PAGE_SIZE);
				if (first < slot.gfnStart || end > slot.gfnEnd) continue;
				return status.locked(() => isShared(first, end)) ? 'shared' : 'private';
			}
			return 'no-slot';
		};
	}
	const isCount = (n: number): boolean => Number.isSafeInteger(n) && n >= 0;

	return {
		getBitmap: (request) => {
			if (sev.dead) return -Errno.EIO;
			if (bitmap === undefined || !sev.active) return -Errno.ENOTTY;
			if (isStatic && !isEnabled()) return -Errno.EINVAL;
			const start = 'slot' in request ? (slots.get(request.slot)?.gfnStart ?? -1) : request.startGfn;
			if ('slot' in request !== (kernel.series === 'v1') || start < 0) return -Errno.EINVAL;
			const { numPages, bitmap: out } = request;
			if (!isCount(start) || !isCount(numPages) || 8 * Math.ceil(numPages / 64) > KMALLOC_LIMIT) return -Errno.ENOMEM;
			const exact = between('v5', 'v9');
			const length = exact ? Math.ceil(numPages / 8) : 8 * Math.ceil(numPages / 64);
			if (out.length < length) return -Errno.EFAULT;
			const taken = bits(start, numPages).subarray(0, length);
			const rest = numPages % 8;
			if (exact && rest !== 0) {
				const mask = (1 << rest) - 1;
				taken[length - 1] = ((taken[length - 1] ?? 0) & mask) | ((out[length - 1] ?? 0) & ~mask);
			}
			out.set(taken);
			return 0;
		},
		setBitmap: ({ startGfn, numPages, bitmap: from }) => {
			if (sev.dead) return -Errno.EIO;
			if (bitmap === undefined || kernel.series === 'v1' || !sev.active) return -Errno.ENOTTY;
			if (from === undefined && isStatic) {
				clear();
				return 0;
			}
			const length = 8 * Math.ceil(numPages / 64);
			if (!isCount(startGfn) || !isCount(numPages) || length > KMALLOC_LIMIT) return -Errno.ENOMEM;
			if (from === undefined || from.length < length) return -Errno.EFAULT;
			return (
				status?.locked(() => {
					if (!bitmap.grow(startGfn + numPages)) return -Errno.ENOMEM;
					// A guest that arrives never says again that it is ready: A→B→C.
					if (kernel.series === 'v8') Atomics.store(words, VmWord.liveMigration, 1);
					put(startGfn, numPages, from);
					return 0;
				}) ?? 0
			);
		},
		reset: () => {
			if (sev.dead) return -Errno.EIO;
			if (!between('v4', 'v6') || !sev.active) return -Errno.ENOTTY;
			clear();
			return 0;
		},
		getSharedList: ({ size }) => {
			const fails = (errno: number) => ({ ret: -errno, entries: [] });
			if (sev.dead) return fails(Errno.EIO);
			if (list === undefined || !sev.active) return fails(Errno.ENOTTY);
			if (!isEnabled() || size === 0) return fails(Errno.EINVAL);
			const entries = status?.locked(() => list.entries) ?? [];
			return entries.length * ENTRY_BYTES > size ? fails(Errno.E2BIG) : { ret: 0, entries };
		},
		setSharedList: (entries) => {
			if (sev.dead) return -Errno.EIO;
			if (list === undefined || !sev.active) return -Errno.ENOTTY;
			return (
				status?.locked(() => {
					if (entries !== undefined && entries.length > 0) return list.append(entries) ? 0 : -Errno.ENOMEM;
					list.clear();
					return 0;
				}) ?? 0
			);
		},
		onVcpuReset: (index) => {
			if (kernel.series === 'v3' && index === 0 && sev.active) clear();
		},
		onRegion: ({ slot, guestPhysAddr, memorySize, userspaceAddr }) => {
			// Only the normal address space counts.
			if (status === undefined || slot >>> 16 !== 0) return;
			const gfnStart = Number(guestPhysAddr) / PAGE_SIZE;
			const gfnEnd = gfnStart + Number(memorySize) / PAGE_SIZE;
			const isNew = !slots.has(slot);
			if (gfnEnd === gfnStart) slots.delete(slot);
			else slots.set(slot, { gfnStart, gfnEnd, hva: Number(userspaceAddr) });
			if (isNew && isStatic) status.locked(() => bitmap?.grow(gfnEnd));
		},
	};
}
