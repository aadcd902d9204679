/** KVM_HC_*: what a guest puts into RAX. Linux include/uapi/linux/kvm_para.h (5.12 to 6.10). */
export const Hypercall = {
	VAPIC_POLL_IRQ: 1,
	KICK_CPU: 5,
	CLOCK_PAIRING: 9,
	SEND_IPI: 10,
	SCHED_YIELD: 11,
	/** KVM_HC_PAGE_ENC_STATUS in the series, with another third argument. */
	MAP_GPA_RANGE: 12,
} as const;
/** One of the hypercalls. */
export type Hypercall = (typeof Hypercall)[keyof typeof Hypercall];

/** KVM_E*: what a guest finds in RAX, negated. Linux include/uapi/linux/kvm_para.h. */
export const HypercallErrno = { EPERM: 1, E2BIG: 7, EFAULT: 14, EINVAL: 22, EOPNOTSUPP: 95, ENOSYS: 1000 } as const;

/** KVM_MAP_GPA_RANGE_*: the third argument of upstream's hypercall 12. Bits 3:0 are the preferred page size. */
export const MapGpaRange = { PAGE_SZ_4K: 0, PAGE_SZ_2M: 1, PAGE_SZ_1G: 2, DECRYPTED: 0, ENCRYPTED: 0x10 } as const;
