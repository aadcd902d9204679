import { bytes, ignored, layout, u8, u16, u32, u64 } from '@cvm/layout';

/*
 * Linux arch/x86/include/uapi/asm/kvm.h (6.1): the state of a vCPU as ioctls carry it. Little-endian. Padding is ignored
 * on input and zero on output.
 */

/** KVM_GET_REGS, KVM_SET_REGS. */
export const kvmRegs = layout('kvm_regs', 144, {
	rax: u64(0),
	rbx: u64(8),
	rcx: u64(16),
	rdx: u64(24),
	rsi: u64(32),
	rdi: u64(40),
	rsp: u64(48),
	rbp: u64(56),
	r8: u64(64),
	r9: u64(72),
	r10: u64(80),
	r11: u64(88),
	r12: u64(96),
	r13: u64(104),
	r14: u64(112),
	r15: u64(120),
	rip: u64(128),
	rflags: u64(136),
});

/** One segment register: the attributes as a byte each, `limit` in bytes whatever `g` is. */
export const kvmSegment = layout('kvm_segment', 24, {
	base: u64(0),
	limit: u32(8),
	selector: u16(12),
	type: u8(14),
	present: u8(15),
	dpl: u8(16),
	db: u8(17),
	s: u8(18),
	l: u8(19),
	g: u8(20),
	avl: u8(21),
	unusable: u8(22),
	padding: ignored(23, 1),
});

/** GDTR or IDTR. */
export const kvmDtable = layout('kvm_dtable', 16, { base: u64(0), limit: u16(8), padding: ignored(10, 6) });

/** KVM_GET_SREGS, KVM_SET_SREGS. Segments are {@link kvmSegment}, tables {@link kvmDtable}. */
export const kvmSregs = layout('kvm_sregs', 312, {
	cs: bytes(0, 24),
	ds: bytes(24, 24),
	es: bytes(48, 24),
	fs: bytes(72, 24),
	gs: bytes(96, 24),
	ss: bytes(120, 24),
	tr: bytes(144, 24),
	ldt: bytes(168, 24),
	gdt: bytes(192, 16),
	idt: bytes(208, 16),
	cr0: u64(224),
	cr2: u64(232),
	cr3: u64(240),
	cr4: u64(248),
	cr8: u64(256),
	efer: u64(264),
	apicBase: u64(272),
	/** u64[4]: at most one bit, the vector that waits to be injected. */
	interruptBitmap: bytes(280, 32),
});

/** KVM_GET_MP_STATE, KVM_SET_MP_STATE. */
export const kvmMpState = layout('kvm_mp_state', 4, { mpState: u32(0) });

/** KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS. `db` is u64[4]. */
export const kvmDebugregs = layout('kvm_debugregs', 128, {
	db: bytes(0, 32),
	dr6: u64(32),
	dr7: u64(40),
	flags: u64(48),
	reserved: ignored(56, 72),
});

/** KVM_GET_XSAVE, KVM_SET_XSAVE: an XSAVE area in the standard form. */
export const kvmXsave = layout('kvm_xsave', 4096, { region: bytes(0, 4096) });

/** One entry of {@link kvmXcrs}. */
export const kvmXcr = layout('kvm_xcr', 16, { xcr: u32(0), reserved: ignored(4, 4), value: u64(8) });

/** KVM_GET_XCRS, KVM_SET_XCRS: 16 entries, of which `nrXcrs` count. */
export const kvmXcrs = layout('kvm_xcrs', 392, {
	nrXcrs: u32(0),
	flags: u32(4),
	xcrs: bytes(8, 256),
	padding: ignored(264, 128),
});

/** KVM_GET_MSRS, KVM_SET_MSRS: `nmsrs` entries follow. */
export const kvmMsrs = layout('kvm_msrs', 8, { nmsrs: u32(0), pad: ignored(4, 4) });

/** One entry behind {@link kvmMsrs}. */
export const kvmMsrEntry = layout('kvm_msr_entry', 16, { index: u32(0), reserved: ignored(4, 4), data: u64(8) });

/** KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_GET_SUPPORTED_CPUID: `nent` entries follow. */
export const kvmCpuid2 = layout('kvm_cpuid2', 8, { nent: u32(0), padding: ignored(4, 4) });

/** One entry behind {@link kvmCpuid2}. `flags` bit 0: `index` counts. */
export const kvmCpuidEntry2 = layout('kvm_cpuid_entry2', 40, {
	function: u32(0),
	index: u32(4),
	flags: u32(8),
	eax: u32(12),
	ebx: u32(16),
	ecx: u32(20),
	edx: u32(24),
	padding: ignored(28, 12),
});

/** Most entries of {@link kvmCpuid2} and of {@link kvmMsrs} in one ioctl: more is E2BIG. Linux 6.1 arch/x86/kvm. */
export const MAX_IOCTL_ENTRIES = 256;

/** KVM_GET_FPU, KVM_SET_FPU: x87 and SSE state. */
export const kvmFpu = layout('kvm_fpu', 416, {
	/** ST(0) … ST(7) in 16 bytes each. */
	fpr: bytes(0, 128),
	fcw: u16(128),
	fsw: u16(130),
	/** The abridged tag word. */
	ftwx: u8(132),
	pad1: ignored(133, 1),
	lastOpcode: u16(134),
	lastIp: u64(136),
	lastDp: u64(144),
	xmm: bytes(152, 256),
	mxcsr: u32(408),
	pad2: ignored(412, 4),
});

/** KVM_SET_GUEST_DEBUG. */
export const kvmGuestDebug = layout('kvm_guest_debug', 72, {
	control: u32(0),
	pad: ignored(4, 4),
	/** u64[8]. */
	debugreg: bytes(8, 64),
});
