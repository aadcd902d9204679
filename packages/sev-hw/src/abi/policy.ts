/** Bits of the guest policy, a u32: SEV API 0.24 Ch. 3. Bits 23:16 and 31:24 carry the least API major and minor. */
export const Policy = {
	/** DBG_DECRYPT and DBG_ENCRYPT are refused. */
	NODBG: 1 << 0,
	/** No other guest may share this guest's memory key. */
	NOKS: 1 << 1,
	/** The guest needs SEV-ES. */
	ES: 1 << 2,
	/** SEND_START is refused. */
	NOSEND: 1 << 3,
	/** The migration target must have the same owner certificate. */
	DOMAIN: 1 << 4,
	/** The migration target must prove that it is an AMD SEV platform. */
	SEV: 1 << 5,
} as const;

const RESERVED_BITS = 0xffc0;

/** Firmware version: it enters LAUNCH_MEASURE and every certificate that the firmware makes. Each number is one byte. */
export interface FirmwareVersion {
	readonly major: number;
	readonly minor: number;
	readonly build: number;
}

/** Whether the reserved bits 15:6 of a policy are zero. */
export const policyIsWellFormed = (policy: number): boolean => (policy & RESERVED_BITS) === 0;

/** Whether API version `major`.`minor` is at least what the policy asks for. */
export function policyAllowsVersion(policy: number, { major, minor }: Omit<FirmwareVersion, 'build'>): boolean {
	const leastMajor = (policy >>> 16) & 0xff;
	return major > leastMajor || (major === leastMajor && minor >= policy >>> 24);
}
