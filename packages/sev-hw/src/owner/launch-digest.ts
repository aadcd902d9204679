import { type CryptoProvider, constantTimeEqual } from '@cvm/crypto';
import { Status } from '../abi/status.js';
import { type MeasurementInput, measureBlob, measurement } from '../channel/measurement.js';
import { OwnerError } from './error.js';
import { readSevBlocks } from './firmware-table.js';
import { initialVmsa, type VcpuStart } from './initial-vmsa.js';
import { type BootFiles, kernelHashesTable } from './kernel-hashes.js';

/** More virtual CPUs than any launch has: the digest costs 4 KiB each. */
const MAX_VCPUS = 4096;

/** What QEMU has the firmware measure in a launch. */
export interface LaunchContents {
	/** The firmware image as loaded. */
	readonly firmware: Uint8Array;
	/** With `kernel-hashes=on`. */
	readonly boot?: BootFiles;
	/** In SEV-ES guests. `apResetVector` is the firmware's unless given. */
	readonly vcpus?: VcpuStart & { readonly count: number };
}

/**
 * The launch digest: SHA-256 of all LAUNCH_UPDATE_* plaintexts in call order, 32 bytes. Addresses and the way the bytes
 * were split into calls leave no trace. QEMU's order is firmware, kernel hashes, then one save area per vCPU (SEV-ES).
 */
export function launchDigest(provider: CryptoProvider, parts: readonly Uint8Array[]): Uint8Array {
	return provider.digest('sha256', ...parts);
}

/**
 * The launch digest of a QEMU guest, 32 bytes: firmware, table of kernel hashes, save areas of the virtual CPUs.
 *
 * @throws OwnerError `firmware` if the image has no place for kernel hashes, or no reset block for a second virtual CPU
 * @throws RangeError for a number of virtual CPUs that is none
 */
export function guestLaunchDigest(provider: CryptoProvider, { firmware, boot, vcpus }: LaunchContents): Uint8Array {
	const parts = [firmware];
	if (boot !== undefined) {
		if (readSevBlocks(firmware).hashTable === undefined) {
			throw new OwnerError('firmware', 'kernel hashes: expected a firmware with a hash table, got one without');
		}
		parts.push(kernelHashesTable(provider, boot));
	}
	return launchDigest(provider, [...parts, ...(vcpus ? saveAreas(firmware, vcpus) : [])]);
}

function saveAreas(firmware: Uint8Array, { count, ...start }: NonNullable<LaunchContents['vcpus']>): Uint8Array[] {
	if (!Number.isInteger(count) || count < 1 || count > MAX_VCPUS) {
		throw new RangeError(`virtual CPUs: expected 1 to ${MAX_VCPUS}, got ${count}`);
	}
	// Read only where needed: a firmware without a table boots one virtual CPU.
	const fromImage = count > 1 && start.apResetVector === undefined ? readSevBlocks(firmware) : {};
	return Array.from({ length: count }, (_, vcpu) => initialVmsa({ ...fromImage, ...start, vcpu }));
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
