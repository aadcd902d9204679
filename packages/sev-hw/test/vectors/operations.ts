import { constantTimeEqual, kdf } from '@cvm/crypto';
import { toHex } from '@cvm/layout';
import { policyAllowsVersion, policyIsWellFormed } from '../../src/abi/policy.js';
import { Status } from '../../src/abi/status.js';
import { checkDhCertificate, readSevCertificate, SEV_CERT_SIZE } from '../../src/certificates/sev-certificate.js';
import { openPacket, sealPacket } from '../../src/channel/packet.js';
import {
	createSession,
	deriveMasterSecret,
	openSession,
	policyMac,
	sessionBuffer,
	wrappingKeys,
} from '../../src/channel/session.js';
import { fixedRandom, join } from '../fake-platform.js';
import { certificateOperations } from './certificate-operations.js';
import type { Input } from './format.js';
import { launchOperations } from './launch-operations.js';
import { type Operation, success, verdict } from './outcome.js';

const transportKeys = (input: Input) => ({ tek: input.bytes('tek'), tik: input.bytes('tik') });
const measureOf = (input: Input) => (input.has('measure') ? { measure: input.bytes('measure') } : {});

const channelOperations: Readonly<Record<string, Operation>> = {
	kdf: (provider, input) => {
		const { key, context } = { key: input.bytes('key'), context: input.bytes('context') };
		return success({ output: kdf(provider, key, input.text('label'), context, input.number('bits')) });
	},

	'key-wrap': (provider, input) => {
		const { kek, kik } = wrappingKeys(provider, input.bytes('masterSecret'));
		const keys = join(input.bytes('tek'), input.bytes('tik'));
		const { payload } = sealPacket(
			provider,
			{ tek: kek, tik: kik },
			{ context: 0, iv: input.bytes('wrapIv'), plaintext: keys },
		);
		return success({ kek, kik, wrapTk: payload, wrapMac: provider.hmacSha256(kik, payload) });
	},

	'policy-mac': (provider, input) => success({ mac: policyMac(provider, input.bytes('tik'), input.number('policy')) }),

	'session-create': (provider, input) => {
		const certificate = input.bytes('serverCertificate');
		if (certificate.length !== SEV_CERT_SIZE) return verdict(Status.INVALID_LENGTH);
		const status = checkDhCertificate(provider, certificate);
		const peer = readSevCertificate(certificate).publicKey;
		if (status !== Status.SUCCESS || peer === undefined) return verdict(status);
		const privateKey = input.bytes('clientPrivateKey');
		const draws = ['tek', 'tik', 'nonce', 'wrapIv'].map((name) => input.bytes(name));
		const policy = input.number('policy');
		const { session, keys } = createSession(provider, fixedRandom(...draws), { privateKey, peer, policy });
		const sharedSecret = provider.p384.ecdh(privateKey, peer);
		if (toHex(deriveMasterSecret(provider, sharedSecret, keys.nonce)) !== toHex(keys.masterSecret)) {
			throw new Error('session: its master secret is not that of the shared secret');
		}
		return success({ sharedSecret, masterSecret: keys.masterSecret, session });
	},

	// In the order of LAUNCH_START and RECEIVE_START, which `vectors.test.ts` holds to the same cases.
	'session-open': (provider, input) => {
		const { session, certificate } = { session: input.bytes('session'), certificate: input.bytes('clientCertificate') };
		if (session.length !== sessionBuffer.size || certificate.length !== SEV_CERT_SIZE) {
			return verdict(Status.INVALID_LENGTH);
		}
		const sane = checkDhCertificate(provider, certificate);
		const peer = readSevCertificate(certificate).publicKey;
		if (sane !== Status.SUCCESS || peer === undefined) return verdict(sane);
		const { status, keys } = openSession(provider, { privateKey: input.bytes('serverPrivateKey'), peer, session });
		if (keys === undefined) return verdict(status);
		const policy = input.number('policy');
		const genuine = constantTimeEqual(policyMac(provider, keys.tik, policy), sessionBuffer.decode(session).policyMac);
		if (!genuine) return verdict(Status.BAD_MEASUREMENT);
		const platform = input.object('platform');
		const version = { major: platform.number('major'), minor: platform.number('minor') };
		const allowed = policyAllowsVersion(policy, version) && policyIsWellFormed(policy);
		if (!allowed) return verdict(Status.POLICY_FAILURE);
		return success({ masterSecret: keys.masterSecret, tek: keys.tek, tik: keys.tik });
	},

	'packet-seal': (provider, input) => {
		const [context, iv, plaintext] = [input.number('context'), input.bytes('iv'), input.bytes('plaintext')];
		const { header, payload } = sealPacket(provider, transportKeys(input), {
			context,
			iv,
			plaintext,
			...measureOf(input),
		});
		return success({ header, payload });
	},

	'packet-open': (provider, input) => {
		const { status, plaintext } = openPacket(provider, transportKeys(input), {
			context: input.number('context'),
			header: input.bytes('header'),
			guestLength: input.number('guestLength'),
			payload: input.bytes('payload'),
			...measureOf(input),
		});
		return plaintext === undefined ? verdict(status) : success({ plaintext });
	},
};

/** Every operation by its name in the vector files. */
export const operations: Readonly<Record<string, Operation>> = {
	...channelOperations,
	...launchOperations,
	...certificateOperations,
};
