import type { CryptoProvider, RandomSource } from '@cvm/crypto';
import { Status, statusName } from '../abi/status.js';
import { generateP384PrivateKey, isPrivateKey, isPrivateKeyOf } from '../certificates/key-generation.js';
import {
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	certKeyOf,
	readSevCertificate,
	SEV_CERT_SIZE,
	type SignatureSlot,
	signSevCertificate,
	verifySevCertificate,
} from '../certificates/sev-certificate.js';
import { OwnerError } from './error.js';

/** An owner's certificate authority: who signs a platform's PEK makes the platform its own. */
export interface Oca {
	/** Self-signed certificate, 2084 bytes. */
	readonly cert: Uint8Array;
	/** SECRET: P-384 scalar, 48 bytes, big-endian. */
	readonly privateKey: Uint8Array;
}

/** API version written into a certificate. */
interface CertVersion {
	readonly major: number;
	readonly minor: number;
}

/** Tools of owners write no version: they are not firmware (AMDESE/sev-tool `SEVCert::create_oca_cert`). */
const NO_VERSION: CertVersion = { major: 0, minor: 0 };

/** A new owner with a fresh key. */
export function createOca(o: {
	readonly provider: CryptoProvider;
	readonly random: RandomSource;
	readonly version?: CertVersion;
}): Oca {
	return ocaFromPrivateKey(o.provider, generateP384PrivateKey(o.provider, o.random), o.version);
}

/**
 * The owner of a key (48 bytes, big-endian), with a new self-signed certificate. PEK_CERT_IMPORT and POLICY.DOMAIN
 * compare whole certificates, and signatures may be randomised: keep the certificate beside the key.
 *
 * @throws OwnerError `key` if that is no P-384 private key
 */
export function ocaFromPrivateKey(
	provider: CryptoProvider,
	privateKey: Uint8Array,
	version: CertVersion = NO_VERSION,
): Oca {
	if (!isPrivateKey(provider, privateKey)) {
		throw new OwnerError('key', `OCA key: expected a P-384 scalar of 48 bytes, got ${privateKey.length} bytes`);
	}
	const key = provider.p384.publicKey(privateKey);
	const cert = buildSevCertificate({ version, usage: CertUsage.OCA, algo: CertAlgo.ECDSA_SHA256, key });
	signSevCertificate(provider, cert, { usage: CertUsage.OCA, algo: CertAlgo.ECDSA_SHA256, privateKey });
	return { cert, privateKey: new Uint8Array(privateKey) };
}

/**
 * Puts an owner's signature into the first slot of a PEK's signing request (what PEK_CSR writes), so that
 * PEK_CERT_IMPORT takes it together with `oca.cert`. The request itself stays as it is.
 *
 * @throws OwnerError `csr` if that is no PEK with two empty slots, `key` if certificate and key of the owner do not fit
 */
export function signPekCsr(o: {
	readonly provider: CryptoProvider;
	/** 2084 bytes. */
	readonly csr: Uint8Array;
	readonly oca: Oca;
}): Uint8Array {
	const { provider, csr, oca } = o;
	checkOca(provider, oca);
	checkCsr(provider, csr);
	const { algo } = readSevCertificate(oca.cert);
	const signed = new Uint8Array(csr);
	signSevCertificate(provider, signed, { usage: CertUsage.OCA, algo, privateKey: oca.privateKey });
	return signed;
}

/** @throws OwnerError `key` unless the certificate is a self-signed OCA of the private key */
export function checkOca(provider: CryptoProvider, { cert, privateKey }: Oca): void {
	const certified = certKeyOf(cert);
	const status = verifySevCertificate(provider, cert, certified);
	if (status !== Status.SUCCESS || certified === undefined) {
		throw new OwnerError('key', `OCA certificate: expected a self-signed OCA, got ${statusName(status)}`);
	}
	if (!isPrivateKeyOf(provider, privateKey, certified.key)) {
		throw new OwnerError('key', 'OCA: expected the private key of the certificate, got another one');
	}
}

function checkCsr(provider: CryptoProvider, csr: Uint8Array): void {
	if (csr.length !== SEV_CERT_SIZE) {
		throw new OwnerError('csr', `PEK signing request: expected ${SEV_CERT_SIZE} bytes, got ${csr.length}`);
	}
	const { version, usage, algo, publicKey, slots } = readSevCertificate(csr);
	const isPek = version === 1 && usage === CertUsage.PEK && algo === CertAlgo.ECDSA_SHA256;
	if (!isPek || publicKey === undefined || !provider.p384.isValidPublicKey(publicKey)) {
		throw new OwnerError('csr', 'PEK signing request: expected version 1 with an ECDSA P-384 PEK, got another key');
	}
	if (!slots.every(isEmpty)) {
		throw new OwnerError('csr', 'PEK signing request: expected two empty signature slots, got a taken one');
	}
}

const isEmpty = ({ usage, algo, signature }: SignatureSlot): boolean =>
	usage === CertUsage.INVALID && algo === CertAlgo.INVALID && signature.every((byte) => byte === 0);
