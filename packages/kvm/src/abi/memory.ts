import { bytes, ignored, layout, u32, u64 } from '@cvm/layout';

/* Linux include/uapi/linux/kvm.h (6.1): what a VMM tells a VM about its memory and its features. Little-endian. */

/** KVM_SET_USER_MEMORY_REGION. */
export const kvmUserspaceMemoryRegion = layout('kvm_userspace_memory_region', 32, {
	/** Bits 15:0 id, bits 31:16 address space. */
	slot: u32(0),
	flags: u32(4),
	guestPhysAddr: u64(8),
	memorySize: u64(16),
	userspaceAddr: u64(24),
});

/** KVM_GET_DIRTY_LOG. */
export const kvmDirtyLog = layout('kvm_dirty_log', 16, { slot: u32(0), padding1: ignored(4, 4), dirtyBitmap: u64(8) });

/** KVM_CLEAR_DIRTY_LOG. */
export const kvmClearDirtyLog = layout('kvm_clear_dirty_log', 24, {
	slot: u32(0),
	numPages: u32(4),
	firstPage: u64(8),
	dirtyBitmap: u64(16),
});

/** One entry of a dirty ring. `slot`: as in {@link kvmUserspaceMemoryRegion}; `offset`: page within the slot. */
export const kvmDirtyGfn = layout('kvm_dirty_gfn', 16, { flags: u32(0), slot: u32(4), offset: u64(8) });

/** Pages into the mapping of a vCPU's descriptor where its dirty ring starts: KVM_DIRTY_LOG_PAGE_OFFSET of x86. */
export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;

/** KVM_ENABLE_CAP. */
export const kvmEnableCap = layout('kvm_enable_cap', 104, {
	cap: u32(0),
	flags: u32(4),
	arg0: u64(8),
	arg1: u64(16),
	arg2: u64(24),
	arg3: u64(32),
	pad: ignored(40, 64),
});

/** KVM_X86_SET_MSR_FILTER: `ranges` are 16 of {@link kvmMsrFilterRange}. */
export const kvmMsrFilter = layout('kvm_msr_filter', 392, { flags: u32(0), pad: ignored(4, 4), ranges: bytes(8, 384) });

/** `bitmap` is an address: 8·⌈nmsrs/64⌉ bytes. */
export const kvmMsrFilterRange = layout('kvm_msr_filter_range', 24, {
	flags: u32(0),
	nmsrs: u32(4),
	base: u32(8),
	pad: ignored(12, 4),
	bitmap: u64(16),
});

/** KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR: `addr` is where the value goes. */
export const kvmDeviceAttr = layout('kvm_device_attr', 24, {
	flags: u32(0),
	group: u32(4),
	attr: u64(8),
	addr: u64(16),
});
