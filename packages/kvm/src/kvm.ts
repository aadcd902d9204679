import type { SevMachine } from '@cvm/sev-hw';
import type { CpuidEntry } from './abi/cpuid.js';
import type { KvmAbi, LinuxRelease, Series } from './abi/generation.js';
import { VmType } from './abi/vm-type.js';
import { checkExtension } from './capabilities.js';
import { createSevDriver, reserveTmr, type SevDevice } from './ccp/sev-device.js';
import { type CpuidOptions, guestCpuid } from './cpuid/cpuid.js';
import { KvmError } from './error.js';
import { createKernel, type Kernel } from './kernel.js';
import { createHostMemory, type HostMemory } from './memory/host-memory.js';
import { createAsidPool } from './sev/asid-pool.js';
import { supportedVmsaFeatures } from './sev/init.js';
import type { VmHost, VmsaMapping, VmsaTransport } from './vm/context.js';
import { type DeviceAttrResult, getDeviceAttr, offersVmType } from './vm/types.js';
import { createVm, type Vm } from './vm/vm.js';

/** What a host kernel is made of. */
export interface KvmOptions {
	readonly machine: SevMachine;
	/** `upstream` by default. */
	readonly abi?: KvmAbi;
	/**
	 * Which posting of the series the kernel has, for what it does with page status: that of `abi` by default. All but
	 * `upstream` have the ABI `v12`.
	 */
	readonly series?: Series;
	/** 5.12 with `v12`, else 6.10 by default. */
	readonly release?: LinuxRelease;
	/** kvm_amd.sev_es: true by default. It takes 1 MiB of DRAM for the firmware's use. */
	readonly sevEs?: boolean;
	/** PROJECT: `model` makes `sendUpdateVmsa` and `receiveUpdateVmsa` work; `einval`, the default, is what Linux does. */
	readonly vmsaTransport?: VmsaTransport;
	/** PROJECT: `model` makes `mapSaveArea` and `unmapSaveArea` work; `none`, the default, is what Linux does. */
	readonly vmsaMapping?: VmsaMapping;
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
	/** KVM_GET_DEVICE_ATTR on /dev/kvm (Linux 6.10). −ENXIO: no such attribute. */
	getDeviceAttr(group: number, attr: number): DeviceAttrResult;
	/**
	 * KVM_CREATE_VM. `sev: false`: a host without SEV, where `sev.init()` is −ENOTTY; the VMM calls that itself. `type`: a
	 * {@link VmType}, DEFAULT by default; the SEV types (Linux 6.10) need `sev.init2()`.
	 *
	 * @throws KvmError `vm-type`, which stands for −EINVAL
	 */
	createVm(options?: { readonly sev?: boolean; readonly type?: VmType }): Vm;
}

const hosts = new WeakMap<Kvm, VmHost>();

/** What the kernel keeps behind /dev/kvm. */
export function hostOf(kvm: Kvm): VmHost {
	const host = hosts.get(kvm);
	if (host === undefined) throw new KvmError('not-a-kvm', 'Kvm', 'one that createKvm() made', 'something else');
	return host;
}

/** Boots a host on a machine. @throws KvmError `out-of-memory` if DRAM has no 100 KiB above 1 MiB for the kernel */
export function createKvm({
	machine,
	abi: wanted,
	series,
	release,
	sevEs = true,
	vmsaTransport = 'einval',
	vmsaMapping = 'none',
}: KvmOptions): Kvm {
	const abi = abiOf(wanted, series);
	const kernel = createKernel(abi, release, series);
	const memory = createHostMemory(machine.dram);
	const { minSevNoEsAsid: min, maxAsid: max } = machine.cpuid;
	const hasSevEs = sevEs && min > 1;
	const driver = createSevDriver(machine, memory, hasSevEs ? reserveTmr(memory) : undefined);
	const flush = (): boolean => driver.flush().ret === 0;
	const asids = createAsidPool({ min, max }, flush);
	const esAsids = createAsidPool({ min: 1, max: min - 1 }, flush);
	const vmsaFeatures = supportedVmsaFeatures(kernel, hasSevEs);
	const vmsa = { vmsaFeatures, vmsaTransport, vmsaMapping };
	const host: VmHost = { kernel, driver, memory, asids, esAsids, hasSevEs, ...vmsa };
	const kvm: Kvm = {
		abi,
		kernel,
		memory,
		sevDevice: driver,
		checkExtension: (cap) => checkExtension(host, cap),
		cpuid: (options = {}) => guestCpuid(kernel.series, machine.cpuid, options),
		getDeviceAttr: (group, attr) => getDeviceAttr(host, group, attr),
		createVm: ({ sev = true, type = VmType.DEFAULT } = {}) => {
			if (!offersVmType(host, type)) {
				throw new KvmError('vm-type', 'createVm', 'a type of KVM_CAP_VM_TYPES', `${type}`);
			}
			return createVm(host, sev, type);
		},
	};
	hosts.set(kvm, host);
	return kvm;
}

/** A posting of the series has the ABI of its time. */
function abiOf(abi: KvmAbi | undefined, series: Series | undefined): KvmAbi {
	if (series === undefined) return abi ?? 'upstream';
	const own = series === 'upstream' ? 'upstream' : 'v12';
	if (abi !== undefined && abi !== own) throw new KvmError('series', 'series', `one of ABI ${abi}`, series);
	return own;
}
