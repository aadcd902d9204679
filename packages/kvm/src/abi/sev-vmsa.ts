import { ignored, layout, u32, u64 } from '@cvm/layout';

/*
 * PROJECT: KVM_SEV_SEND_UPDATE_VMSA (id 10) and KVM_SEV_RECEIVE_UPDATE_VMSA (id 14) have numbers in linux/kvm.h, but neither
 * structures nor handlers. These are ours, for `createKvm({ vmsaTransport: 'model' })`.
 */

/**
 * PROJECT: the argument of both commands: `kvm_sev_send_update_data` with the number of a vCPU where the guest's memory is,
 * as a program cannot address a save area. The length of the save area is always 4096.
 */
function vmsaTransport(name: string) {
	return layout(name, 48, {
		hdrUaddr: u64(0),
		hdrLen: u32(8),
		pad1: ignored(12, 4),
		/** As in KVM_CREATE_VCPU. */
		vcpuId: u32(16),
		pad2: ignored(20, 12),
		transUaddr: u64(32),
		transLen: u32(40),
		pad3: ignored(44, 4),
	});
}

/** KVM_SEV_SEND_UPDATE_VMSA, PROJECT. `hdrLen` or `transLen` 0: a length query. */
export const kvmSevSendUpdateVmsa = vmsaTransport('kvm_sev_send_update_vmsa');
/** KVM_SEV_RECEIVE_UPDATE_VMSA, PROJECT. */
export const kvmSevReceiveUpdateVmsa = vmsaTransport('kvm_sev_receive_update_vmsa');

/** PROJECT: bits of `flags` in {@link esVcpuRecord}. */
export const EsVcpuFlags = {
	/** This AP was started once: it has its first SIPI behind it, and later ones only end its reset hold. */
	SIPI_SEEN: 1n,
	/** An INIT waits for it at its local APIC. */
	INIT_PENDING: 2n,
	/** A SIPI waits. Its vector means nothing to a vCPU whose state is encrypted. */
	SIPI_PENDING: 4n,
} as const;

/**
 * PROJECT: what KVM keeps of a SEV-ES vCPU outside of its save area and shows by no ioctl of its own, or by several: 48
 * bytes, little-endian, one record per vCPU of a migration.
 */
export const esVcpuRecord = layout('es_vcpu_record', 48, {
	/** MSR 0xC0010130. */
	ghcbMsr: u64(0),
	/** Of the VM, repeated; 0 = none. */
	apJumpTableGpa: u64(8),
	/** 0 none, 1 by the GHCB page, 2 by the GHCB MSR. */
	resetHoldType: u32(16),
	/** KVM_MP_STATE_*. */
	mpState: u32(20),
	tscOffset: u64(24),
	/** The migration MSR, 0x4B564D08, of the VM, repeated. */
	migMsr: u64(32),
	/** {@link EsVcpuFlags}. */
	flags: u64(40),
});
