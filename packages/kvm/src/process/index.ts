/**
 * Linux KVM as a program sees it: descriptors, ioctl numbers and structures in memory. The same checks as behind the typed facade
 * of `@cvm/kvm`, byte for byte.
 *
 * ```ts
 * const process = createProcess(kvm);
 * const vm = process.ioctl(process.open('/dev/kvm'), Ioctl.KVM_CREATE_VM, 0);
 * process.ioctl(vm, SevIoctl.KVM_MEMORY_ENCRYPT_OP, kvmSevCmd.encode({ id: SevCommand.INIT })); // 0 or a negative errno
 * ```
 *
 * @packageDocumentation
 */
export { createProcess, type Process, type ProcessOptions } from './process.js';
export type { IoctlArgument } from './user-space.js';
