import { type CryptoProvider, type RandomSource, wipe } from '@cvm/crypto';
import type { FirmwareVersion } from '../abi/policy.js';
import { generateP384PrivateKey } from '../certificates/key-generation.js';
import {
	addSignature,
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	readSevCertificate,
	SEV_CERT_BODY_SIZE,
	SEV_CERT_SIZE,
	sevCertificate,
	signSevCertificate,
} from '../certificates/sev-certificate.js';

/** A key pair of the platform: private scalar (48 bytes, big-endian) and certificate. */
export interface CertifiedKey {
	readonly privateKey: Uint8Array;
	readonly certificate: Uint8Array;
}

/** The certificate of somebody else's OCA: the private key is not here. */
interface ForeignKey {
	readonly privateKey?: undefined;
	readonly certificate: Uint8Array;
}

/** What is stored of an {@link Identity}. INIT makes what is missing. */
export type StoredIdentity =
	| { readonly owner: 'self'; readonly oca?: CertifiedKey; readonly pek?: CertifiedKey; readonly pdh?: CertifiedKey }
	| { readonly owner: 'external'; readonly oca: ForeignKey; readonly pek: CertifiedKey; readonly pdh?: CertifiedKey };

/**
 * The platform's keys. The CEK comes from the chip at each INIT; the others are stored. `owner` self: this firmware made
 * the OCA; external: PEK_CERT_IMPORT brought its certificate.
 */
export type Identity = { readonly cek: CertifiedKey; readonly pek: CertifiedKey; readonly pdh: CertifiedKey } & (
	| { readonly owner: 'self'; readonly oca: CertifiedKey }
	| { readonly owner: 'external'; readonly oca: ForeignKey }
);

/** What certificates are made with. */
export interface Issuer {
	readonly provider: CryptoProvider;
	readonly random: RandomSource;
	readonly version: FirmwareVersion;
}

/** The chip's endorsement key with its certificate, whose signature slots stay empty: AMD's key server signs it. */
export function endorsementKey(issuer: Issuer, privateKey: Uint8Array): CertifiedKey {
	return { privateKey, certificate: unsigned(issuer, CertUsage.CEK, privateKey) };
}

/** New OCA (signed by itself), PEK (signed by the OCA, then by the CEK) and PDH: a self-owned platform. */
export const createIdentity = (issuer: Issuer, cek: CertifiedKey): Identity =>
	completeIdentity(issuer, cek, { owner: 'self' });

/**
 * Makes what is missing: without an OCA everything, without a PEK that and the PDH. What is there stays as it is, with
 * certificates of earlier firmware versions.
 */
export function completeIdentity(issuer: Issuer, cek: CertifiedKey, stored: StoredIdentity): Identity {
	if (stored.owner === 'external') return { ...stored, cek, pdh: stored.pdh ?? createPdh(issuer, stored.pek) };
	const oca = stored.oca ?? signedKey(issuer, CertUsage.OCA);
	const pek = (stored.oca && stored.pek) ?? createPek(issuer, oca, cek);
	const pdh = (pek === stored.pek ? stored.pdh : undefined) ?? createPdh(issuer, pek);
	return { owner: 'self', cek, oca, pek, pdh };
}

/** A new Diffie-Hellman key, signed by the PEK. */
export const createPdh = (issuer: Issuer, pek: CertifiedKey): CertifiedKey =>
	signedKey(issuer, CertUsage.PDH, [{ usage: CertUsage.PEK, key: pek }]);

/** The request that an owner signs: the PEK certificate with both signature slots empty. */
export function csrOf({ pek }: Identity): Uint8Array {
	const csr = new Uint8Array(SEV_CERT_SIZE);
	csr.set(pek.certificate.subarray(0, SEV_CERT_BODY_SIZE));
	sevCertificate.patch(csr, { sig1Usage: CertUsage.INVALID, sig2Usage: CertUsage.INVALID });
	return csr;
}

/**
 * Copies the chip's signature of the PEK certificate `from` into the first empty slot of `to`, which has the same body.
 * False, with nothing written, if none is empty.
 */
export function copyCekSignature(from: Uint8Array, to: Uint8Array): boolean {
	const slot = readSevCertificate(from).slots.find(({ usage }) => usage === CertUsage.CEK);
	return slot !== undefined && addSignature(to, slot);
}

/** Forgets private keys. The CEK's stays: it is the chip's. */
export function wipeIdentity({ oca, pek, pdh }: StoredIdentity): void {
	for (const key of [oca, pek, pdh]) if (key?.privateKey !== undefined) wipe(key.privateKey);
}

const createPek = (issuer: Issuer, oca: CertifiedKey, cek: CertifiedKey): CertifiedKey =>
	signedKey(issuer, CertUsage.PEK, [
		{ usage: CertUsage.OCA, key: oca },
		{ usage: CertUsage.CEK, key: cek },
	]);

/** A fresh key whose certificate the signers sign in order; without signers it signs itself. */
function signedKey(
	issuer: Issuer,
	usage: CertUsage,
	signers?: readonly { readonly usage: CertUsage; readonly key: CertifiedKey }[],
): CertifiedKey {
	const privateKey = generateP384PrivateKey(issuer.provider, issuer.random);
	const certificate = unsigned(issuer, usage, privateKey);
	const own: CertifiedKey = { privateKey, certificate };
	for (const signer of signers ?? [{ usage, key: own }]) {
		signSevCertificate(issuer.provider, certificate, {
			usage: signer.usage,
			algo: CertAlgo.ECDSA_SHA256,
			privateKey: signer.key.privateKey,
		});
	}
	return own;
}

function unsigned({ provider, version }: Issuer, usage: CertUsage, privateKey: Uint8Array): Uint8Array {
	const algo = usage === CertUsage.PDH ? CertAlgo.ECDH_SHA256 : CertAlgo.ECDSA_SHA256;
	return buildSevCertificate({ version, usage, algo, key: provider.p384.publicKey(privateKey) });
}
