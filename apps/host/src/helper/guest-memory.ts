import type { GuestPages } from '../pages.js';
import { HelperUnavailable } from './control.js';

/** Guest memory as the host sees it, at a guest-physical address. @throws HelperUnavailable if there is no RAM */
export function guestMemory({ blocks }: Pick<GuestPages, 'blocks'>, gpa: number, bytes: number): Uint8Array {
	const block = blocks.find((b) => gpa >= b.gpa && gpa + bytes <= b.gpa + b.usedLength);
	if (!block) throw new HelperUnavailable(`migration helper: expected RAM at 0x${gpa.toString(16)}, got none`);
	return block.mapping.bytes.subarray(gpa - block.gpa, gpa - block.gpa + bytes);
}
