import type { Hva } from '@cvm/layout';
import { COMMANDS, MEASUREMENT_SIZE } from '@cvm/sev-hw/abi';
import { Errno } from '../abi/errno.js';
import { BLOB_LIMIT, fails, type SevResult } from '../ccp/sev-device.js';
import { bindAsid, copyBlob, issueOnGuest, type SevContext, withCbit } from './context.js';

/** KVM_SEV_LAUNCH_START. With a guest owner, both the owner's certificate and the session he made; without, neither. */
export interface LaunchStartRequest {
	readonly policy: number;
	readonly dhCert?: Uint8Array;
	readonly session?: Uint8Array;
}

/** Makes the firmware's guest and binds it to the VM's ASID. */
export function launchStart(sev: SevContext, { policy, dhCert, session }: LaunchStartRequest): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	const fields: {
		policy: number;
		dhCertPaddr?: bigint;
		dhCertLen?: number;
		sessionPaddr?: bigint;
		sessionLen?: number;
	} = {
		policy,
	};
	if (dhCert !== undefined) {
		const { errno, paddr, length } = copyBlob(sev.driver.scratch(0), dhCert);
		if (errno !== 0) return fails(errno);
		fields.dhCertPaddr = paddr;
		fields.dhCertLen = length;
	}
	if (session !== undefined) {
		const { errno, paddr, length } = copyBlob(sev.driver.scratch(1), session);
		if (errno !== 0) return fails(errno);
		fields.sessionPaddr = paddr;
		fields.sessionLen = length;
	}
	const { ret, error, out } = sev.driver.issue(COMMANDS.LAUNCH_START, fields);
	return ret === 0 ? bindAsid(sev, out.handle, { decommissionOnFailure: true }) : { ret, error };
}

/** KVM_SEV_LAUNCH_UPDATE_DATA: encrypts in place and measures. Mappings are physically contiguous, so it is one command. */
export function launchUpdateData(
	sev: SevContext,
	{ uaddr, len }: { readonly uaddr: Hva; readonly len: number },
): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	if (len === 0) return fails(Errno.EINVAL);
	const at = sev.memory.resolve(uaddr, len);
	if (at < 0) return fails(Errno.ENOMEM);
	const { ret, error } = issueOnGuest(sev, COMMANDS.LAUNCH_UPDATE_DATA, { paddr: withCbit(sev, at), length: len });
	return { ret, error };
}

/** Measurement 32 ‖ nonce 16; empty unless `ret` is 0. `len`: what the firmware wants, after a length query too. */
export type MeasureResult = SevResult & { readonly measurement: Uint8Array; readonly len: number };

/** KVM_SEV_LAUNCH_MEASURE into a buffer of `len` bytes; 0 asks for the length: −EIO with INVALID_LENGTH. */
export function launchMeasure(sev: SevContext, len: number): MeasureResult {
	const nothing = { measurement: new Uint8Array(0), len };
	if (!sev.active) return { ...fails(Errno.ENOTTY), ...nothing };
	if (len > BLOB_LIMIT) return { ...fails(Errno.EINVAL), ...nothing };
	const buffer = sev.driver.scratch(0);
	const paddr = len === 0 ? 0n : BigInt(buffer.spa);
	const { ret, error, out } = issueOnGuest(sev, COMMANDS.LAUNCH_MEASURE, { paddr, length: len });
	if (len === 0) return { ret, error, measurement: new Uint8Array(0), len: out?.length ?? 0 };
	if (ret !== 0) return { ret, error, ...nothing };
	return { ret, error, measurement: new Uint8Array(buffer.bytes.slice(0, MEASUREMENT_SIZE)), len: out?.length ?? len };
}

/** KVM_SEV_LAUNCH_SECRET: `data` and its 52-byte packet header as the owner sealed them, to be put at `guestUaddr`. */
export interface LaunchSecretRequest {
	readonly header: Uint8Array;
	readonly guestUaddr: Hva;
	readonly data: Uint8Array;
}

/** Hands an owner's secret to the guest. */
export function launchSecret(sev: SevContext, { header, guestUaddr, data }: LaunchSecretRequest): SevResult {
	if (!sev.active) return fails(Errno.ENOTTY);
	if (data.length === 0) return fails(Errno.EINVAL);
	const at = sev.memory.resolve(guestUaddr, data.length);
	if (at < 0) return fails(Errno.ENOMEM);
	const trans = copyBlob(sev.driver.scratch(0), data);
	if (trans.errno !== 0) return fails(trans.errno);
	const hdr = copyBlob(sev.driver.scratch(1), header);
	if (hdr.errno !== 0) return fails(hdr.errno);
	const { ret, error } = issueOnGuest(sev, COMMANDS.LAUNCH_SECRET, {
		hdrPaddr: hdr.paddr,
		hdrLen: hdr.length,
		guestPaddr: withCbit(sev, at),
		guestLen: data.length,
		transPaddr: trans.paddr,
		transLen: trans.length,
	});
	return { ret, error };
}
