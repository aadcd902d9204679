/** KVM_CAP_*: Linux UAPI 6.1 linux/kvm.h. */
export const Cap = {
	IRQCHIP: 0,
	USER_MEMORY: 3,
	NR_MEMSLOTS: 10,
	MAX_VCPUS: 66,
	ENABLE_CAP_VM: 98,
	CHECK_EXTENSION_VM: 105,
	DISABLE_QUIRKS: 116,
	X86_SMM: 117,
	X86_DISABLE_EXITS: 143,
	MANUAL_DIRTY_LOG_PROTECT2: 168,
	X86_USER_SPACE_MSR: 188,
	X86_MSR_FILTER: 189,
	/** On a vCPU. */
	ENFORCE_PV_FEATURE_CPUID: 190,
	DIRTY_LOG_RING: 192,
	VM_COPY_ENC_CONTEXT_FROM: 197,
	/** upstream only. */
	EXIT_HYPERCALL: 201,
	VM_MOVE_ENC_CONTEXT_FROM: 206,
	SYS_ATTRIBUTES: 209,
	DISABLE_QUIRKS2: 213,
	DIRTY_LOG_RING_ACQ_REL: 223,
	/** Linux 6.8 on. */
	VM_TYPES: 235,
} as const;
/** One of the capabilities that this model knows. */
export type Cap = (typeof Cap)[keyof typeof Cap];

/** Memslot ids per address space since Linux v5.12: what KVM_CAP_NR_MEMSLOTS reports. */
export const USER_MEM_SLOTS = 32764;

/** The hypercalls that KVM_CAP_EXIT_HYPERCALL can turn into exits: `1 << KVM_HC_MAP_GPA_RANGE`. */
export const EXIT_HYPERCALL_VALID_MASK = 1 << 12;

/** KVM_MSR_EXIT_REASON_*: which MSR accesses exit to userspace. */
export const MsrExitReason = { INVAL: 1, UNKNOWN: 2, FILTER: 4 } as const;

/** KVM_X86_QUIRK_*: bits of KVM_CAP_DISABLE_QUIRKS2. */
export const Quirk = { FIX_HYPERCALL_INSN: 1 << 5 } as const;
/** One of the quirks that are modelled. */
export type Quirk = (typeof Quirk)[keyof typeof Quirk];

/** KVM_X86_DISABLE_EXITS_*: bits of KVM_CAP_X86_DISABLE_EXITS. */
export const DisableExits = { MWAIT: 1, HLT: 2, PAUSE: 4, CSTATE: 8 } as const;
/** All of them. */
export const KVM_X86_DISABLE_VALID_EXITS = 15;

/** KVM_MSR_FILTER_DEFAULT_*. */
export const MsrFilterDefault = { ALLOW: 0, DENY: 1 } as const;

/** MSR_KVM_SEV_LIVE_MIGRATION (v12) and MSR_KVM_MIGRATION_CONTROL (upstream). KVM implements neither: the VMM does. */
export const MSR_KVM_MIGRATION_CONTROL = 0x4b564d08;

/** Feature bits in EAX of leaf 0x40000001 that have to do with migration, by `KvmAbi`. */
export const KvmFeature = {
	/** v12: hypercall 12 and the MSR exist. KVM reports it. */
	SEV_LIVE_MIGRATION: 16,
	/** upstream: hypercall 12. The VMM adds it. */
	HC_MAP_GPA_RANGE: 16,
	/** upstream: the MSR. The VMM adds it. */
	MIGRATION_CONTROL: 17,
} as const;
