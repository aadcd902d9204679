import { controllerOf, ES_ASID, type Rig } from './rig.js';

/** Bytes of a save area. */
export const SIZE = 4096;

/** What a guest sees of a save area. */
export function plaintextOf(rig: Rig, address: bigint, asid = ES_ASID): Uint8Array {
	const out = new Uint8Array(SIZE);
	controllerOf(rig).read(asid, Number(address), out);
	return out;
}

/** What the firmware knows of a guest. */
export const guestOf = (rig: Rig, handle: number) => {
	const guest = rig.platform.guests.get(handle);
	if (guest === undefined) throw new Error(`guest ${handle}: expected one, got none`);
	return guest;
};

/** Sound fields of SEND_UPDATE_VMSA. */
export function sendFields(rig: Rig, { handle, saveArea }: { handle: number; saveArea: bigint }) {
	const [hdrPaddr, transPaddr] = [BigInt(rig.allocate(52)), BigInt(rig.allocate(0x5000))];
	return { handle, hdrPaddr, hdrLen: 52, guestPaddr: saveArea, guestLen: SIZE, transPaddr, transLen: SIZE };
}
