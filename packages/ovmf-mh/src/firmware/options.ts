import { type KvmAbi, KvmFeature } from '@cvm/kvm/abi';

/** What a {@link ovmfFirmware} may differ in. */
export interface FirmwareOptions {
	/**
	 * Which generation of the page-status hypercall the firmware was built for: `upstream` (default) goes by KVM feature bit 17,
	 * as the posted patches do; `v12` by bit 16 of that generation.
	 */
	readonly abi?: KvmAbi;
	/**
	 * How the firmware answers "did you report your shared pages?": `as-designed` (default) sets the variable to 1, `absent` is a
	 * firmware from before the variable, `zero` one that says no.
	 */
	readonly setVariable?: 'as-designed' | 'absent' | 'zero';
}

/** Bit of leaf base+1, EAX, that allows the hypercall. */
export const featureBit = (abi: KvmAbi): number =>
	abi === 'v12' ? KvmFeature.SEV_LIVE_MIGRATION : KvmFeature.MIGRATION_CONTROL;
/** RDX of the hypercall for pages that became shared, of 4 KiB: 0 in both generations. (Encrypted is 1 in v12, 0x10 upstream.) */
export const DECRYPTED = 0n;
