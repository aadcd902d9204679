import type { CpuidEntry } from '../abi/cpuid.js';
import type { VmHost } from '../vm/context.js';
import { guestCpuid } from './cpuid.js';

const MEMORY_ENCRYPTION = 0x8000001f;
const SEV = 1 << 1;
const SEV_ES = 1 << 3;

/**
 * KVM_GET_SUPPORTED_CPUID: what this host could give a guest (Linux 5.12 to 6.10 arch/x86/kvm/cpuid.c). v11 and v12 report the
 * migration feature, upstream leaves its two bits to the VMM. Leaf 0x8000001F says which ASIDs there are, and no reduction of
 * physical addresses, as MAXPHYADDR is the guest's already.
 */
export function supportedCpuid({ kernel, driver, hasSevEs }: VmHost): CpuidEntry[] {
	const { cpuid } = driver.machine;
	const encryption = {
		eax: SEV | (hasSevEs ? SEV_ES : 0),
		ebx: cpuid.cbitPosition,
		ecx: cpuid.maxAsid,
		edx: cpuid.minSevNoEsAsid,
	};
	return guestCpuid(kernel.series, cpuid, {}).map((entry) =>
		entry.function === MEMORY_ENCRYPTION ? { ...entry, ...encryption } : entry,
	);
}
