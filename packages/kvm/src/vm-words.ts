/** Int32 words at the front of a VM's shared buffer. Access them with `Atomics`. */
export const VmWord = {
	/** ASID of the VM's memory key; 0 = none. */
	asid: 1,
	/** 1 from KVM_SEV_INIT on. */
	sevActive: 2,
	/** 1 = v12's KVM_HC_PAGE_ENC_STATUS is handled. */
	pageEncHcEnable: 3,
	/** KVM_CAP_EXIT_HYPERCALL: bit n = hypercall n exits. */
	exitHypercallMask: 4,
	/** KVM_CAP_X86_USER_SPACE_MSR: mask of KVM_MSR_EXIT_REASON_*. */
	msrExitMask: 5,
	cbitPosition: 6,
	/** A translation cached under another generation is void. Bumped by shootdowns and by every memslot change. */
	tlbGeneration: 7,
	/** Sequence lock of the memslot table: odd while it is being written. */
	slotGeneration: 8,
	/** Used entries of the memslot table. */
	slotCount: 9,
	/** Sequence lock of the MSR filter. */
	msrFilterGeneration: 10,
	/** 1 = deny what no range matches. */
	msrFilterDeny: 11,
	/** Ranges of the MSR filter in use; with 0 and `msrFilterDeny` 0 there is no filter. */
	msrFilterCount: 12,
	/** 1 while a vCPU performs a LOCK-prefixed instruction. */
	busLock: 14,
	/** One word per vCPU: 1 while its thread is inside KVM_RUN. For TLB shootdown. */
	running: 16,
	/** One word per vCPU: the `tlbGeneration` its thread last acted on. */
	tlbSeen: 48,
	/** 16 ranges of 4 words: flags, base, nmsrs, words of bitmap. */
	msrRanges: 80,
	/** One word per entry of the memslot table: KVM_MEM_* flags. */
	slotFlags: 512,
	/** 16 bitmaps of 0x600 bytes. */
	msrBitmaps: 1024,
} as const;
