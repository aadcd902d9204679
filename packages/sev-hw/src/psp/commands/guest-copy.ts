import { type Infer, PAGE_SIZE } from '@cvm/layout';
import { activateExBuffer, type copyBuffer } from '../../abi/buffers.js';
import { Status } from '../../abi/status.js';
import { complexOf } from '../asids.js';
import type { GuestHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';
import { suitsAsid } from './guest.js';

/**
 * SEV API 0.24 COPY: copies guest memory to another address under the same key.
 *
 * UNCERTAIN(SEV API 0.24 COPY): if ranges overlap beyond their first page, every page arrives as it was before the
 * command, as what firmware does then is not public.
 */
export const copy: GuestHandler<Infer<typeof copyBuffer>> = {
	run: (psp, { asid }, { length, srcPaddr, dstPaddr }) => {
		if (asid === 0) return refuse(Status.INACTIVE);
		if (length === 0 || length % PAGE_SIZE !== 0) return refuse(Status.INVALID_LENGTH);
		const page = BigInt(PAGE_SIZE);
		if (srcPaddr % page !== 0n || dstPaddr % page !== 0n) return refuse(Status.INVALID_ADDRESS);
		const src = psp.memory.resolveLong(srcPaddr, length);
		const dst = psp.memory.resolveLong(dstPaddr, length);
		if (src < 0 || dst < 0) return refuse(Status.INVALID_ADDRESS);
		// Aligned first pages overlap only if they are the same.
		if (src === dst) return OK;
		const scratch = new Uint8Array(PAGE_SIZE);
		for (let done = 0; done < length; done += PAGE_SIZE) {
			const offset = src < dst ? length - PAGE_SIZE - done : done;
			psp.engine.load(asid, [src + offset], [PAGE_SIZE], 1, scratch);
			psp.engine.store(asid, [dst + offset], [PAGE_SIZE], 1, scratch);
		}
		scratch.fill(0);
		return OK;
	},
};

/** Most cores that one ACTIVATE_EX names. */
const MAX_IDS = 1024;

/**
 * SEV API 0.24 ACTIVATE_EX: as ACTIVATE, on some cores only; with the same ASID again it adds cores.
 *
 * UNCERTAIN(SEV API 0.24 ACTIVATE_EX): no processor of this model answers UNSUPPORTED, as it is not public which do, and
 * an APIC id that no core has is answered with INVALID_PARAM.
 */
export const activateEx: GuestHandler<Infer<typeof activateExBuffer>> = {
	beforeHandle: (_psp, { exLen }) => (exLen === activateExBuffer.size ? OK : refuse(Status.INVALID_PARAM)),
	beforeState: (psp, guest, { asid, numIds }) => {
		if (asid < 1 || asid > psp.asids.maxAsid) return refuse(Status.INVALID_ASID);
		if (numIds < 1 || numIds > MAX_IDS) return refuse(Status.INVALID_PARAM);
		if (guest.asid === asid) return OK;
		if (psp.asids.isOwned(asid)) return refuse(Status.ASID_OWNED);
		return guest.asid !== 0 ? refuse(Status.ACTIVE) : OK;
	},
	run: (psp, guest, { asid, numIds, idsPaddr }) => {
		const at = psp.memory.resolveLong(idsPaddr, 4 * numIds);
		if (at < 0) return refuse(Status.INVALID_ADDRESS);
		const ids = new DataView(psp.memory.read(at, 4 * numIds).buffer);
		const complexes = Array.from({ length: numIds }, (_, i) => complexOf(ids.getUint32(4 * i, true)));
		if (complexes.some((complex) => !psp.asids.complexes.includes(complex))) return refuse(Status.INVALID_PARAM);
		if (psp.asids.isDirty(asid, complexes)) return refuse(Status.DF_FLUSH_REQUIRED);
		if (!suitsAsid(psp, guest, asid)) return refuse(Status.INVALID_ASID);
		psp.asids.allocate(asid, guest.vek, complexes);
		guest.asid = asid;
		return OK;
	},
};
