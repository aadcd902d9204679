import { Errno } from '../abi/errno.js';
import { Ioctl, KVM_API_VERSION } from '../abi/ioctl.js';
import { kvmDeviceAttr } from '../abi/memory.js';
import { KVM_RUN_SIZE } from '../abi/run-page.js';
import { supportedCpuid } from '../cpuid/supported.js';
import type { Kvm } from '../kvm.js';
import type { VmHost } from '../vm/context.js';
import { readStructure, type UserPointer, type UserSpace } from './user-space.js';
import { putCpuid } from './vcpu-ioctls.js';
import { capOf } from './vm-ioctls.js';

/** One ioctl on /dev/kvm. */
export interface KvmCall {
	readonly kvm: Kvm;
	readonly host: VmHost;
	readonly space: UserSpace;
	readonly argument: UserPointer;
	/** KVM_CREATE_VM: a descriptor or −errno. */
	readonly createVm: (type: bigint) => number;
}

/** The ioctls of /dev/kvm: kvm_dev_ioctl and kvm_arch_dev_ioctl of Linux 5.12 to 6.10. What is missing here is −EINVAL. */
export const KVM_IOCTLS: ReadonlyMap<number, (call: KvmCall) => number> = new Map<number, (call: KvmCall) => number>([
	[Ioctl.KVM_GET_API_VERSION, ({ argument }) => withoutArgument(argument, KVM_API_VERSION)],
	[Ioctl.KVM_CREATE_VM, ({ createVm, argument }) => createVm(argument.value)],
	[Ioctl.KVM_CHECK_EXTENSION, ({ kvm, argument }) => kvm.checkExtension(capOf(argument.value))],
	[Ioctl.KVM_GET_VCPU_MMAP_SIZE, ({ argument }) => withoutArgument(argument, KVM_RUN_SIZE)],
	[Ioctl.KVM_GET_SUPPORTED_CPUID, ({ host, argument }) => putCpuid(argument, supportedCpuid(host))],
	[Ioctl.KVM_GET_DEVICE_ATTR, (call) => deviceAttr(call, true)],
	[Ioctl.KVM_HAS_DEVICE_ATTR, (call) => deviceAttr(call, false)],
]);

const withoutArgument = ({ value }: UserPointer, answer: number): number => (value === 0n ? answer : -Errno.EINVAL);

/** KVM_GET_DEVICE_ATTR puts the value where `addr` says, KVM_HAS_DEVICE_ATTR only says whether there is one. */
function deviceAttr({ kvm, space, argument }: KvmCall, wantsValue: boolean): number {
	const input = readStructure(argument, kvmDeviceAttr);
	if (input === undefined) return -Errno.EFAULT;
	const { ret, value } = kvm.getDeviceAttr(input.group, Number(input.attr));
	if (ret !== 0 || !wantsValue) return ret;
	const bytes = new Uint8Array(8);
	new DataView(bytes.buffer).setBigUint64(0, value, true);
	return space.write(input.addr, bytes) ? 0 : -Errno.EFAULT;
}
