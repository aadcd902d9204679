import { constantTimeEqual, type Hash } from '@cvm/crypto';
import { CONFIG_ES, SESSION_SIZE } from '../../abi/buffers.js';
import { Policy, policyAllowsVersion, policyIsWellFormed } from '../../abi/policy.js';
import { Status } from '../../abi/status.js';
import { checkDhCertificate, readSevCertificate, SEV_CERT_SIZE } from '../../certificates/sev-certificate.js';
import { openSession, policyMac, sessionBuffer } from '../../channel/session.js';
import { type Channel, type NewGuest, openChannel, wipeChannel } from '../guests.js';
import type { CreatingHandler, Platform } from '../platform.js';
import { refuse } from '../reply.js';
import { requireIdentity } from './platform.js';

/** A step that ends in a value or in a refusal. */
type Outcome<T> =
	| { readonly status: typeof Status.SUCCESS; readonly value: T }
	| { readonly status: Status; readonly value?: never };

/**
 * The server's half of the key agreement in LAUNCH_START and RECEIVE_START: takes TEK and TIK from the session buffer
 * that the peer made for our PDH, and checks that the policy is the one the session was made for.
 */
export function acceptChannel(
	psp: Platform,
	o: { certPaddr: bigint; certLen: number; sessionPaddr: bigint; sessionLen: number; policy: number },
): Outcome<Channel> {
	if (o.sessionLen !== SESSION_SIZE) return refuse(Status.INVALID_LENGTH);
	const sessionAt = psp.memory.resolveLong(o.sessionPaddr, SESSION_SIZE);
	if (sessionAt < 0) return refuse(Status.INVALID_ADDRESS);
	const session = psp.memory.read(sessionAt, SESSION_SIZE);
	if (o.certLen !== SEV_CERT_SIZE) return refuse(Status.INVALID_LENGTH);
	const certAt = psp.memory.resolveLong(o.certPaddr, SEV_CERT_SIZE);
	if (certAt < 0) return refuse(Status.INVALID_ADDRESS);
	const cert = psp.memory.read(certAt, SEV_CERT_SIZE);

	const sane = checkDhCertificate(psp.provider, cert);
	const peer = readSevCertificate(cert).publicKey;
	if (sane !== Status.SUCCESS || peer === undefined) return refuse(Status.INVALID_CERTIFICATE);
	const { privateKey } = requireIdentity(psp).pdh;
	const { status, keys } = openSession(psp.provider, { privateKey, peer, session });
	if (keys === undefined) return refuse(status);
	const expected = policyMac(psp.provider, keys.tik, o.policy);
	const channel = openChannel(psp.provider, keys);
	if (constantTimeEqual(expected, sessionBuffer.decode(session).policyMac)) {
		return { status: Status.SUCCESS, value: channel };
	}
	wipeChannel(channel);
	return refuse(Status.BAD_MEASUREMENT);
}

/** What LAUNCH_START and RECEIVE_START make a guest from. */
interface NewGuestOptions {
	/** Handle of the guest whose memory key the new one shares; 0: it gets a fresh one. */
	readonly shareWith: number;
	readonly policy: number;
	readonly channel: Channel;
	readonly digest?: Hash;
	/** Whether the policy's version and reserved bits are looked at. */
	readonly checkPolicy: boolean;
}

/**
 * The end of LAUNCH_START and RECEIVE_START: checks the policy and makes the guest. The channel is wiped if that is
 * refused.
 */
export function makeGuest(psp: Platform, o: NewGuestOptions): ReturnType<CreatingHandler<never>> {
	const { status, value } = checkedGuest(psp, o);
	if (value === undefined) wipeChannel(o.channel);
	return value === undefined ? refuse(status) : { status, guest: value };
}

function checkedGuest(psp: Platform, o: NewGuestOptions): Outcome<NewGuest> {
	const { shareWith, policy, channel, digest } = o;
	const acceptable = policyAllowsVersion(policy, psp.version) && policyIsWellFormed(policy);
	if (o.checkPolicy && !acceptable) return refuse(Status.POLICY_FAILURE);
	const other = psp.guests.get(shareWith);
	if (shareWith !== 0) {
		if (other === undefined) return refuse(Status.INVALID_GUEST);
		if (other.policy !== policy || (policy & Policy.NOKS) !== 0) return refuse(Status.POLICY_FAILURE);
	}
	if (psp.guests.isFull()) return refuse(Status.RESOURCE_LIMIT);
	if ((policy & Policy.ES) !== 0 && (psp.config & CONFIG_ES) === 0) return refuse(Status.UNSUPPORTED);
	const value: NewGuest = {
		policy,
		vek: other === undefined ? psp.random.bytes(16) : other.vek.slice(),
		oek: psp.random.bytes(32),
		swapIv: 0n,
		asid: 0,
		channel,
		digest,
		measure: new Uint8Array(32),
		launchDigest: new Uint8Array(32),
	};
	return { status: Status.SUCCESS, value };
}
