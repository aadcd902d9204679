import type { Infer } from '@cvm/layout';
import { PLATFORM_CHAIN_SIZE, type receiveStartBuffer, SESSION_SIZE, type sendStartBuffer } from '../../abi/buffers.js';
import { Policy, policyAllowsVersion } from '../../abi/policy.js';
import { Status } from '../../abi/status.js';
import { splitAmdCertificates } from '../../certificates/amd-certificate.js';
import { verifyOwnerChain, verifyPlatformChain } from '../../certificates/chain.js';
import { checkDhCertificate, readSevCertificate, SEV_CERT_SIZE } from '../../certificates/sev-certificate.js';
import { createSession } from '../../channel/session.js';
import { closeChannel, type Guest, openChannel } from '../guests.js';
import type { CreatingHandler, GuestHandler, Platform } from '../platform.js';
import { OK, refuse } from '../reply.js';
import { acceptChannel, makeGuest } from './new-guest.js';
import { requireIdentity } from './platform.js';

type SendStart = Infer<typeof sendStartBuffer>;

/** Lengths of ASK ‖ ARK with keys of 2048 and 4096 bits, in any combination. */
const AMD_CHAIN_SIZES: readonly number[] = [1664, 2176, 2688, 3200];

/**
 * SEV API 0.24 SEND_START: proves the target as far as the policy asks, and makes a session for its PDH. Chains that the
 * policy does not ask for are not even read.
 */
export const sendStart: GuestHandler<SendStart> = {
	beforeState: (_psp, _guest, { sessionLen }) =>
		sessionLen === SESSION_SIZE ? OK : { status: Status.INVALID_LENGTH, out: { sessionLen: SESSION_SIZE } },
	run: (psp, guest, b) => {
		const { policy } = guest;
		if ((policy & Policy.NOSEND) !== 0) return refuse(Status.POLICY_FAILURE);
		for (const prove of [proveAmdPlatform, proveOwner]) {
			const status = prove(psp, guest, b);
			if (status !== Status.SUCCESS) return refuse(status);
		}
		if (b.pdhCertLen !== SEV_CERT_SIZE) return refuse(Status.INVALID_LENGTH);
		const pdh = readBlob(psp, b.pdhCertPaddr, SEV_CERT_SIZE);
		const sessionAt = psp.memory.resolveLong(b.sessionPaddr, SESSION_SIZE);
		if (pdh === undefined || sessionAt < 0) return refuse(Status.INVALID_ADDRESS);
		const sane = checkDhCertificate(psp.provider, pdh);
		const peer = readSevCertificate(pdh).publicKey;
		if (sane !== Status.SUCCESS || peer === undefined) return refuse(Status.INVALID_CERTIFICATE);

		const { privateKey } = requireIdentity(psp).pdh;
		const { session, keys } = createSession(psp.provider, psp.random, { privateKey, peer, policy });
		closeChannel(psp.provider, guest);
		guest.channel = openChannel(psp.provider, keys);
		psp.memory.dram.set(session, sessionAt);
		return { status: Status.SUCCESS, out: { policy } };
	},
};

/** POLICY.SEV: the target's chain ends in the trusted root, and its PEK was made by firmware new enough for the policy. */
function proveAmdPlatform(psp: Platform, { policy }: Guest, b: SendStart): Status {
	if ((policy & Policy.SEV) === 0) return Status.SUCCESS;
	const lengthsFit =
		b.platCertsLen === PLATFORM_CHAIN_SIZE && b.pdhCertLen === SEV_CERT_SIZE && AMD_CHAIN_SIZES.includes(b.amdCertsLen);
	if (!lengthsFit) return Status.INVALID_LENGTH;
	const chain = readPlatformChain(psp, b);
	const amd = readBlob(psp, b.amdCertsPaddr, b.amdCertsLen);
	if (chain === undefined || amd === undefined) return Status.INVALID_ADDRESS;
	const roots = splitAmdCertificates(amd);
	if (roots === undefined) return Status.INVALID_LENGTH;
	const { status } = verifyPlatformChain(psp.provider, { ...chain, ...roots }, psp.trustedRoot);
	if (status !== Status.SUCCESS) return status;
	const { apiMajor, apiMinor } = readSevCertificate(chain.pek);
	return policyAllowsVersion(policy, { major: apiMajor, minor: apiMinor }) ? Status.SUCCESS : Status.POLICY_FAILURE;
}

/** POLICY.DOMAIN: the target's owner is ours. */
function proveOwner(psp: Platform, { policy }: Guest, b: SendStart): Status {
	if ((policy & Policy.DOMAIN) === 0) return Status.SUCCESS;
	if (b.platCertsLen !== PLATFORM_CHAIN_SIZE || b.pdhCertLen !== SEV_CERT_SIZE) return Status.INVALID_LENGTH;
	const chain = readPlatformChain(psp, b);
	if (chain === undefined) return Status.INVALID_ADDRESS;
	const { status } = verifyOwnerChain(psp.provider, chain);
	if (status !== Status.SUCCESS) return status;
	const ours = requireIdentity(psp).oca.certificate;
	return chain.oca.every((byte, i) => byte === ours[i]) ? Status.SUCCESS : Status.POLICY_FAILURE;
}

function readPlatformChain(psp: Platform, b: SendStart) {
	const pdh = readBlob(psp, b.pdhCertPaddr, SEV_CERT_SIZE);
	const certs = readBlob(psp, b.platCertsPaddr, PLATFORM_CHAIN_SIZE);
	if (pdh === undefined || certs === undefined) return undefined;
	const at = (i: number) => certs.subarray(i * SEV_CERT_SIZE, (i + 1) * SEV_CERT_SIZE);
	return { pdh, pek: at(0), oca: at(1), cek: at(2) };
}

function readBlob(psp: Platform, paddr: bigint, length: number): Uint8Array | undefined {
	const at = psp.memory.resolveLong(paddr, length);
	return at < 0 ? undefined : psp.memory.read(at, length);
}

/** SEV API 0.24 RECEIVE_START. The source is not authenticated: its PDH needs no signature. */
export const receiveStart: CreatingHandler<Infer<typeof receiveStartBuffer>> = (psp, b) => {
	const { handle, policy, pdhCertPaddr, pdhCertLen, sessionPaddr, sessionLen } = b;
	const accepted = acceptChannel(psp, {
		certPaddr: pdhCertPaddr,
		certLen: pdhCertLen,
		sessionPaddr,
		sessionLen,
		policy,
	});
	if (accepted.value === undefined) return accepted;
	return makeGuest(psp, { shareWith: handle, policy, channel: accepted.value, checkPolicy: true });
};
