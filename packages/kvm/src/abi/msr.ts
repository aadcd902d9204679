/** MSRs that KVM knows in this model. Linux arch/x86/include/asm/msr-index.h, include/uapi/asm/kvm_para.h (6.1). */
export const Msr = {
	APIC_BASE: 0x1b,
	FLUSH_CMD: 0x10b,
	SYSENTER_CS: 0x174,
	SYSENTER_ESP: 0x175,
	SYSENTER_EIP: 0x176,
	POWER_CTL: 0x1fc,
	PAT: 0x277,
	XSS: 0xda0,
	EFER: 0xc0000080,
	STAR: 0xc0000081,
	LSTAR: 0xc0000082,
	CSTAR: 0xc0000083,
	SYSCALL_MASK: 0xc0000084,
	FS_BASE: 0xc0000100,
	GS_BASE: 0xc0000101,
	KERNEL_GS_BASE: 0xc0000102,
	TSC_AUX: 0xc0000103,
	/** SEV-ES: address of the GHCB, or a message of the MSR protocol. */
	SEV_ES_GHCB: 0xc0010130,
	/** What is on: bit 0 SEV, bit 1 SEV-ES. The processor answers it. */
	SEV_STATUS: 0xc0010131,
	KVM_WALL_CLOCK: 0x11,
	KVM_SYSTEM_TIME: 0x12,
	KVM_WALL_CLOCK_NEW: 0x4b564d00,
	KVM_SYSTEM_TIME_NEW: 0x4b564d01,
	KVM_ASYNC_PF_EN: 0x4b564d02,
	KVM_STEAL_TIME: 0x4b564d03,
	KVM_PV_EOI_EN: 0x4b564d04,
	KVM_POLL_CONTROL: 0x4b564d05,
	KVM_ASYNC_PF_INT: 0x4b564d06,
	KVM_ASYNC_PF_ACK: 0x4b564d07,
} as const;
/** One of the MSRs. */
export type Msr = (typeof Msr)[keyof typeof Msr];

/** Bits in EAX of KVM's feature leaf that its own MSRs and hypercalls belong to. Linux include/uapi/asm/kvm_para.h. */
export const PvFeature = {
	CLOCKSOURCE: 0,
	CLOCKSOURCE2: 3,
	ASYNC_PF: 4,
	STEAL_TIME: 5,
	PV_EOI: 6,
	PV_UNHALT: 7,
	ASYNC_PF_VMEXIT: 10,
	PV_SEND_IPI: 11,
	POLL_CONTROL: 12,
	PV_SCHED_YIELD: 13,
	ASYNC_PF_INT: 14,
} as const;
/** One of the features. */
export type PvFeature = (typeof PvFeature)[keyof typeof PvFeature];
