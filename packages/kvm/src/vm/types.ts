import { Errno } from '../abi/errno.js';
import { DeviceAttr, VmType } from '../abi/vm-type.js';
import type { Capability } from '../capabilities.js';
import { isSince } from '../kernel.js';
import type { VmHost } from './context.js';

/**
 * Bit n: KVM_CREATE_VM takes type n. SEV-SNP is not modelled; a SW_PROTECTED VM is like one of the default type.
 */
function vmTypes({ kernel, driver, hasSevEs }: VmHost): number {
	const all = 1 << VmType.DEFAULT;
	if (!isSince(kernel, '6.10')) return all;
	const { minSevNoEsAsid, maxAsid } = driver.machine.cpuid;
	const sev = minSevNoEsAsid <= maxAsid ? 1 << VmType.SEV : 0;
	return all | (1 << VmType.SW_PROTECTED) | sev | (hasSevEs ? 1 << VmType.SEV_ES : 0);
}

/** Whether KVM_CREATE_VM takes a type, which may be any number. */
export const offersVmType = (host: VmHost, type: number): boolean =>
	Number.isInteger(type) && type >= 0 && type < 32 && ((vmTypes(host) >>> type) & 1) === 1;

/** KVM_CAP_VM_TYPES: before Linux 6.10 there is none that matters here, and the capability is not there. */
export const vmTypesCapability: Capability = { check: (host) => (isSince(host.kernel, '6.10') ? vmTypes(host) : 0) };

/** KVM_CAP_X86_SMM: a SEV-ES guest cannot enter it, as that rewrites registers (Linux 5.11 svm_has_emulated_msr). */
export const smmCapability: Capability = { check: (_host, vm) => (vm?.sev.active === true && vm.sev.es ? 0 : 1) };

/** KVM_CAP_SYS_ATTRIBUTES: /dev/kvm answers KVM_GET_DEVICE_ATTR. UNCERTAIN(Linux): it came with 5.17. */
export const sysAttributesCapability: Capability = { check: ({ kernel }) => (isSince(kernel, '5.18') ? 1 : 0) };

/** What KVM_GET_DEVICE_ATTR answers: 0 or −errno, and the attribute. */
export interface DeviceAttrResult {
	readonly ret: number;
	readonly value: bigint;
}

/** sev_dev_get_attr of Linux 6.10 arch/x86/kvm/svm/sev.c. */
export function getDeviceAttr({ kernel, vmsaFeatures }: VmHost, group: number, attr: number): DeviceAttrResult {
	const isThere = isSince(kernel, '6.10') && group === DeviceAttr.GRP_SEV && attr === DeviceAttr.SEV_VMSA_FEATURES;
	return isThere ? { ret: 0, value: vmsaFeatures } : { ret: -Errno.ENXIO, value: 0n };
}
