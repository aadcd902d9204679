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
	EXIT_HYPERCALL_VALID_MASK,
	KvmFeature,
	MSR_KVM_MIGRATION_CONTROL,
	MsrExitReason,
	MsrFilterDefault,
	USER_MEM_SLOTS,
} from './capabilities.js';
export type { CpuidEntry } from './cpuid.js';
export { Errno } from './errno.js';
export { type KvmAbi, LINUX_RELEASES, type LinuxRelease } from './generation.js';
export { ExitReason, IoDirection, KVM_RUN_SIZE, RunOffset } from './run-page.js';
export {
	kvmEncRegion,
	kvmSevAttestationReport,
	kvmSevCmd,
	kvmSevDbg,
	kvmSevGuestStatus,
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
