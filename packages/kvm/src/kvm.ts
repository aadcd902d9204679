import type { SevMachine } from '@cvm/sev-hw';
import type { CpuidEntry } from './abi/cpuid.js';
import type { KvmAbi } from './abi/generation.js';
import { checkExtension } from './capabilities.js';
import { createSevDriver, type SevDevice } from './ccp/sev-device.js';
import { type CpuidOptions, guestCpuid } from './cpuid.js';
import { createHostMemory, type HostMemory } from './host-memory.js';
import { createAsidPool } from './sev/asid-pool.js';
import { createVm, type Vm } from './vm.js';

/** What a host kernel is made of. */
export interface KvmOptions {
	readonly machine: SevMachine;
	/** `upstream` by default. */
	readonly abi?: KvmAbi;
}

/** /dev/kvm and /dev/sev of one host, and the memory of its processes. One per machine. */
export interface Kvm {
	readonly abi: KvmAbi;
	readonly memory: HostMemory;
	readonly sevDevice: SevDevice;
	/** KVM_CHECK_EXTENSION. */
	checkExtension(cap: number): number;
	/** Entries that a VMM would give its vCPUs. */
	cpuid(options?: CpuidOptions): CpuidEntry[];
	/** KVM_CREATE_VM. `sev: false`: a host without SEV, where `sev.init()` is −ENOTTY; the VMM calls that itself. */
	createVm(options?: { readonly sev?: boolean }): Vm;
}

/** Boots a host on a machine. @throws KvmError `out-of-memory` if DRAM has no 100 KiB above 1 MiB for the kernel */
export function createKvm({ machine, abi = 'upstream' }: KvmOptions): Kvm {
	const memory = createHostMemory(machine.dram);
	const driver = createSevDriver(machine, memory);
	const { minSevNoEsAsid: min, maxAsid: max } = machine.cpuid;
	const asids = createAsidPool({ min, max }, () => driver.flush().ret === 0);
	return {
		abi,
		memory,
		sevDevice: driver,
		checkExtension: (cap) => checkExtension(abi, cap),
		cpuid: (options = {}) => guestCpuid(abi, machine.cpuid, options),
		createVm: ({ sev = true } = {}) => createVm({ abi, driver, memory, asids }, sev),
	};
}
