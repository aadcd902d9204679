import type { Hva } from '@cvm/layout';
import { MEASUREMENT_SIZE } from '@cvm/sev-hw/abi';
import type { SevResult } from '../ccp/sev-device.js';
import type { SevContext } from './context.js';
import { answerBuffer, bytesBuffer, given, range } from './handlers/argument.js';
import * as handlers from './handlers/launch.js';

/** KVM_SEV_LAUNCH_START. With a guest owner, both the owner's certificate and the session he made; without, neither. */
export interface LaunchStartRequest {
	/** 0 by default: a key of its own; else the handle of a guest of this host to share the key with. */
	readonly handle?: number;
	readonly policy: number;
	readonly dhCert?: Uint8Array;
	readonly session?: Uint8Array;
}

/** The facade's /dev/sev cannot be closed. */
export const alwaysOpen = (): boolean => true;

/** Makes the firmware's guest and binds it to the VM's ASID. */
export const launchStart = (sev: SevContext, { handle = 0, policy, dhCert, session }: LaunchStartRequest): SevResult =>
	handlers.launchStart(
		sev,
		given({ handle, policy, dhCert: bytesBuffer(dhCert), session: bytesBuffer(session) }),
		alwaysOpen,
	);

/** KVM_SEV_LAUNCH_UPDATE_DATA: encrypts in place and measures. */
export const launchUpdateData = (
	sev: SevContext,
	{ uaddr, len }: { readonly uaddr: Hva; readonly len: number },
): SevResult => handlers.launchUpdateData(sev, given(range(uaddr, len)));

/** Measurement 32 ‖ nonce 16; empty unless `ret` is 0. `len`: what the firmware wants, after a length query too. */
export type MeasureResult = SevResult & { readonly measurement: Uint8Array; readonly len: number };

/** KVM_SEV_LAUNCH_MEASURE into a buffer of `len` bytes; 0 asks for the length: −EIO with INVALID_LENGTH. */
export function launchMeasure(sev: SevContext, len: number): MeasureResult {
	const buffer = answerBuffer(len);
	const argument = given<handlers.LaunchMeasure, { readonly len: number }>({ buffer });
	const result = handlers.launchMeasure(sev, argument);
	return { ...result, measurement: buffer.answer.subarray(0, MEASUREMENT_SIZE), len: argument.answer?.len ?? len };
}

/** KVM_SEV_LAUNCH_SECRET: `data` and its 52-byte packet header as the owner sealed them, to be put at `guestUaddr`. */
export interface LaunchSecretRequest {
	readonly header: Uint8Array;
	readonly guestUaddr: Hva;
	/** Bytes of guest memory: those of `data` by default. */
	readonly guestLen?: number;
	readonly data: Uint8Array;
}

/** Hands an owner's secret to the guest. */
export const launchSecret = (sev: SevContext, request: LaunchSecretRequest): SevResult => {
	const { header, guestUaddr, data, guestLen = data.length } = request;
	return handlers.launchSecret(
		sev,
		given({ header: bytesBuffer(header), guest: range(guestUaddr, guestLen), data: bytesBuffer(data) }),
	);
};
