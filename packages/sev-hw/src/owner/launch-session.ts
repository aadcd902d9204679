import { type CryptoProvider, type RandomSource, wipe } from '@cvm/crypto';
import { Status, statusName } from '../abi/status.js';
import { generateP384PrivateKey, isPrivateKey } from '../certificates/key-generation.js';
import {
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	checkDhCertificate,
	readSevCertificate,
} from '../certificates/sev-certificate.js';
import { type ChannelKeys, createSession } from '../channel/session.js';
import { OwnerError } from './error.js';

/** What starts a launch: two blobs for the host, and the keys that the owner keeps. */
export interface LaunchSession {
	/** The owner's Diffie-Hellman certificate, 2084 bytes, for LAUNCH_START. Unsigned: firmware looks at no signature. */
	readonly dhCert: Uint8Array;
	/** The session buffer, 128 bytes, for LAUNCH_START. */
	readonly session: Uint8Array;
	/** SECRET: stays with the owner, to check the measurement and to package secrets. */
	readonly keys: ChannelKeys;
}

/**
 * Prepares the launch of a guest on one platform: a key pair, fresh unless one is given, and fresh transport keys that
 * only this platform's firmware can unwrap. Verify the platform first (`verifyPlatform`), or the keys go to whoever made the certificate.
 *
 * @throws OwnerError `platform-pdh` if the certificate holds no usable Diffie-Hellman key, `key` if the owner's is none
 */
export function createLaunchSession(o: {
	readonly provider: CryptoProvider;
	readonly random: RandomSource;
	/** The platform's PDH certificate, 2084 bytes. */
	readonly platformPdh: Uint8Array;
	readonly policy: number;
	/** SECRET: an existing Diffie-Hellman key instead of a fresh one, 48 bytes, big-endian. It is not wiped. */
	readonly privateKey?: Uint8Array;
}): LaunchSession {
	const { provider, random, policy } = o;
	const status = checkDhCertificate(provider, o.platformPdh);
	const pdh = status === Status.SUCCESS ? readSevCertificate(o.platformPdh) : undefined;
	if (pdh?.publicKey === undefined) {
		throw new OwnerError('platform-pdh', `platform PDH: expected an ECDH P-384 certificate, got ${statusName(status)}`);
	}
	const privateKey =
		o.privateKey === undefined ? generateP384PrivateKey(provider, random) : new Uint8Array(o.privateKey);
	if (!isPrivateKey(provider, privateKey)) {
		throw new OwnerError('key', `owner's key: expected a P-384 scalar of 48 bytes, got ${privateKey.length} bytes`);
	}
	const { session, keys } = createSession(provider, random, { privateKey, peer: pdh.publicKey, policy });
	const dhCert = buildSevCertificate({
		version: { major: pdh.apiMajor, minor: pdh.apiMinor },
		usage: CertUsage.PDH,
		algo: CertAlgo.ECDH_SHA256,
		key: provider.p384.publicKey(privateKey),
	});
	wipe(privateKey);
	return { dhCert, session, keys };
}
