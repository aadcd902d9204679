import type { Gpa } from '@cvm/layout';
import type { CpuidEntry } from '../abi/cpuid.js';
import { Errno } from '../abi/errno.js';
import { VmType } from '../abi/vm-type.js';
import { checkExtension, enableCap } from '../capabilities.js';
import { guestCpuid } from '../cpuid/cpuid.js';
import { KvmError } from '../error.js';
import { type ClearDirtyLogRequest, createMemslots, type Memslots, type UserMemoryRegion } from '../memory/memslots.js';
import { type MsrFilter, setMsrFilter } from '../msr/filter.js';
import { createPageStatusIoctls, type PageStatusIoctls } from '../page-status/ioctls.js';
import { createSevContext } from '../sev/context.js';
import { copyEncContextFrom } from '../sev/copy.js';
import { mapSaveArea, unmapSaveArea } from '../sev/es/map-save-area.js';
import { freeSaveAreas } from '../sev/es/save-area.js';
import { createSevIoctls, type SevIoctls } from '../sev/ioctls.js';
import { closeContext, destroyContext } from '../sev/lifetime.js';
import { moveEncContextFrom } from '../sev/move.js';
import { createEncRegions, type EncRegion } from '../sev/regions.js';
import type { VcpuContext, VmContext, VmHost } from './context.js';
import { awaitNobody } from './quiesce.js';
import { createVmHandle, MAX_VCPUS, VmWord, vmWords } from './state.js';
import { createVcpu, type Vcpu } from './vcpu.js';

