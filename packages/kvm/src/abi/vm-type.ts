/** KVM_X86_*_VM: the types of KVM_CREATE_VM (linux/kvm.h of Linux 6.10). KVM_CAP_VM_TYPES has bit n for type n. */
export const VmType = {
	DEFAULT: 0,
	SW_PROTECTED: 1,
	SEV: 2,
	SEV_ES: 3,
	/** Not modelled. */
	SNP: 4,
} as const;
/** One of the VM types. */
export type VmType = (typeof VmType)[keyof typeof VmType];

/** KVM_GET_DEVICE_ATTR on /dev/kvm: group and attributes (Linux 6.10). */
export const DeviceAttr = {
	/** KVM_X86_GRP_SEV. */
	GRP_SEV: 1,
	/** KVM_X86_SEV_VMSA_FEATURES: a u64, the SEV_FEATURES that KVM_SEV_INIT2 takes. */
	SEV_VMSA_FEATURES: 0,
} as const;
