import { Errno } from '../abi/errno.js';
import { isPosting, type Kernel } from '../kernel.js';
import { BITMAP_BYTES, createStatusBitmap, type StatusBitmap } from './bitmap.js';
import { createStatusList, LIST_BYTES, type StatusList } from './list.js';

/** The page status that KVM itself keeps for a VM in the postings up to v10. Any thread may open it. */
export interface PageStatusInKvm {
	/** v1 to v9, else `undefined`. */
	readonly bitmap: StatusBitmap | undefined;
	/** v10, else `undefined`. */
	readonly list: StatusList | undefined;
	/** Does something while no other thread of the VM does. */
	locked<T>(action: () => T): T;
	/**
	 * The rest of hypercall 12 for a SEV guest: records a change. `hasSlot` says whether a memslot holds a guest-physical
	 * address. 0 or −errno, for RAX.
	 */
	record(gpa: bigint, npages: bigint, isEncrypted: boolean, hasSlot: (gpa: number) => boolean): number;
}

/** First word behind the lock. */
const DATA_AT = 2;
/** DEVIATION(kvm list): frames above 2^52, which no x86 has, are refused; KVM only refuses a wrap of 64 bits. */
const FRAME_LIMIT = 1n << 52n;

/** The shared buffer of a VM's page status; `undefined` from v11 on, where KVM keeps none. */
export function createPageStatusBuffer(kernel: Kernel): SharedArrayBuffer | undefined {
	if (!isPosting(kernel, 'v1', 'v10')) return undefined;
	return new SharedArrayBuffer(4 * DATA_AT + (kernel.series === 'v10' ? LIST_BYTES : BITMAP_BYTES));
}

/** Opens the buffer of {@link createPageStatusBuffer}. */
export function openPageStatus(kernel: Kernel, shared: SharedArrayBuffer): PageStatusInKvm {
	const lock = new Int32Array(shared, 0, 1);
	const isList = kernel.series === 'v10';
	const bitmap = isList ? undefined : createStatusBitmap(shared, DATA_AT);
	const list = isList ? createStatusList(shared, DATA_AT) : undefined;
	const isStatic = isPosting(kernel, 'v7', 'v9');

	const locked = <T>(action: () => T): T => {
		// kvm->lock. Never held for long, and a main thread may not wait.
		while (Atomics.compareExchange(lock, 0, 0, 1) !== 0);
		try {
			return action();
		} finally {
			Atomics.store(lock, 0, 0);
		}
	};
	const change = (gfnStart: number, gfnEnd: number, isEncrypted: boolean): number => {
		if (list !== undefined) {
			const done = isEncrypted ? list.remove({ gfnStart, gfnEnd }) : list.add({ gfnStart, gfnEnd });
			return done ? 0 : -Errno.ENOMEM;
		}
		if (bitmap === undefined) return 0;
		// v7 to v9: as large as the memslots made it; what ends beyond is ignored as a whole.
		if (isStatic && bitmap.size < gfnEnd) return 0;
		if (!isStatic && !bitmap.grow(gfnEnd)) return -Errno.ENOMEM;
		bitmap.set(gfnStart, gfnEnd, !isEncrypted);
		return 0;
	};

	return {
		bitmap,
		list,
		locked,
		record: (gpa, npages, isEncrypted, hasSlot) => {
			if (npages === 0n) return 0;
			const start = gpa >> 12n;
			const end = BigInt.asUintN(64, start + npages);
			if (end <= start || end > FRAME_LIMIT) return -Errno.EINVAL;
			// Up to v3 both ends must be RAM. Later MMIO passes too: no slot at all; and a slot of this model is always mapped.
			if (isPosting(kernel, 'v1', 'v3') && !(hasSlot(Number(gpa)) && hasSlot(Number((end - 1n) << 12n)))) {
				return -Errno.EINVAL;
			}
			return locked(() => change(Number(start), Number(end), isEncrypted));
		},
	};
}