/** A VM descriptor: its ioctls. They return 0 or a negative errno. */
export interface Vm {
	/** KVM_ENABLE_CAP: −EINVAL for any flag, an unknown capability, or arguments that it does not take. */
	enableCap(cap: number, args: readonly bigint[], flags?: number): number;
	/** KVM_CHECK_EXTENSION. */
	checkExtension(cap: number): number;
	/**
	 * KVM_ENABLE_CAP of KVM_CAP_VM_COPY_ENC_CONTEXT_FROM: makes this VM, which is no SEV guest and has no vCPUs, a mirror of
	 * `source`. −EINVAL, −EBUSY, −EBADF as in Linux. A mirror may only LAUNCH_UPDATE_VMSA, GUEST_STATUS, DBG_DECRYPT, DBG_ENCRYPT.
	 */
	copyEncContextFrom(source: Vm): number;
	/**
	 * KVM_ENABLE_CAP of KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: takes the encryption context over from `source`, on which every call is
	 * −EIO from then on (`createVcpu` throws). −EINVAL, −EBUSY, −EINTR, −EBADF as in Linux.
	 */
	moveEncContextFrom(source: Vm): number;
	/** What KVM keeps of the pages' status in the postings up to v10. */
	readonly pageStatus: PageStatusIoctls;
	/** KVM_X86_SET_MSR_FILTER. */
	setMsrFilter(filter: MsrFilter): number;
	/**
	 * KVM_SET_USER_MEMORY_REGION. Also while vCPUs run: to delete, to move and to stop logging waits until those in the guest have come
	 * to the end of their block. @throws KvmError `vcpu-stuck` if one does not
	 */
	setUserMemoryRegion(region: UserMemoryRegion): number;
	/**
	 * KVM_GET_DIRTY_LOG: copies the bits of a slot to `bitmap`, also while vCPUs run, and clears them unless protection is manual. Bit i
	 * of word i>>5 is page i. −ENXIO with dirty rings, −EINVAL, −ENOENT, −EFAULT (too short).
	 */
	getDirtyLog(slot: number, bitmap: Uint32Array): number;
	/** KVM_CLEAR_DIRTY_LOG: clears the bits that the caller has fetched. Read the pages after it. */
	clearDirtyLog(request: ClearDirtyLogRequest): number;
	/** KVM_RESET_DIRTY_RINGS: takes back what the VMM has marked in all rings. Returns how many entries, or −EINVAL without rings. */
	resetDirtyRings(): number;
	/** KVM_MEMORY_ENCRYPT_REG_REGION. */
	memoryEncryptRegisterRegion(region: EncRegion): number;
	/** KVM_MEMORY_ENCRYPT_UNREG_REGION. */
	memoryEncryptUnregisterRegion(region: EncRegion): number;
	/** KVM_MEMORY_ENCRYPT_OP. */
	readonly sev: SevIoctls;
	/**
	 * PROJECT: lets this SEV-ES guest read the save area of a vCPU at a guest-physical address below 2^43, over whatever slot is there:
	 * a page for nested paging alone, which the guest's key opens and no store reaches (a nested fault, #VC). It shows what the last
	 * KVM_RUN of that vCPU left; the processor's checksum of it is not in the page. `owner`: whose vCPU it is, for a mirror: the VM that
	 * it shares the context of; this VM by default. vCPUs take it on at their next block.
	 *
	 * −ENOTTY: the kernel has no such call (`vmsaMapping`), or no SEV-ES guest. −EINVAL: an address that is none, another owner, no such
	 * vCPU, or one whose state is not encrypted yet. −EEXIST: a save area stands there. −ENOMEM: there are 32.
	 */
	mapSaveArea(vcpu: number, guestPhysAddr: Gpa, owner?: Vm): number;
	/** The inverse. −ENOTTY as above, −ENOENT: none there. */
	unmapSaveArea(guestPhysAddr: Gpa): number;
	/**
	 * KVM_CREATE_IRQCHIP: local APICs in the kernel, so that vCPUs start each other by INIT and SIPI. −EEXIST: it is there.
	 * −EINVAL: there are vCPUs. vCPUs but number 0 are created uninitialized from then on.
	 */
	createIrqchip(): number;
	/** KVM_CREATE_VCPU with KVM_SET_CPUID2. @throws KvmError `vcpu-index` unless it is free and below 32 */
	createVcpu(index: number, cpuid: readonly CpuidEntry[]): Vcpu;
	/**
	 * The same under the lowest free index. `cpuid` by default: what `Kvm.cpuid()` gives for a guest with or without SEV, as
	 * this VM is one now. @throws KvmError `vcpu-index` if there are 32
	 */
	addVcpu(o?: { readonly cpuid?: readonly CpuidEntry[] }): Vcpu;
	/**
	 * Closes the VM: kicks its vCPUs and waits until they have left the guest, KVM_RUN is −EIO from then on; its guest in the
	 * firmware is gone, its ASID, slots and pins are free, all of that once the last of its mirrors is closed too. Later ioctls
	 * are −EBADF or −ENOTTY. A second call does nothing. PROJECT: a vCPU that is in the guest for 5 seconds more is taken for one
	 * whose thread was terminated.
	 */
	destroy(): void;
}

/** Milliseconds that {@link Vm.destroy} waits for vCPUs. */
const PATIENCE = 5000;

const contexts = new WeakMap<Vm, VmContext>();

/** What the kernel keeps behind a VM's descriptor. */
export function contextOf(vm: Vm): VmContext {
	const context = contexts.get(vm);
	if (context === undefined) throw new KvmError('not-a-vm', 'VM', 'one of createKvm().createVm()', 'something else');
	return context;
}

