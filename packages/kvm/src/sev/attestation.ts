import { ATTESTATION_SIZE } from '@cvm/sev-hw/abi';
import type { SevResult } from '../ccp/sev-device.js';
import type { SevContext } from './context.js';
import { answerBuffer, bytesBuffer, given } from './handlers/argument.js';
import * as handlers from './handlers/attestation.js';

/** KVM_SEV_GET_ATTESTATION_REPORT. */
export interface AttestationRequest {
	/** 16 bytes that the report repeats. */
	readonly mnonce: Uint8Array;
	/** Bytes of the buffer, 208 by default; 0 asks for the length: −EIO with INVALID_LENGTH. */
	readonly len?: number;
	/** `false`: the address of the buffer is 0. */
	readonly hasBuffer?: boolean;
}

/** The report (`attestationReport` of `@cvm/sev-hw/abi`), empty unless `ret` is 0. `len`: what the firmware wants, after a query. */
export type AttestationResult = SevResult & { readonly report: Uint8Array; readonly len: number };

/** @throws RangeError unless the nonce has 16 bytes */
export function getAttestationReport(sev: SevContext, request: AttestationRequest): AttestationResult {
	const { mnonce, len = ATTESTATION_SIZE, hasBuffer = true } = request;
	if (mnonce.length !== 16) throw new RangeError(`mnonce: expected 16 bytes, got ${mnonce.length}`);
	const buffer = answerBuffer(len);
	const argument = given<handlers.AttestationReport, { readonly len: number }>({
		mnonce,
		buffer: hasBuffer ? buffer : { ...bytesBuffer(undefined), length: len },
	});
	const { ret, error } = handlers.getAttestationReport(sev, argument);
	return { ret, error, report: buffer.answer, len: argument.answer?.len ?? len };
}
