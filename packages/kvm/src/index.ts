/**
 * Linux KVM as a VMM sees it, for SEV live migration: VMs, memslots, dirty log, MSR filter, the KVM_SEV ioctls and
 * /dev/sev, over a machine of `@cvm/sev-hw`. vCPUs run by `@cvm/kvm/vcpu`, in any thread.
 *
 * ```ts
 * const kvm = createKvm({ machine });
 * const vm = kvm.createVm();
 * const ram = kvm.memory.mmap(64 << 20);
 * vm.sev.init();
 * vm.setUserMemoryRegion({ slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: 64 << 20, userspaceAddr: ram.hva });
 * vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: 64 << 20 });
 * vm.sev.launchStart({ policy: 0 });
 * const vcpu = vm.createVcpu(0, kvm.cpuid({ migrationControl: true }));
 * ```
 *
 * @packageDocumentation
 */
export type { CpuidEntry } from './abi/cpuid.js';
export type { KvmAbi, LinuxRelease, Series } from './abi/generation.js';
export type { PlatformStatus, SevDevice, SevResult } from './ccp/sev-device.js';
export type { CpuidOptions } from './cpuid/cpuid.js';
export { KvmError } from './error.js';
export type { Kernel } from './kernel.js';
export { createKvm, type Kvm, type KvmOptions } from './kvm.js';
export { createRingReader, type DirtyRingReader } from './memory/dirty-ring.js';
export type { HostMapping, HostMemory } from './memory/host-memory.js';
export type { MemoryRegionArgument } from './memory/memory-region.js';
export type { ClearDirtyLogRequest, UserMemoryRegion } from './memory/memslots.js';
export type { MsrFilter } from './msr/filter.js';
export type { BitmapStart, PageStatusIoctls } from './page-status/ioctls.js';
export type { FrameRange } from './page-status/ranges.js';
export type { KvmDebugRegs } from './registers/debug.js';
export type { KvmFpu, KvmXcr } from './registers/fpu.js';
export type { KvmDtable, KvmSegment } from './registers/segments.js';
export type { KvmRegs, KvmSregs } from './registers/sregs.js';
export type { AttestationRequest, AttestationResult } from './sev/attestation.js';
export type { BatchGeometry, BatchResult } from './sev/batch.js';
export type { DebugRequest } from './sev/debug.js';
export { type EsVcpuRecord, loadEsVcpu, saveEsVcpu, type VmmState } from './sev/es/record.js';
export { type ResetOptions, resetVcpu, type VcpuResetState, vcpuResetState } from './sev/es/reset-state.js';
export type { ReceiveVmsaRequest, SendVmsaRequest } from './sev/es/transport.js';
export type { SevInit2 } from './sev/init.js';
export type { GuestStatusResult, SevIoctls } from './sev/ioctls.js';
export type { LaunchSecretRequest, LaunchStartRequest, MeasureResult } from './sev/launch.js';
export type { ReceiveStartRequest, ReceiveUpdateRequest } from './sev/receive.js';
export type { EncRegion } from './sev/regions.js';
export type { SendStartRequest, SendStartResult, SendUpdateRequest, SendUpdateResult } from './sev/send.js';
export type { VmsaMapping, VmsaTransport } from './vm/context.js';
export { MemFlag, type VmHandle } from './vm/state.js';
export type { DeviceAttrResult } from './vm/types.js';
export type { Vcpu } from './vm/vcpu.js';
export { loadVcpuState, MpState, saveVcpuState, VCPU_STATE_BYTES, type VcpuHandle } from './vm/vcpu-state.js';
export type { Vm } from './vm/vm.js';
