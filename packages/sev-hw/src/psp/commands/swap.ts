import type { Infer } from '@cvm/layout';
import type { swapInBuffer, swapOutBuffer } from '../../abi/buffers.js';
import { Status } from '../../abi/status.js';
import { SwapFlags, swapMetadata } from '../../abi/swap-metadata.js';
import type { GuestHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';

const TAG_SIZE = 16;
/** The counter's last value is not used: the next would be the first again. */
const LAST_IV = 2n ** 64n - 1n;
/** What a metadata entry keeps of a command's flags. */
const ENTRY_FLAGS = SwapFlags.largePage | SwapFlags.typeMask;

/**
 * Whether the flags name a page that can be swapped.
 *
 * DEVIATION(SEV API 0.24 SWAP_OUT): save areas are not swapped, as what then happens to their checksum is not public.
 * UNCERTAIN(SEV API 0.24 SWAP_OUT): flags without a meaning are answered with INVALID_PARAM.
 */
function checkFlags(flags: number, known: number): Status {
	const type = flags & SwapFlags.typeMask;
	if ((flags & ~known) !== 0 || (type !== 0 && type !== SwapFlags.typeVmsa)) return Status.INVALID_PARAM;
	return type === SwapFlags.typeVmsa ? Status.UNSUPPORTED : Status.SUCCESS;
}

/** Most that the engine is given at once. */
const PIECE = 0x10000;

/** A page cut up, each piece with its offset. */
const pieces = (page: Uint8Array): [number, Uint8Array][] =>
	Array.from({ length: Math.ceil(page.length / PIECE) }, (_, i) => [
		i * PIECE,
		page.subarray(i * PIECE, Math.min((i + 1) * PIECE, page.length)),
	]);

const pageSize = (flags: number): number => ((flags & SwapFlags.largePage) !== 0 ? 0x200000 : 0x1000);

/**
 * SEV API 0.24 SWAP_OUT: a page of guest memory under the offline key, AES-256-GCM, with a metadata entry.
 *
 * UNCERTAIN(SEV API 0.24 SWAP_OUT): the checks come in the order of other commands, and the counter begins at 0, as
 * neither is public.
 */
export const swapOut: GuestHandler<Infer<typeof swapOutBuffer>> = {
	run: (psp, guest, { flags, srcPaddr, dstPaddr, mdataPaddr, softwareData }) => {
		if (guest.asid === 0) return refuse(Status.INACTIVE);
		const status = checkFlags(flags, ENTRY_FLAGS);
		if (status !== Status.SUCCESS) return refuse(status);
		const size = pageSize(flags);
		if (srcPaddr % BigInt(size) !== 0n || dstPaddr % BigInt(size) !== 0n) return refuse(Status.INVALID_ADDRESS);
		const src = psp.memory.resolveLong(srcPaddr, size);
		const dst = psp.memory.resolveLong(dstPaddr, size);
		const mdata = psp.memory.resolveLong(mdataPaddr, swapMetadata.size);
		if (src < 0 || dst < 0 || mdata < 0) return refuse(Status.INVALID_ADDRESS);
		if (guest.swapIv >= LAST_IV) return refuse(Status.AEAD_OFLOW);

		const iv = new Uint8Array(8);
		new DataView(iv.buffer).setBigUint64(0, guest.swapIv, true);
		guest.swapIv++;
		const entry = swapMetadata.encode({ softwareData, iv, flags });
		const page = new Uint8Array(size);
		for (const [at, piece] of pieces(page)) psp.engine.load(guest.asid, [src + at], [piece.length], 1, piece);
		const sealed = psp.provider.gcmSeal(guest.oek, iv, entry, page);
		page.fill(0);
		swapMetadata.patch(entry, { authTag: sealed.subarray(size) });
		psp.memory.dram.set(sealed.subarray(0, size), dst);
		psp.memory.dram.set(entry, mdata);
		return OK;
	},
};

/**
 * SEV API 0.24 SWAP_IN: brings a page back, if page and entry are those of one SWAP_OUT of this guest. Nothing is
 * remembered of what was swapped: an old page with its old entry is as good as the latest.
 *
 * UNCERTAIN(SEV API 0.24 SWAP_IN): a tag that does not match is answered with BAD_MEASUREMENT, as every other broken MAC,
 * and an entry for another kind of page than the command's with INVALID_PARAM; neither is public.
 */
export const swapIn: GuestHandler<Infer<typeof swapInBuffer>> = {
	run: (psp, guest, { flags, srcPaddr, dstPaddr, mdataPaddr }) => {
		if (guest.asid === 0) return refuse(Status.INACTIVE);
		const status = checkFlags(flags, ENTRY_FLAGS | SwapFlags.inPlace);
		if (status !== Status.SUCCESS) return refuse(status);
		const size = pageSize(flags);
		const toPaddr = (flags & SwapFlags.inPlace) !== 0 ? srcPaddr : dstPaddr;
		if (srcPaddr % BigInt(size) !== 0n || toPaddr % BigInt(size) !== 0n) return refuse(Status.INVALID_ADDRESS);
		const src = psp.memory.resolveLong(srcPaddr, size);
		const to = psp.memory.resolveLong(toPaddr, size);
		const mdata = psp.memory.resolveLong(mdataPaddr, swapMetadata.size);
		if (src < 0 || to < 0 || mdata < 0) return refuse(Status.INVALID_ADDRESS);

		const entry = psp.memory.read(mdata, swapMetadata.size);
		const { iv, authTag, flags: entryFlags } = swapMetadata.decode(entry);
		if (entryFlags !== (flags & ENTRY_FLAGS)) return refuse(Status.INVALID_PARAM);
		swapMetadata.patch(entry, { authTag: new Uint8Array(TAG_SIZE) });
		const sealed = new Uint8Array(size + TAG_SIZE);
		sealed.set(psp.memory.dram.subarray(src, src + size));
		sealed.set(authTag, size);
		const page = psp.provider.gcmOpen(guest.oek, iv, entry, sealed);
		if (page === undefined) return refuse(Status.BAD_MEASUREMENT);
		for (const [at, piece] of pieces(page)) psp.engine.store(guest.asid, [to + at], [piece.length], 1, piece);
		page.fill(0);
		return OK;
	},
};
