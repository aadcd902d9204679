import type { CryptoProvider } from '@cvm/crypto';
import { bytes, layout, u8, u32 } from '@cvm/layout';
import { PacketContext } from './packet.js';

/** What LAUNCH_MEASURE writes. */
export const measureBlob = layout('sev_measure', 48, {
	measure: bytes(0x00, 32),
	mnonce: bytes(0x20, 16),
});

const measureInput = layout('sev_measure_input', 56, {
	context: u8(0x00),
	apiMajor: u8(0x01),
	apiMinor: u8(0x02),
	build: u8(0x03),
	policy: u32(0x04),
	digest: bytes(0x08, 32),
	mnonce: bytes(0x28, 16),
});

/** What a launch measurement covers, and the key that makes it. */
export interface MeasurementInput {
	/** Transport integrity key of the launch session; 16 zero bytes when there was none. */
	readonly tik: Uint8Array;
	/** Of the firmware that measures. */
	readonly version: { readonly major: number; readonly minor: number; readonly build: number };
	readonly policy: number;
	/** Launch digest, 32 bytes. */
	readonly digest: Uint8Array;
	/** 16 bytes, returned beside the measurement. */
	readonly mnonce: Uint8Array;
}

/** Where the policy starts: what stands before it is left out before API 0.17. */
const OLD_FORM_START = 4;

/**
 * Whether firmware of this version binds MACs as API 0.17 and later do: the version into the launch measurement, the
 * measurement into launch secrets (AMDESE/sev-tool `src/commands.cpp`).
 */
export const bindsVersionAndMeasure = ({ major, minor }: { readonly major: number; readonly minor: number }): boolean =>
	major > 0 || minor >= 17;

/** The launch measurement: HMAC-SHA-256 under the TIK, 32 bytes. Before API 0.17 it covers policy, digest and nonce only. */
export function measurement(provider: CryptoProvider, m: MeasurementInput): Uint8Array {
	const { major, minor, build } = m.version;
	const input = measureInput.encode({
		context: PacketContext.measure,
		apiMajor: major,
		apiMinor: minor,
		build,
		policy: m.policy,
		digest: m.digest,
		mnonce: m.mnonce,
	});
	return provider.hmacSha256(m.tik, input.subarray(bindsVersionAndMeasure(m.version) ? 0 : OLD_FORM_START));
}
