/**
 * The numbers and layouts of Linux/KVM that both sides of the ABI need: data, no behaviour.
 *
 * ```ts
 * const run = new DataView(vcpu.run.buffer, vcpu.run.byteOffset);
 * if (run.getUint32(RunOffset.exitReason, true) === ExitReason.HYPERCALL) run.setBigUint64(RunOffset.hypercallRet, 0n, true);
 * ```
 *
 * @packageDocumentation
 */
export {
	Cap,
	DisableExits,
	EXIT_HYPERCALL_VALID_MASK,
	KVM_X86_DISABLE_VALID_EXITS,
	KvmFeature,
	MSR_KVM_MIGRATION_CONTROL,
	MsrExitReason,
	MsrFilterDefault,
	Quirk,
	USER_MEM_SLOTS,
} from './capabilities.js';
export type { CpuidEntry } from './cpuid.js';
export { Errno } from './errno.js';
export { type KvmAbi, LINUX_RELEASES, type LinuxRelease, SERIES, type Series } from './generation.js';
export {
	ExitCode,
	GHCB_BUFFER,
	type Ghcb,
	GhcbError,
	GhcbMsr,
	GhcbResult,
	ghcb,
	ghcbValidBit,
	JumpTableAction,
	MSR_GHCB,
	MSR_SEV_STATUS,
} from './ghcb.js';
export { Hypercall, HypercallErrno, MapGpaRange } from './hypercall.js';
export { Ioctl, type IoctlName, KVM_API_VERSION } from './ioctl.js';
export {
	KVM_DIRTY_LOG_PAGE_OFFSET,
	kvmClearDirtyLog,
	kvmDeviceAttr,
	kvmDirtyGfn,
	kvmDirtyLog,
	kvmEnableCap,
	kvmMsrFilter,
	kvmMsrFilterRange,
	kvmUserspaceMemoryRegion,
} from './memory.js';
export { Msr, PvFeature } from './msr.js';
export {
	kvmPageEncBitmap,
	kvmSharedPagesEntry,
	kvmSharedPagesList,
	type LiveMigrationFeature,
	liveMigrationFeature,
	PAGE_STATUS_IOCTLS,
	type PageStatusIoctls,
} from './page-status.js';
export {
	kvmCpuid2,
	kvmCpuidEntry2,
	kvmDebugregs,
	kvmDtable,
	kvmFpu,
	kvmGuestDebug,
	kvmMpState,
	kvmMsrEntry,
	kvmMsrs,
	kvmRegs,
	kvmSegment,
	kvmSregs,
	kvmXcr,
	kvmXcrs,
	kvmXsave,
	MAX_IOCTL_ENTRIES,
} from './registers.js';
export { ExitReason, IoDirection, KVM_RUN_SIZE, RunOffset } from './run-page.js';
export {
	kvmEncRegion,
	kvmSevAttestationReport,
	kvmSevCmd,
	kvmSevDbg,
	kvmSevGuestStatus,
	kvmSevInit,
	kvmSevLaunchMeasure,
	kvmSevLaunchSecret,
	kvmSevLaunchStart,
	kvmSevLaunchUpdateData,
	kvmSevReceiveStart,
	kvmSevReceiveUpdateData,
	kvmSevSendStart,
	kvmSevSendUpdateData,
	SevCommand,
	SevIoctl,
} from './sev.js';
export { EsVcpuFlags, esVcpuRecord, kvmSevReceiveUpdateVmsa, kvmSevSendUpdateVmsa } from './sev-vmsa.js';
export { DeviceAttr, VmType } from './vm-type.js';
