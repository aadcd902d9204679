import type { SevMachine } from '@cvm/sev-hw';
import type { CpuidEntry } from './abi/cpuid.js';
import type { KvmAbi, LinuxRelease } from './abi/generation.js';
import { checkExtension } from './capabilities.js';
import { createSevDriver, reserveTmr, type SevDevice } from './ccp/sev-device.js';
import { type CpuidOptions, guestCpuid } from './cpuid.js';
import { createHostMemory, type HostMemory } from './host-memory.js';
import { createKernel, type Kernel } from './kernel.js';
import { createAsidPool } from './sev/asid-pool.js';
import { createVm, type Vm } from './vm.js';

/** What a host kernel is made of. */
export interface KvmOptions {
	readonly machine: SevMachine;
	/** `upstream` by default. */
	readonly abi?: KvmAbi;
	/** 5.12 with `v12`, else 6.10 by default. */
	readonly release?: LinuxRelease;
	/** kvm_amd.sev_es: true by default. It takes 1 MiB of DRAM for the firmware's use. */
	readonly sevEs?: boolean;
}

/** /dev/kvm and /dev/sev of one host, and the memory of its processes. One per machine. */
export interface Kvm {
	readonly abi: KvmAbi;
	readonly kernel: Kernel;
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
export function createKvm({ machine, abi = 'upstream', release, sevEs = true }: KvmOptions): Kvm {
	const kernel = createKernel(abi, release);
	const memory = createHostMemory(machine.dram);
	const { minSevNoEsAsid: min, maxAsid: max } = machine.cpuid;
	const hasSevEs = sevEs && min > 1;
	const driver = createSevDriver(machine, memory, hasSevEs ? reserveTmr(memory) : undefined);
	const flush = (): boolean => driver.flush().ret === 0;
	const asids = createAsidPool({ min, max }, flush);
	const esAsids = createAsidPool({ min: 1, max: min - 1 }, flush);
	return {
		abi,
		kernel,
		memory,
		sevDevice: driver,
		checkExtension: (cap) => checkExtension(abi, cap),
		cpuid: (options = {}) => guestCpuid(abi, machine.cpuid, options),
		createVm: ({ sev = true } = {}) => createVm({ kernel, driver, memory, asids, esAsids, hasSevEs }, sev),
	};
}
