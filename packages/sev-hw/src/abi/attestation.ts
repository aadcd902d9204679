import { bytes, ignored, layout, u32 } from '@cvm/layout';

/** The report of ATTESTATION (SEV API 0.24): what LAUNCH_MEASURE ended with, signed by the platform's PEK. */
export const attestationReport = layout('sev_attestation_report', 208, {
	mnonce: bytes(0x00, 16),
	/** 32 zero bytes for a received guest: a launch digest does not migrate. */
	launchDigest: bytes(0x10, 32),
	policy: u32(0x30),
	sigUsage: u32(0x34),
	sigAlgo: u32(0x38),
	reserved: ignored(0x3c, 4),
	/** ECDSA: both integers are little-endian, zero-padded at the high end. */
	sigR: bytes(0x40, 72),
	sigS: bytes(0x88, 72),
});

/** The signature covers the bytes before SIG_USAGE. */
export const ATTESTATION_SIGNED_SIZE = attestationReport.offsetOf('sigUsage');
