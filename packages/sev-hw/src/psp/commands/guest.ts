import { wipe } from '@cvm/crypto';
import type { Infer } from '@cvm/layout';
import type { activateBuffer, debugBuffer, guestStatusBuffer, handleBuffer } from '../../abi/buffers.js';
import { Policy } from '../../abi/policy.js';
import { Status } from '../../abi/status.js';
import { closeChannel, type Guest } from '../guests.js';
import type { GuestHandler, Platform, PlatformHandler } from '../platform.js';
import { OK, refuse } from '../reply.js';

/** The low ASIDs are for SEV-ES guests, the others are not. */
export const suitsAsid = (psp: Platform, { policy }: Guest, asid: number): boolean =>
	((policy & Policy.ES) !== 0) === asid < psp.generation.minSevNoEsAsid;

/** SEV API 0.24 ACTIVATE: binds the guest's key to an ASID. The dispatcher lets VMRUN use it when the state allows. */
export const activate: GuestHandler<Infer<typeof activateBuffer>> = {
	beforeState: (psp, guest, { asid }) => {
		if (asid < 1 || asid > psp.asids.maxAsid) return refuse(Status.INVALID_ASID);
		if (psp.asids.isOwned(asid)) return refuse(Status.ASID_OWNED);
		return guest.asid !== 0 ? refuse(Status.ACTIVE) : OK;
	},
	run: (psp, guest, { asid }) => {
		if (psp.asids.isDirty(asid, psp.asids.complexes)) return refuse(Status.DF_FLUSH_REQUIRED);
		if (!suitsAsid(psp, guest, asid)) return refuse(Status.INVALID_ASID);
		psp.asids.allocate(asid, guest.vek, psp.asids.complexes);
		guest.asid = asid;
		return OK;
	},
};

/** SEV API 0.24 DEACTIVATE. */
export const deactivate: GuestHandler<Infer<typeof handleBuffer>> = {
	run: (psp, guest) => {
		if (guest.asid === 0) return refuse(Status.INACTIVE);
		psp.asids.release(guest.asid);
		guest.asid = 0;
		return OK;
	},
};

/** Forgets what the firmware keeps of a guest: keys, digests, save areas. */
export function forgetGuest(psp: Platform, guest: Guest): void {
	closeChannel(psp.provider, guest);
	wipe(guest.vek, guest.oek, guest.launchDigest);
	psp.vmsaSlots.release(guest.handle);
}

/** SEV API 0.24 DECOMMISSION: forgets the guest. The dispatcher frees the handle. */
export const decommission: GuestHandler<Infer<typeof handleBuffer>> = {
	run: (psp, guest) => {
		if (guest.asid !== 0) return refuse(Status.ACTIVE);
		forgetGuest(psp, guest);
		return OK;
	},
};

/** SEV API 0.24 GUEST_STATUS: a handle nobody has is a success, with policy and ASID as the caller left them. */
export const guestStatus: PlatformHandler<Infer<typeof guestStatusBuffer>> = (psp, { handle }) => {
	const guest = psp.guests.get(handle);
	const state = psp.guests.stateOf(handle);
	const known = guest && { policy: guest.policy, asid: guest.asid };
	return { status: Status.SUCCESS, out: { ...known, state } };
};

type DebugBuffer = Infer<typeof debugBuffer>;
/** Most that a debug command moves at once; ranges may overlap, longer ones are moved piece by piece. */
const PIECE = 0x10000;

const checkDebug = (_psp: Platform, { srcPaddr, dstPaddr, length }: DebugBuffer) => {
	if (srcPaddr % 16n !== 0n || dstPaddr % 16n !== 0n) return refuse(Status.INVALID_ADDRESS);
	return length % 16 !== 0 ? refuse(Status.INVALID_LENGTH) : OK;
};

const debug = (move: (psp: Platform, asid: number, src: number, dst: number, piece: Uint8Array) => void) => {
	const handler: GuestHandler<DebugBuffer> = {
		beforeHandle: checkDebug,
		run: (psp, guest, { srcPaddr, dstPaddr, length }) => {
			if ((guest.policy & Policy.NODBG) !== 0) return refuse(Status.POLICY_FAILURE);
			if (guest.asid === 0) return refuse(Status.INACTIVE);
			// An internal error of the firmware, whose outward value is not public.
			if (length === 0) return refuse(Status.INVALID_PARAM);
			const src = psp.memory.resolveLong(srcPaddr, length);
			const dst = psp.memory.resolveLong(dstPaddr, length);
			if (src < 0 || dst < 0) return refuse(Status.INVALID_ADDRESS);
			const scratch = new Uint8Array(Math.min(length, PIECE));
			for (let done = 0; done < length; done += PIECE) {
				move(psp, guest.asid, src + done, dst + done, scratch.subarray(0, Math.min(PIECE, length - done)));
			}
			scratch.fill(0);
			return OK;
		},
	};
	return handler;
};

/** SEV API 0.24 DBG_DECRYPT: plaintext of guest memory to the host. */
export const dbgDecrypt = debug((psp, asid, src, dst, piece) => {
	psp.engine.load(asid, [src], [piece.length], 1, piece);
	psp.memory.dram.set(piece, dst);
});

/** SEV API 0.24 DBG_ENCRYPT: plaintext of the host into guest memory. */
export const dbgEncrypt = debug((psp, asid, src, dst, piece) => {
	piece.set(psp.memory.dram.subarray(src, src + piece.length));
	psp.engine.store(asid, [dst], [piece.length], 1, piece);
});
