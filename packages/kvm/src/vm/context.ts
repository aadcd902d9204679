import type { VmType } from '../abi/vm-type.js';
import type { SevDriver } from '../ccp/sev-device.js';
import type { Kernel } from '../kernel.js';
import type { KernelMemory } from '../memory/host-memory.js';
import type { Memslots } from '../memory/memslots.js';
import type { AsidPool } from '../sev/asid-pool.js';
import type { SevContext } from '../sev/context.js';
import type { SaveArea } from '../sev/es/save-area.js';
import type { VmHandle } from './state.js';
import type { Vcpu } from './vcpu.js';

/** What the VMs of one host share. */
export interface VmHost {
	readonly kernel: Kernel;
	readonly driver: SevDriver;
	readonly memory: KernelMemory;
	/** ASIDs for guests without SEV-ES, and for those with. */
	readonly asids: AsidPool;
	readonly esAsids: AsidPool;
	/** kvm_amd.sev_es: the platform was brought up with SEV-ES, and there is an ASID for it. */
	readonly hasSevEs: boolean;
	/** SEV_FEATURES that KVM_SEV_INIT2 takes for guests with SEV-ES. */
	readonly vmsaFeatures: bigint;
	/** What KVM_SEV_SEND_UPDATE_VMSA and KVM_SEV_RECEIVE_UPDATE_VMSA do: Linux answers −EINVAL. */
	readonly vmsaTransport: VmsaTransport;
	/** Whether `Vm.mapSaveArea` is there: Linux has nothing like it. */
	readonly vmsaMapping: VmsaMapping;
}

/**
 * PROJECT: no KVM shows a guest its save areas; the authors of the migration helper meant to. `none` is the real KVM; `model`
 * implements it.
 */
export type VmsaMapping = 'none' | 'model';

/**
 * PROJECT: KVM has numbers for the commands that move save areas between hosts, and no implementation. `einval` is the real
 * KVM; `model` implements them.
 */
export type VmsaTransport = 'einval' | 'model';

/** struct kvm: one VM as the parts of the kernel share it. */
export interface VmContext {
	readonly host: VmHost;
	readonly kernel: Kernel;
	/** KVM_X86_*_VM. */
	readonly type: VmType;
	readonly handle: VmHandle;
	/** The VM's shared words, see `VmWord`. */
	readonly words: Int32Array;
	readonly memslots: Memslots;
	readonly sev: SevContext;
	readonly vcpus: Map<number, VcpuContext>;
	/** The host has SEV (kvm_amd.sev=1), and the VM's descriptor is open. */
	isSupported(): boolean;
	/** KVM_CREATE_IRQCHIP was called. */
	hasIrqchip: boolean;
}

/** struct kvm_vcpu. */
export interface VcpuContext {
	readonly vcpu: Vcpu;
	/** The save area of a vCPU of a SEV-ES guest: a page that the processor loads and stores. */
	saveArea: SaveArea | undefined;
	/** LAUNCH_UPDATE_VMSA or RECEIVE_UPDATE_VMSA encrypted the save area: registers are the guest's own. */
	guestStateProtected: boolean;
}
