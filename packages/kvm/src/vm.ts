import type { CpuidEntry } from './abi/cpuid.js';
import { Errno } from './abi/errno.js';
import { checkExtension, enableCap } from './capabilities.js';
import { KvmError } from './error.js';
import { createMemslots, type UserMemoryRegion } from './memslots.js';
import { type MsrFilter, setMsrFilter } from './msr-filter.js';
import { createSevContext, unbindAsid } from './sev/context.js';
import { createSevIoctls, type SevIoctls } from './sev/ioctls.js';
import { createEncRegions, type EncRegion } from './sev/regions.js';
import type { VcpuContext, VmContext, VmHost } from './vm-context.js';
import { createVmHandle, MAX_VCPUS, VmWord, vmWords } from './vm-state.js';
import { createVcpu, type Vcpu } from './vm-vcpu.js';

/** A VM descriptor: its ioctls. They return 0 or a negative errno. */
export interface Vm {
	/** KVM_ENABLE_CAP. */
	enableCap(cap: number, args: readonly bigint[]): number;
	/** KVM_CHECK_EXTENSION. */
	checkExtension(cap: number): number;
	/** KVM_X86_SET_MSR_FILTER. */
	setMsrFilter(filter: MsrFilter): number;
	/** KVM_SET_USER_MEMORY_REGION. Delete or move a slot only while no vCPU runs; flags may change at any time. */
	setUserMemoryRegion(region: UserMemoryRegion): number;
	/** KVM_GET_DIRTY_LOG: moves the bits of a slot to `bitmap` and clears them, also while vCPUs run. Bit i of word i>>5 is page i. */
	getDirtyLog(slot: number, bitmap: Uint32Array): number;
	/** KVM_MEMORY_ENCRYPT_REG_REGION. */
	memoryEncryptRegisterRegion(region: EncRegion): number;
	/** KVM_MEMORY_ENCRYPT_UNREG_REGION. */
	memoryEncryptUnregisterRegion(region: EncRegion): number;
	/** KVM_MEMORY_ENCRYPT_OP. */
	readonly sev: SevIoctls;
	/** KVM_CREATE_VCPU with KVM_SET_CPUID2. @throws KvmError `vcpu-index` unless it is free and below 32 */
	createVcpu(index: number, cpuid: readonly CpuidEntry[]): Vcpu;
	/**
	 * Closes the VM: kicks its vCPUs, whose threads must not call KVM_RUN again; its guest in the firmware is gone, its ASID,
	 * slots and pins are free. Later ioctls are −EBADF or −ENOTTY. A second call does nothing.
	 */
	destroy(): void;
}

const contexts = new WeakMap<Vm, VmContext>();

/** What the kernel keeps behind a VM's descriptor. */
export function contextOf(vm: Vm): VmContext {
	const context = contexts.get(vm);
	if (context === undefined) throw new KvmError('not-a-vm', 'VM', 'one of createKvm().createVm()', 'something else');
	return context;
}

export function createVm(host: VmHost, supported: boolean): Vm {
	const { kernel, driver, memory } = host;
	const { machine } = driver;
	const { cbitPosition } = machine.cpuid;
	const handle = createVmHandle({ kernel, cbitPosition, ramBytes: machine.dram.length, silicon: machine.silicon });
	const { words } = vmWords(handle);
	const memslots = createMemslots(handle, memory);
	const context = createSevContext(kernel, driver, memory);
	const regions = createEncRegions(context);
	const vcpus = new Map<number, VcpuContext>();
	let destroyed = false;
	const vm: VmContext = {
		host,
		kernel,
		type: 0,
		handle,
		words,
		memslots,
		sev: context,
		vcpus,
		isSupported: () => supported && !destroyed,
		hasIrqchip: false,
	};
	const sev = createSevIoctls(vm);

	const ioctls: Vm = {
		enableCap: (cap, args) => enableCap(words, kernel.abi, cap, args),
		checkExtension: (cap) => checkExtension(kernel.abi, cap),
		setMsrFilter: (filter) => setMsrFilter(words, filter),
		setUserMemoryRegion: (region) => (destroyed ? -Errno.EBADF : memslots.set(region)),
		getDirtyLog: memslots.getDirtyLog,
		memoryEncryptRegisterRegion: regions.register,
		memoryEncryptUnregisterRegion: regions.unregister,
		sev,
		createVcpu: (index, cpuid) => {
			if (destroyed) throw new KvmError('vm-gone', 'createVcpu', 'a live VM', 'a destroyed one');
			if (!Number.isInteger(index) || index < 0 || index >= MAX_VCPUS || vcpus.has(index)) {
				throw new KvmError('vcpu-index', 'createVcpu', `a free index below ${MAX_VCPUS}`, `${index}`);
			}
			const onSystemChange = () => void Atomics.add(words, VmWord.tlbGeneration, 1);
			const vcpu = createVcpu({ vm: handle, index, cpuid, onSystemChange });
			vcpus.set(index, { vcpu, saveArea: undefined, guestStateProtected: false });
			return vcpu;
		},
		destroy: () => {
			if (destroyed) return;
			destroyed = true;
			for (const { vcpu } of vcpus.values()) vcpu.kick();
			// Before the pages go back: no cache line of the guest may be written back over their next owner.
			if (context.active) machine.wbinvd();
			unbindAsid(context);
			regions.clear();
			memslots.clear();
			if (context.asid !== 0) host.asids.release(context.asid);
			context.active = false;
			Atomics.store(words, VmWord.sevActive, 0);
			Atomics.store(words, VmWord.asid, 0);
		},
	};
	contexts.set(ioctls, vm);
	return ioctls;
}
