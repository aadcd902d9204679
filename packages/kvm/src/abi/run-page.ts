/** Bytes of a vCPU's mapping, KVM_GET_VCPU_MMAP_SIZE: `struct kvm_run` (2352), a page of I/O data, one of coalesced MMIO. */
export const KVM_RUN_SIZE = 3 * 4096;

/** Offsets in `struct kvm_run`, little-endian. Linux UAPI 6.1 linux/kvm.h. The union of exit data starts at 32. */
export const RunOffset = {
	requestInterruptWindow: 0, // u8
	immediateExit: 1, // u8
	exitReason: 8, // u32
	readyForInterruptInjection: 12, // u8
	ifFlag: 13, // u8
	flags: 14, // u16
	cr8: 16, // u64
	apicBase: 24, // u64
	union: 32, // 256 bytes
	kvmValidRegs: 288, // u64
	kvmDirtyRegs: 296, // u64
	ioDirection: 32, // u8
	ioSize: 33, // u8
	ioPort: 34, // u16
	ioCount: 36, // u32
	ioDataOffset: 40, // u64
	hypercallNr: 32, // u64
	hypercallArgs: 40, // u64[6]
	hypercallRet: 88, // u64
	hypercallLongmode: 96, // u32
	mmioPhysAddr: 32, // u64
	mmioData: 40, // u8[8]
	mmioLen: 48, // u32
	mmioIsWrite: 52, // u8
	failEntryReason: 32, // u64
	failEntryCpu: 40, // u32
	internalSuberror: 32, // u32
	internalNdata: 36, // u32
	/** v11 only: a guest frame number. */
	dmaAddr: 32, // u64
	dmaLen: 40, // u64
	dmaRet: 48, // u64
	msrError: 32, // u8
	msrReason: 40, // u32
	msrIndex: 44, // u32
	msrData: 48, // u64
	systemEventType: 32, // u32
	systemEventNdata: 36, // u32
	systemEventData: 40, // u64[16]
	/** KVM_PIO_PAGE_OFFSET: where KVM_EXIT_IO puts its data. */
	ioData: 4096,
} as const;

/** `kvm_run.exit_reason`. */
export const ExitReason = {
	UNKNOWN: 0,
	IO: 2,
	HYPERCALL: 3,
	HLT: 5,
	MMIO: 6,
	SHUTDOWN: 8,
	FAIL_ENTRY: 9,
	INTR: 10,
	INTERNAL_ERROR: 17,
	SYSTEM_EVENT: 24,
	X86_RDMSR: 29,
	X86_WRMSR: 30,
	DIRTY_RING_FULL: 31,
	AP_RESET_HOLD: 32,
	/** v11 of the series only. */
	DMA_SHARE: 35,
	DMA_UNSHARE: 36,
} as const;
/** One of the exit reasons. */
export type ExitReason = (typeof ExitReason)[keyof typeof ExitReason];

/** Direction of KVM_EXIT_IO. */
export const IoDirection = { in: 0, out: 1 } as const;
