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
	/** KVM_CAP_DISABLE_QUIRKS2: quirks that are off. */
	disabledQuirks: 13,
	/** 1 while a vCPU performs a LOCK-prefixed instruction. */
	busLock: 14,
	/** KVM_CAP_X86_DISABLE_EXITS. */
	disabledExits: 15,
	/** One word per vCPU: 1 while its thread is inside KVM_RUN. For TLB shootdown. */
	running: 16,
	/** One word per vCPU: the `tlbGeneration` its thread last acted on. */
	tlbSeen: 48,
	/** 16 ranges of 4 words: flags, base, nmsrs, words of bitmap. */
	msrRanges: 80,
	/** MSR_KVM_WALL_CLOCK of the VM: low half, high half. */
	wallClock: 144,
	/** Bit n: vCPU n exists. */
	vcpuMask: 146,
	/** 1 = the guest wrote MSR_KVM_SEV_LIVE_MIG_EN, which postings v5 to v10 of the series keep in KVM. */
	liveMigration: 147,
	/** 1 = a VM of a SEV type before KVM_SEV_INIT2: KVM_RUN is −EINVAL. */
	sevNeedInit: 153,
	/** 1 = the encryption context went to another VM, or the VM is closed: KVM_RUN is −EIO. */
	dead: 160,
	/** 1 = a SEV-ES guest. */
	sevEs: 176,
	/** 1 from KVM_CREATE_IRQCHIP on: vCPUs have local APICs, and INIT and SIPI reach them. */
	hasIrqchip: 177,
	/** Highest version of the GHCB protocol that is offered; 0 counts as 1. */
	ghcbVersion: 178,
	/** Low half of SEV_FEATURES of the guest's save areas. */
	sevFeatures: 179,
	/** Guest-physical address of a SEV-ES guest's AP jump table: low half, high half. */
	apJumpTable: 180,
	/** One word per vCPU: see {@link ApicEvent}. */
	apicEvents: 192,
	/** PROJECT: how many save areas the guest can read. */
	saveAreaCount: 224,
	/** For each of them its guest frame, then for each its frame of DRAM: 32 words each. */
	saveAreaGuestFrames: 256,
	saveAreaFrames: 288,
	/** Bytes of each vCPU's dirty ring; 0 = dirty bitmaps. */
	dirtyRingBytes: 161,
	/** 16 bitmaps of 0x600 bytes. */
	msrBitmaps: 1024,
} as const;

/** What waits for a vCPU at its local APIC until its thread takes it; bits 15:8 are the vector of the SIPI. */
export const ApicEvent = { init: 1, sipi: 2 } as const;
const APIC_EVENT_BITS = 0xff03;

/** What waits for a vCPU, and must go with its state. @param words of the VM */
export const loadApicEvents = (words: Int32Array, vcpu: number): number =>
	Atomics.load(words, VmWord.apicEvents + vcpu);

/** The inverse, in place of what waits. @param words of the VM */
export function storeApicEvents(words: Int32Array, vcpu: number, events: number): void {
	Atomics.store(words, VmWord.apicEvents + vcpu, events & APIC_EVENT_BITS);
}
