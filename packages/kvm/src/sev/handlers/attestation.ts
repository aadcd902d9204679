import { COMMANDS } from '@cvm/sev-hw/abi';
import { Errno } from '../../abi/errno.js';
import { fails, type SevResult } from '../../ccp/sev-device.js';
import { issueOnGuest, type SevContext } from '../context.js';
import type { Argument, UserBuffer } from './argument.js';
import { measure } from './launch.js';

/** `struct kvm_sev_attestation_report`. */
export interface AttestationReport {
	/** 16 bytes of the caller's choice. */
	readonly mnonce: Uint8Array;
	/** `length` 0: a length query. */
	readonly buffer: UserBuffer;
}

/**
 * KVM_SEV_GET_ATTESTATION_REPORT: sev_get_attestation_report (Linux 5.13). The firmware signs the launch digest and the nonce
 * with the platform's PEK.
 */
export function getAttestationReport(
	sev: SevContext,
	argument: Argument<AttestationReport, { readonly len: number }>,
): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const input = argument.read();
	if (input === undefined) return fails(Errno.EFAULT);
	const { mnonce, buffer } = input;
	const hasBuffer = buffer.length !== 0 && !buffer.isNull;
	return measure(sev, buffer, argument, (paddr, length) =>
		// Without a buffer Linux fills neither the address, nor the length, nor the nonce.
		issueOnGuest(sev, COMMANDS.ATTESTATION, hasBuffer ? { paddr, length, mnonce } : {}),
	);
}
