import { bytes, layout, u8, u16, u32, u64 } from '@cvm/layout';

/** One segment register in a save area. `attrib` is packed as in a VMCB. */
export const vmsaSegment = layout('vmsa_seg', 16, {
	selector: u16(0x0),
	attrib: u16(0x2),
	limit: u32(0x4),
	base: u64(0x8),
});

/**
 * The save area (VMSA) of one vCPU of a SEV-ES guest: the offsets that guest owners and tests need, as in
 * `struct sev_es_save_area` of Linux `arch/x86/include/asm/svm.h` and `SevEsSaveArea` of virtee/sev-snp-measure.
 * Segment registers are {@link vmsaSegment}s. The bytes between the fields belong to the processor.
 */
export const vmsa = layout('vmsa', 4096, {
	es: bytes(0x000, 16),
	cs: bytes(0x010, 16),
	ss: bytes(0x020, 16),
	ds: bytes(0x030, 16),
	fs: bytes(0x040, 16),
	gs: bytes(0x050, 16),
	gdtr: bytes(0x060, 16),
	ldtr: bytes(0x070, 16),
	idtr: bytes(0x080, 16),
	tr: bytes(0x090, 16),
	cpl: u8(0x0cb),
	efer: u64(0x0d0),
	cr4: u64(0x148),
	cr3: u64(0x150),
	cr0: u64(0x158),
	dr7: u64(0x160),
	dr6: u64(0x168),
	rflags: u64(0x170),
	rip: u64(0x178),
	rsp: u64(0x1d8),
	rax: u64(0x1f8),
	gPat: u64(0x268),
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
	/** The firmware's: zero once the save area is in a guest. */
	firmwareZero: u64(0x380),
	/** The firmware's: where in the trusted memory region it keeps the checksum. */
	slotPaddr: u64(0x388),
	sevFeatures: u64(0x3b0),
	xcr0: u64(0x3e8),
	mxcsr: u32(0x408),
	fcw: u16(0x410),
});
