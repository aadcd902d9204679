import { type CryptoProvider, constantTimeEqual } from '@cvm/crypto';
import { Status } from '../abi/status.js';
import { type MeasurementInput, measureBlob, measurement } from '../channel/measurement.js';

/**
 * The launch digest: SHA-256 of all LAUNCH_UPDATE_* plaintexts in call order, 32 bytes. Addresses and the way the bytes
 * were split into calls leave no trace. QEMU's order is firmware, kernel hashes, then one save area per vCPU (SEV-ES).
 */
export function launchDigest(provider: CryptoProvider, parts: readonly Uint8Array[]): Uint8Array {
	return provider.digest('sha256', ...parts);
}

/** The MEASURE (32 bytes) that firmware has to answer for a launch with these keys, policy and digest. */
export const expectedMeasurement = measurement;

/**
 * Whether a LAUNCH_MEASURE answer (MEASURE ‖ MNONCE, 48 bytes) is that of the expected launch.
 * `SUCCESS`, `INVALID_LENGTH` or `BAD_MEASUREMENT`.
 */
export function verifyMeasurement(
	provider: CryptoProvider,
	blob: Uint8Array,
	expected: Omit<MeasurementInput, 'mnonce'>,
): Status {
	if (blob.length !== measureBlob.size) return Status.INVALID_LENGTH;
	const { measure, mnonce } = measureBlob.decode(blob);
	const wanted = measurement(provider, { ...expected, mnonce });
	return constantTimeEqual(wanted, measure) ? Status.SUCCESS : Status.BAD_MEASUREMENT;
}
