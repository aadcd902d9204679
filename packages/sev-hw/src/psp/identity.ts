import type { CryptoProvider, RandomSource } from '@cvm/crypto';
import type { FirmwareVersion } from '../abi/policy.js';
import { generateP384PrivateKey } from '../certificates/key-generation.js';
import { buildSevCertificate, CertAlgo, CertUsage, signSevCertificate } from '../certificates/sev-certificate.js';

/** A key pair of the platform: private scalar (48 bytes, big-endian) and certificate. */
export interface CertifiedKey {
	readonly privateKey: Uint8Array;
	readonly certificate: Uint8Array;
}

/** The platform's keys. The CEK comes from the chip at each INIT; the others are stored. */
export interface Identity {
	readonly cek: CertifiedKey;
	readonly oca: CertifiedKey;
	readonly pek: CertifiedKey;
	readonly pdh: CertifiedKey;
}

/** What is stored of an {@link Identity}. */
export type StoredIdentity = Omit<Identity, 'cek'>;

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
export function createIdentity(issuer: Issuer, cek: CertifiedKey): Identity {
	const oca = signedKey(issuer, CertUsage.OCA);
	const pek = signedKey(issuer, CertUsage.PEK, [
		{ usage: CertUsage.OCA, key: oca },
		{ usage: CertUsage.CEK, key: cek },
	]);
	return { cek, oca, pek, pdh: createPdh(issuer, pek) };
}

/** A new Diffie-Hellman key, signed by the PEK. */
export const createPdh = (issuer: Issuer, pek: CertifiedKey): CertifiedKey =>
	signedKey(issuer, CertUsage.PDH, [{ usage: CertUsage.PEK, key: pek }]);

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
