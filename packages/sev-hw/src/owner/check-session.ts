import { type CryptoProvider, constantTimeEqual } from '@cvm/crypto';
import { Status } from '../abi/status.js';
import { isPrivateKeyOf } from '../certificates/key-generation.js';
import { certKeyOf, checkDhCertificate } from '../certificates/sev-certificate.js';
import { type ChannelKeys, openSession, policyMac, sessionBuffer } from '../channel/session.js';

/** What is left of a prepared launch, to be checked before it is used. */
export interface SessionEvidence {
	/** The owner's Diffie-Hellman certificate, 2084 bytes. */
	readonly dhCert: Uint8Array;
	/** The session buffer, 128 bytes. */
	readonly session: Uint8Array;
	/** SECRET: the transport keys that the owner kept. */
	readonly keys: Pick<ChannelKeys, 'tek' | 'tik'>;
	readonly policy: number;
	/** Needed to look into the wrapping: the platform's PDH certificate and the owner's private key (SECRET, 48 bytes). */
	readonly wrap?: { readonly privateKey: Uint8Array; readonly platformPdh: Uint8Array };
}

/** `failed` names what does not fit the rest. */
export interface SessionVerdict {
	readonly status: Status;
	readonly failed?: 'dh-cert' | 'session' | 'policy' | 'platform-pdh' | 'keys';
}

/**
 * Whether certificate, session buffer, kept keys and policy belong together, as far as can be told without the platform:
 * what LAUNCH_START would refuse is refused here, with its status. The certificate is tied to the session only where
 * `wrap` is given.
 */
export function checkLaunchSession(provider: CryptoProvider, o: SessionEvidence): SessionVerdict {
	const { dhCert, session, keys, policy, wrap } = o;
	if (checkDhCertificate(provider, dhCert) !== Status.SUCCESS) return failure(Status.INVALID_CERTIFICATE, 'dh-cert');
	if (session.length !== sessionBuffer.size) return failure(Status.INVALID_LENGTH, 'session');
	if (!constantTimeEqual(sessionBuffer.decode(session).policyMac, policyMac(provider, keys.tik, policy))) {
		return failure(Status.BAD_MEASUREMENT, 'policy');
	}
	return wrap === undefined ? { status: Status.SUCCESS } : checkWrapping(provider, o, wrap);
}

function checkWrapping(
	provider: CryptoProvider,
	{ dhCert, session, keys }: SessionEvidence,
	{ privateKey, platformPdh }: NonNullable<SessionEvidence['wrap']>,
): SessionVerdict {
	const peer = certKeyOf(platformPdh)?.key;
	if (checkDhCertificate(provider, platformPdh) !== Status.SUCCESS || peer === undefined) {
		return failure(Status.INVALID_CERTIFICATE, 'platform-pdh');
	}
	const certified = certKeyOf(dhCert)?.key;
	if (certified === undefined || !isPrivateKeyOf(provider, privateKey, certified)) {
		return failure(Status.INVALID_CERTIFICATE, 'dh-cert');
	}
	// The shared point is the same from both ends, so the owner can open what it wrapped for the platform.
	const opened = openSession(provider, { privateKey, peer, session });
	if (opened.keys === undefined) return failure(opened.status, 'session');
	const same = constantTimeEqual(opened.keys.tek, keys.tek) && constantTimeEqual(opened.keys.tik, keys.tik);
	return same ? { status: Status.SUCCESS } : failure(Status.BAD_MEASUREMENT, 'keys');
}

const failure = (status: Status, failed: SessionVerdict['failed'] & string): SessionVerdict => ({ status, failed });
