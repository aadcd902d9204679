/** One `struct kvm_cpuid_entry2`: what a CPUID leaf answers. Linux UAPI 6.1 linux/kvm.h. */
export interface CpuidEntry {
	readonly function: number;
	/** Sub-leaf; looked at only if `significantIndex`. */
	readonly index?: number;
	/** KVM_CPUID_FLAG_SIGNIFCANT_INDEX. */
	readonly significantIndex?: boolean;
	readonly eax: number;
	readonly ebx: number;
	readonly ecx: number;
	readonly edx: number;
}
