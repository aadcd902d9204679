import { bytes, ignored, layout, u16, u32, u64 } from '@cvm/layout';

/*
 * Linux include/uapi/linux/kvm.h (6.1): what a VMM gives to KVM_MEMORY_ENCRYPT_OP on a VM's descriptor. Little-endian;
 * addresses are virtual ones of the caller, lengths in bytes; the padding that a compiler puts in is ignored.
 */

/** Ioctls of a VM that have to do with encrypted memory. */
export const SevIoctl = {
	KVM_MEMORY_ENCRYPT_OP: 0xc008aeba,
	KVM_MEMORY_ENCRYPT_REG_REGION: 0x8010aebb,
	KVM_MEMORY_ENCRYPT_UNREG_REGION: 0x8010aebc,
} as const;

/** KVM_SEV_*: `id` of {@link kvmSevCmd}. SEND_UPDATE_VMSA, RECEIVE_UPDATE_VMSA and CERT_EXPORT are numbers without a handler. */
export const SevCommand = {
	INIT: 0,
	ES_INIT: 1,
	LAUNCH_START: 2,
	LAUNCH_UPDATE_DATA: 3,
	LAUNCH_UPDATE_VMSA: 4,
	LAUNCH_SECRET: 5,
	LAUNCH_MEASURE: 6,
	LAUNCH_FINISH: 7,
	SEND_START: 8,
	SEND_UPDATE_DATA: 9,
	SEND_UPDATE_VMSA: 10,
	SEND_FINISH: 11,
	RECEIVE_START: 12,
	RECEIVE_UPDATE_DATA: 13,
	RECEIVE_UPDATE_VMSA: 14,
	RECEIVE_FINISH: 15,
	GUEST_STATUS: 16,
	DBG_DECRYPT: 17,
	DBG_ENCRYPT: 18,
	CERT_EXPORT: 19,
	GET_ATTESTATION_REPORT: 20,
	SEND_CANCEL: 21,
	/** Linux 6.10 on. */
	INIT2: 22,
} as const;

/** KVM_MEMORY_ENCRYPT_OP: `data` points to the command's structure, `error` is the firmware's status. */
export const kvmSevCmd = layout('kvm_sev_cmd', 24, {
	id: u32(0),
	pad: ignored(4, 4),
	data: u64(8),
	error: u32(16),
	sevFd: u32(20),
});

/** KVM_SEV_INIT2: Linux 6.10 arch/x86/include/uapi/asm/kvm.h. `flags` must be 0; `ghcbVersion` 0: the highest. */
export const kvmSevInit = layout('kvm_sev_init', 48, {
	vmsaFeatures: u64(0),
	flags: u32(8),
	ghcbVersion: u16(12),
	pad1: ignored(14, 2),
	pad2: ignored(16, 32),
});

/** KVM_SEV_LAUNCH_START. `dhUaddr` 0: no guest owner. */
export const kvmSevLaunchStart = layout('kvm_sev_launch_start', 40, {
	handle: u32(0),
	policy: u32(4),
	dhUaddr: u64(8),
	dhLen: u32(16),
	pad1: ignored(20, 4),
	sessionUaddr: u64(24),
	sessionLen: u32(32),
	pad2: ignored(36, 4),
});

/** KVM_SEV_LAUNCH_UPDATE_DATA. */
export const kvmSevLaunchUpdateData = layout('kvm_sev_launch_update_data', 16, {
	uaddr: u64(0),
	len: u32(8),
	pad: ignored(12, 4),
});

/** KVM_SEV_LAUNCH_SECRET. */
export const kvmSevLaunchSecret = transport('kvm_sev_launch_secret');

/** KVM_SEV_LAUNCH_MEASURE. `len` 0: a length query. */
export const kvmSevLaunchMeasure = layout('kvm_sev_launch_measure', 16, {
	uaddr: u64(0),
	len: u32(8),
	pad: ignored(12, 4),
});

/** KVM_SEV_GUEST_STATUS. */
export const kvmSevGuestStatus = layout('kvm_sev_guest_status', 12, { handle: u32(0), policy: u32(4), state: u32(8) });

/** KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT. */
export const kvmSevDbg = layout('kvm_sev_dbg', 24, {
	srcUaddr: u64(0),
	dstUaddr: u64(8),
	len: u32(16),
	pad: ignored(20, 4),
});

/** KVM_SEV_GET_ATTESTATION_REPORT. */
export const kvmSevAttestationReport = layout('kvm_sev_attestation_report', 32, {
	mnonce: bytes(0, 16),
	uaddr: u64(16),
	len: u32(24),
	pad: ignored(28, 4),
});

/** KVM_SEV_SEND_START. `sessionLen` 0: a length query. */
export const kvmSevSendStart = layout('kvm_sev_send_start', 72, {
	policy: u32(0),
	pad1: ignored(4, 4),
	pdhCertUaddr: u64(8),
	pdhCertLen: u32(16),
	pad2: ignored(20, 4),
	platCertsUaddr: u64(24),
	platCertsLen: u32(32),
	pad3: ignored(36, 4),
	amdCertsUaddr: u64(40),
	amdCertsLen: u32(48),
	pad4: ignored(52, 4),
	sessionUaddr: u64(56),
	sessionLen: u32(64),
	pad5: ignored(68, 4),
});

/** KVM_SEV_SEND_UPDATE_DATA. */
export const kvmSevSendUpdateData = transport('kvm_sev_send_update_data');

/** KVM_SEV_RECEIVE_START. */
export const kvmSevReceiveStart = layout('kvm_sev_receive_start', 40, {
	handle: u32(0),
	policy: u32(4),
	pdhUaddr: u64(8),
	pdhLen: u32(16),
	pad1: ignored(20, 4),
	sessionUaddr: u64(24),
	sessionLen: u32(32),
	pad2: ignored(36, 4),
});

/** KVM_SEV_RECEIVE_UPDATE_DATA. */
export const kvmSevReceiveUpdateData = transport('kvm_sev_receive_update_data');

/** KVM_MEMORY_ENCRYPT_REG_REGION, KVM_MEMORY_ENCRYPT_UNREG_REGION. */
export const kvmEncRegion = layout('kvm_enc_region', 16, { addr: u64(0), size: u64(8) });

/** One transport packet: its header, guest memory, its payload. */
function transport(name: string) {
	return layout(name, 48, {
		hdrUaddr: u64(0),
		hdrLen: u32(8),
		pad1: ignored(12, 4),
		guestUaddr: u64(16),
		guestLen: u32(24),
		pad2: ignored(28, 4),
		transUaddr: u64(32),
		transLen: u32(40),
		pad3: ignored(44, 4),
	});
}
