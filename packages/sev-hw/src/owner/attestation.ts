import { type CryptoProvider, constantTimeEqual, type EcdsaSignature } from '@cvm/crypto';
import { ATTESTATION_SIGNED_SIZE, attestationReport } from '../abi/attestation.js';
import { Status } from '../abi/status.js';
import { fromLittleEndian } from '../certificates/byte-order.js';
import { CertAlgo, CertUsage, certKeyOf } from '../certificates/sev-certificate.js';
import { OwnerError } from './error.js';

const COORDINATE = 48;

/** What an attestation report says, unchecked. */
export interface AttestationReport {
	/** The asker's nonce, 16 bytes. */
	readonly mnonce: Uint8Array;
	/** Launch digest, 32 bytes. Zeros for a guest that was received from elsewhere. */
	readonly digest: Uint8Array;
	readonly policy: number;
	readonly sigUsage: number;
	readonly sigAlgo: number;
	/** `undefined` if an integer is longer than 48 bytes. */
	readonly signature: EcdsaSignature | undefined;
}

/** Reads a report without judging it. @throws OwnerError `report` if it is not 208 bytes long */
export function readAttestationReport(report: Uint8Array): AttestationReport {
	if (report.length !== attestationReport.size) {
		throw new OwnerError(
			'report',
			`attestation report: expected ${attestationReport.size} bytes, got ${report.length}`,
		);
	}
	const { launchDigest: digest, sigR, sigS, ...rest } = attestationReport.decode(report);
	const [r, s] = [fromLittleEndian(sigR, COORDINATE), fromLittleEndian(sigS, COORDINATE)];
	return { ...rest, digest, signature: r && s && { r, s } };
}

/** `failed` names what gave a `status` other than `SUCCESS`. */
export interface AttestationVerdict {
	readonly status: Status;
	readonly failed?: 'report' | 'pek' | 'signature' | 'mnonce' | 'digest' | 'policy';
}

/**
 * Whether the platform of a PEK certificate signed a report, and whether it says what is expected. Verify the PEK first
 * (`verifyPlatform`), and give the nonce that was asked with, or an old report passes for a new one.
 *
 * Statuses: `INVALID_LENGTH` for a report that is not 208 bytes long, `INVALID_CERTIFICATE` for a certificate that holds
 * no PEK, `BAD_SIGNATURE`, `BAD_MEASUREMENT` for another nonce or digest, `POLICY_FAILURE` for another policy.
 */
export function verifyAttestation(
	provider: CryptoProvider,
	o: {
		/** 208 bytes. */
		readonly report: Uint8Array;
		/** PEK certificate, 2084 bytes. */
		readonly pek: Uint8Array;
		/** What is left out is not compared. */
		readonly expected?: { readonly mnonce?: Uint8Array; readonly digest?: Uint8Array; readonly policy?: number };
	},
): AttestationVerdict {
	const { report, pek, expected = {} } = o;
	if (report.length !== attestationReport.size) return failure(Status.INVALID_LENGTH, 'report');
	const signer = certKeyOf(pek);
	const isPek = signer?.usage === CertUsage.PEK && signer.algo === CertAlgo.ECDSA_SHA256;
	if (!isPek || !provider.p384.isValidPublicKey(signer.key)) return failure(Status.INVALID_CERTIFICATE, 'pek');
	const { mnonce, digest, policy, sigUsage, sigAlgo, signature } = readAttestationReport(report);
	const isByPek = sigUsage === signer.usage && sigAlgo === signer.algo;
	const signed = report.subarray(0, ATTESTATION_SIGNED_SIZE);
	if (!isByPek || signature === undefined || !provider.p384.verify(signer.key, signed, signature, 'sha256')) {
		return failure(Status.BAD_SIGNATURE, 'signature');
	}
	if (differs(mnonce, expected.mnonce)) return failure(Status.BAD_MEASUREMENT, 'mnonce');
	if (differs(digest, expected.digest)) return failure(Status.BAD_MEASUREMENT, 'digest');
	const isPolicy = expected.policy === undefined || expected.policy === policy;
	return isPolicy ? { status: Status.SUCCESS } : failure(Status.POLICY_FAILURE, 'policy');
}

const differs = (got: Uint8Array, wanted: Uint8Array | undefined): boolean =>
	wanted !== undefined && !constantTimeEqual(got, wanted);
const failure = (status: Status, failed: AttestationVerdict['failed'] & string): AttestationVerdict => ({
	status,
	failed,
});
