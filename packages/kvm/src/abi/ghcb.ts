import { bytes, type Infer, layout, u8, u16, u32, u64 } from '@cvm/layout';

/**
 * The GHCB page through which a SEV-ES guest talks to the hypervisor: 4096 bytes, shared, little-endian. AMD 56421 "SEV-ES
 * Guest-Hypervisor Communication Block Standardization" §2.3; `struct ghcb` of Linux `arch/x86/include/asm/svm.h`. The
 * field at offset n has bit n/8 of `validBitmap`, least significant bit of byte 0 first.
 */
export const ghcb = layout('ghcb', 4096, {
	cpl: u8(0x0cb),
	xss: u64(0x140),
	dr7: u64(0x160),
	rip: u64(0x178),
	rsp: u64(0x1d8),
	rax: u64(0x1f8),
	rcx: u64(0x308),
	rdx: u64(0x310),
	rbx: u64(0x318),
	rbp: u64(0x328),
	rsi: u64(0x330),
	rdi: u64(0x338),
	r8: u64(0x340),
	r9: u64(0x348),
	r10: u64(0x350),
	r11: u64(0x358),
	r12: u64(0x360),
	r13: u64(0x368),
	r14: u64(0x370),
	r15: u64(0x378),
	swExitCode: u64(0x390),
	swExitInfo1: u64(0x398),
	swExitInfo2: u64(0x3a0),
	swScratch: u64(0x3a8),
	xcr0: u64(0x3e8),
	validBitmap: bytes(0x3f0, 16),
	x87StateGpa: u64(0x400),
	sharedBuffer: bytes(0x800, 0x7f0),
	protocolVersion: u16(0xffa),
	/** 0 = the standard layout. */
	usage: u32(0xffc),
});
/** A decoded GHCB. */
export type Ghcb = Infer<typeof ghcb>;

/** Where the shared buffer begins and ends. */
export const GHCB_BUFFER = { begin: 0x800, end: 0xff0 } as const;
/** Most that a scratch area outside of the GHCB may have. */
export const GHCB_SCRATCH_LIMIT = 0x10000;

/** The index of a field's bit in `validBitmap`. */
export const ghcbValidBit = (field: keyof Ghcb): number => ghcb.offsetOf(field) >>> 3;

/** MSR_AMD64_SEV_ES_GHCB: the address of the GHCB (low 12 bits zero), or a message of {@link GhcbMsr}. */
export const MSR_GHCB = 0xc0010130;
/** MSR_AMD64_SEV: what the guest is; no hypervisor can intercept the read. */
export const MSR_SEV_STATUS = 0xc0010131;

/** Exit codes: those of a VMCB (APM vol. 2 appendix C), and the software-defined ones of the GHCB standard §4.1. */
export const ExitCode = {
	DR7_READ: 0x27,
	DR7_WRITE: 0x37,
	RDTSC: 0x6e,
	RDPMC: 0x6f,
	CPUID: 0x72,
	INVD: 0x76,
	IOIO: 0x7b,
	MSR: 0x7c,
	VMMCALL: 0x81,
	RDTSCP: 0x87,
	WBINVD: 0x89,
	MONITOR: 0x8a,
	MWAIT: 0x8b,
	NPF: 0x400,
	MMIO_READ: 0x80000001,
	MMIO_WRITE: 0x80000002,
	NMI_COMPLETE: 0x80000003,
	AP_RESET_HOLD: 0x80000004,
	AP_JUMP_TABLE: 0x80000005,
	PAGE_STATE_CHANGE: 0x80000010,
	GUEST_REQUEST: 0x80000011,
	EXTENDED_GUEST_REQUEST: 0x80000012,
	AP_CREATION: 0x80000013,
	HYPERVISOR_FEATURES: 0x8000fffd,
	TERMINATE: 0x8000fffe,
	UNSUPPORTED_EVENT: 0x8000ffff,
} as const;
/** One of the exit codes. */
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

/** Bits of SW_EXITINFO1 of IOIO. Bits 31:16 are the port, bits 6:4 the operand size. */
export const IoInfo = { in: 1, string: 4, rep: 8, sizeShift: 4, sizeMask: 7, address64: 0x200, portShift: 16 } as const;

/** SW_EXITINFO1[31:0] of an answer. */
export const GhcbResult = {
	/** SW_EXITINFO2 is the event's result. */
	SUCCESS: 0,
	/** The guest's handler is to raise the exception in SW_EXITINFO2. */
	EXCEPTION: 1,
	/** SW_EXITINFO2 is a {@link GhcbError}. */
	MALFORMED: 2,
} as const;

/** SW_EXITINFO2 of a malformed input. */
export const GhcbError = {
	NOT_REGISTERED: 1,
	INVALID_USAGE: 2,
	INVALID_SCRATCH: 3,
	MISSING_INPUT: 4,
	INVALID_INPUT: 5,
	INVALID_EVENT: 6,
} as const;
/** One of the errors. */
export type GhcbError = (typeof GhcbError)[keyof typeof GhcbError];

/** Exceptions as SW_EXITINFO2 names them: valid, type 3, vector; #GP has an error code of 0. */
export const GhcbException = { UD: 0x80000306, GP: 0x8000030d } as const;

/** SW_EXITINFO1 of the AP jump table event. */
export const JumpTableAction = { set: 0, get: 1 } as const;

/** Messages of the GHCB MSR protocol: bits 11:0 (GHCB standard §2.3.1). */
export const GhcbMsr = {
	SEV_INFO_RESPONSE: 0x001,
	SEV_INFO_REQUEST: 0x002,
	CPUID_REQUEST: 0x004,
	CPUID_RESPONSE: 0x005,
	AP_RESET_HOLD_REQUEST: 0x006,
	AP_RESET_HOLD_RESPONSE: 0x007,
	PREFERRED_GPA_REQUEST: 0x010,
	PREFERRED_GPA_RESPONSE: 0x011,
	REGISTER_GPA_REQUEST: 0x012,
	REGISTER_GPA_RESPONSE: 0x013,
	PAGE_STATE_REQUEST: 0x014,
	PAGE_STATE_RESPONSE: 0x015,
	RUN_VMPL_REQUEST: 0x016,
	RUN_VMPL_RESPONSE: 0x017,
	FEATURE_REQUEST: 0x080,
	FEATURE_RESPONSE: 0x081,
	TERMINATE: 0x100,
} as const;

/** Bits of the hypervisor's features. */
export const GhcbFeature = { SNP: 1, SNP_AP_CREATION: 2 } as const;

/** The SEV information response: highest and lowest version of the protocol, and where the C-bit is. */
export const sevInfoResponse = (maxVersion: number, minVersion: number, cbitPosition: number): bigint =>
	(BigInt(maxVersion) << 48n) |
	(BigInt(minVersion) << 32n) |
	(BigInt(cbitPosition) << 24n) |
	BigInt(GhcbMsr.SEV_INFO_RESPONSE);
