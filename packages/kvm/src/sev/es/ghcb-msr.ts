import type { VmContext } from '../../vm/context.js';
import { GHCB_VERSION_MIN } from '../init.js';

/** GHCB_MSR_SEV_INFO_RESP: the message of the MSR protocol that answers "which versions, which C-bit". */
const SEV_INFO_RESPONSE = 1n;

/** The GHCB MSR of a new vCPU: 63:48 highest and 47:32 lowest version of the protocol, 31:24 position of the C-bit. */
export function ghcbMsrReset({ sev }: VmContext): bigint {
	const cBit = BigInt(sev.driver.machine.cpuid.cbitPosition);
	const highest = BigInt(Math.max(sev.ghcbVersion, GHCB_VERSION_MIN));
	return SEV_INFO_RESPONSE | (highest << 48n) | (BigInt(GHCB_VERSION_MIN) << 32n) | (cBit << 24n);
}