export function createVm(host: VmHost, supported: boolean, type: VmType): Vm {
	const { kernel, driver, memory } = host;
	const { machine } = driver;
	const { cbitPosition } = machine.cpuid;
	const handle = createVmHandle({ kernel, cbitPosition, ramBytes: machine.dram.length, silicon: machine.silicon });
	const { words } = vmWords(handle);
	const rings = () => [...vcpus.values()].flatMap(({ vcpu }) => vcpu.share().dirtyRing ?? []);
	const slots = createMemslots(handle, memory, { rings });
	const memslots: Memslots = {
		...slots,
		set: (region) => {
			const ret = slots.set(region);
			if (ret === 0) pageStatus.onRegion(region);
			return ret;
		},
	};
	const context = createSevContext(kernel, driver, memory);
	const regions = createEncRegions(context);
	const vcpus = new Map<number, VcpuContext>();
	let destroyed = false;
	const vm: VmContext = {
		host,
		kernel,
		type,
		handle,
		words,
		memslots,
		sev: context,
		vcpus,
		isSupported: () => supported && !destroyed,
		hasIrqchip: false,
	};
	const isSevType = type === VmType.SEV || type === VmType.SEV_ES;
	Atomics.store(words, VmWord.sevNeedInit, isSevType ? 1 : 0);
	const sev = createSevIoctls(vm);
	const pageStatus = createPageStatusIoctls(vm);
	context.free = () => {
		destroyContext(vm);
		freeSaveAreas(vm);
		memslots.clear();
	};
	/** kvm_vm_ioctl's first test: nothing but −EIO from a VM whose context went to another one. */
	const alive =
		<A extends readonly unknown[]>(call: (...args: A) => number) =>
		(...args: A): number =>
			context.dead ? -Errno.EIO : call(...args);

	const ioctls: Vm = {
		enableCap: alive((cap, args, flags) => enableCap(vm, cap, args, flags)),
		checkExtension: alive((cap) => checkExtension(host, cap, vm)),
		copyEncContextFrom: alive((source) => copyEncContextFrom(vm, contextOf(source))),
		moveEncContextFrom: alive((source) => moveEncContextFrom(vm, contextOf(source))),
		setMsrFilter: alive((filter) => setMsrFilter(words, filter)),
		pageStatus,
		setUserMemoryRegion: alive((region) => (destroyed ? -Errno.EBADF : memslots.set(region))),
		getDirtyLog: alive(memslots.getDirtyLog),
		clearDirtyLog: alive(memslots.clearDirtyLog),
		resetDirtyRings: alive(memslots.resetDirtyRings),
		createIrqchip: alive(() => {
			if (destroyed) return -Errno.EBADF;
			if (vm.hasIrqchip) return -Errno.EEXIST;
			if (vcpus.size > 0) return -Errno.EINVAL;
			vm.hasIrqchip = true;
			Atomics.store(words, VmWord.hasIrqchip, 1);
			return 0;
		}),
		memoryEncryptRegisterRegion: alive(regions.register),
		memoryEncryptUnregisterRegion: alive(regions.unregister),
		sev,
		mapSaveArea: alive((vcpu, at, owner) => mapSaveArea(vm, vcpu, at, owner === undefined ? vm : contextOf(owner))),
		unmapSaveArea: alive((at) => unmapSaveArea(vm, at)),
		createVcpu: (index, cpuid) => {
			if (destroyed) throw new KvmError('vm-gone', 'createVcpu', 'a live VM', 'a destroyed one');
			if (context.dead) throw new KvmError('vm-gone', 'createVcpu', 'a live VM', 'one whose context was moved away');
			if (!Number.isInteger(index) || index < 0 || index >= MAX_VCPUS || vcpus.has(index)) {
				throw new KvmError('vcpu-index', 'createVcpu', `a free index below ${MAX_VCPUS}`, `${index}`);
			}
			const vcpu = createVcpu(vm, index, cpuid);
			Atomics.or(words, VmWord.vcpuMask, 1 << index);
			return vcpu;
		},
		addVcpu: ({ cpuid = guestCpuid(kernel.series, machine.cpuid, { sev: context.active }) } = {}) => {
			let index = 0;
			while (vcpus.has(index)) index++;
			return ioctls.createVcpu(index, cpuid);
		},
		destroy: () => {
			if (destroyed) return;
			destroyed = true;
			Atomics.store(words, VmWord.dead, 1);
			for (const { vcpu } of vcpus.values()) vcpu.kick();
			// Nobody may be storing to the frames that go back now.
			awaitNobody(words, PATIENCE);
			closeContext(context);
		},
	};
	contexts.set(ioctls, vm);
	return ioctls;
}
