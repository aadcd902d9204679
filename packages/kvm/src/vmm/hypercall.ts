import type { KvmAbi } from '../abi/generation.js';
import { Hypercall, HypercallErrno, MapGpaRange } from '../abi/hypercall.js';
import { ExitReason, RunOffset } from '../abi/run-page.js';
import type { PageStatusTracker } from './shared-pages.js';

/** What answers page-status exits. */
export interface HypercallOptions {
	/** How the third argument is meant. */
	readonly abi: KvmAbi;
	readonly pages: PageStatusTracker;
	/** Frames that an address of the machine can have: 2^40 by default, which is 52 bits of address. */
	readonly frames?: number;
	/**
	 * Frames changed, also from private to private. Send them again, in their new form, even if nobody writes to them: no dirty
	 * log notes a change of status.
	 */
	readonly onChange?: (gfnStart: number, gfnEnd: number, isShared: boolean) => void;
}

const PAGE_STATUS = BigInt(Hypercall.MAP_GPA_RANGE);
const ENCRYPTED = BigInt(MapGpaRange.ENCRYPTED);
const KVM_EINVAL = BigInt(-HypercallErrno.EINVAL);
const KVM_E2BIG = BigInt(-HypercallErrno.E2BIG);
const MAX_FRAMES = 2 ** 40;

/**
 * Answers KVM_EXIT_HYPERCALL for hypercall 12, and v11's KVM_EXIT_DMA_SHARE and KVM_EXIT_DMA_UNSHARE, in `kvm_run.ret`:
 * 0; −22 for another number and for frames that no address has; −7 when the tracker refuses. Nothing changes unless it is 0.
 *
 * v12's argument is a truth value and upstream's is bit 4: 0x01 there means "decrypted, 2 MiB pages", so that whoever takes it
 * for a truth value keeps a shared page as a private one.
 *
 * @returns false, and nothing is written, if the exit is another one
 */
export function answerHypercall(run: Uint8Array, o: HypercallOptions): boolean {
	const view = new DataView(run.buffer, run.byteOffset, run.byteLength);
	const reason = view.getUint32(RunOffset.exitReason, true);
	const u64 = (at: number) => view.getBigUint64(at, true);
	if (reason === ExitReason.HYPERCALL) {
		const [gpa, pages, attributes] = [0, 8, 16].map((at) => u64(RunOffset.hypercallArgs + at));
		const isShared = o.abi === 'v12' ? attributes === 0n : ((attributes ?? 0n) & ENCRYPTED) === 0n;
		const isKnown = u64(RunOffset.hypercallNr) === PAGE_STATUS;
		const ret = isKnown ? change(o, (gpa ?? 0n) >> 12n, pages ?? 0n, isShared) : KVM_EINVAL;
		view.setBigInt64(RunOffset.hypercallRet, ret, true);
		return true;
	}
	if (reason === ExitReason.DMA_SHARE || reason === ExitReason.DMA_UNSHARE) {
		const ret = change(o, u64(RunOffset.dmaAddr), u64(RunOffset.dmaLen) >> 12n, reason === ExitReason.DMA_SHARE);
		view.setBigInt64(RunOffset.dmaRet, ret, true);
		return true;
	}
	return false;
}

function change(o: HypercallOptions, gfn: bigint, pages: bigint, isShared: boolean): bigint {
	if (gfn + pages > BigInt(o.frames ?? MAX_FRAMES)) return KVM_EINVAL;
	const gfnStart = Number(gfn);
	if (!o.pages.set(gfnStart, Number(pages), isShared)) return KVM_E2BIG;
	o.onChange?.(gfnStart, gfnStart + Number(pages), isShared);
	return 0n;
}
