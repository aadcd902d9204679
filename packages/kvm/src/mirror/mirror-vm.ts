import { Cap } from '../abi/capabilities.js';
import type { CpuidEntry } from '../abi/cpuid.js';
import { Errno } from '../abi/errno.js';
import type { Kvm } from '../kvm.js';
import type { UserMemoryRegion } from '../memory/memslots.js';
import { MemFlag } from '../vm/state.js';
import type { Vcpu } from '../vm/vcpu.js';
import { contextOf, type Vm } from '../vm/vm.js';
import type { MirrorStrategy, MirrorWindow } from './strategy.js';
import { isMirrorVcpu, type MirrorTopology } from './topology.js';

/** What a mirror VM is made of. */
export interface MirrorVmOptions {
	readonly kvm: Kvm;
	/** The guest's VM, just created. */
	readonly main: Vm;
	readonly topology: MirrorTopology;
	readonly strategy: MirrorStrategy;
}

/**
 * A guest's VM and its mirror, as a VMM keeps them in step. Call in this order, as the mirror_vm branch does at start-up:
 * `createMirrorVm` right after the main VM was created; KVM_SEV_INIT and LAUNCH_START on the main VM; {@link shareContext};
 * {@link setUserMemoryRegion}; the main VM's vCPUs and interrupt controller; {@link addVcpu} and `loadMirrorRegisters` for each
 * mirror vCPU; its thread. A mirror has no interrupt controller in the kernel: KVM_CREATE_IRQCHIP is not called for it.
 * Memory is registered (pinned) through the main VM only. Ioctls return 0 or a negative errno.
 */
export interface MirrorVm {
	/** `undefined` without mirror vCPUs: then what follows does nothing and returns 0. */
	readonly vm: Vm | undefined;
	readonly strategy: MirrorStrategy;
	/**
	 * Makes the VM a mirror: after LAUNCH_START or RECEIVE_START, as the firmware's handle is copied, and before the first vCPU.
	 *
	 * Known trap of the branch, reproduced: 0 although nothing was done if the kernel does not know the capability.
	 */
	shareContext(): number;
	/**
	 * KVM_SET_USER_MEMORY_REGION on the main VM and then, where the strategy copies it, with the same arguments on the mirror; also
	 * to delete and to change flags. A change of KVM_MEM_READONLY is a delete and a create on both. If either VM refuses, both are as
	 * before, but for dirty bits of a slot that had to be made anew; if the main VM refuses, the mirror is not called. −EINVAL for ids from {@link FIRST_WINDOW_SLOT} on: those are the mirror's own.
	 */
	setUserMemoryRegion(region: UserMemoryRegion): number;
	/**
	 * Makes the strategy's own windows what it wants now: at start-up and when RAM comes or goes, with `registration` when a migration
	 * starts. On failure the windows are as before. @throws MirrorError `window` if RAM has outgrown its window
	 */
	mapWindows(): number;
	/** Takes the windows away: with `registration` when a migration ends. */
	unmapWindows(): number;
	/** KVM_CREATE_VCPU of a mirror vCPU. @throws RangeError unless it is one @throws KvmError as `Vm.createVcpu` */
	addVcpu(index: number, cpuid: readonly CpuidEntry[]): Vcpu;
	/** Closes the mirror. The main VM may be closed before or after it. */
	destroy(): void;
}

/** PROJECT: slot ids from here on are for windows, one after the other. */
export const FIRST_WINDOW_SLOT = 0x7000;

/** A window in its slot. */
interface MappedWindow extends MirrorWindow {
	readonly slot: number;
}

/** KVM_CREATE_VM of the mirror, of the main VM's type, if the machine has mirror vCPUs. */
export function createMirrorVm({ kvm, main, topology, strategy }: MirrorVmOptions): MirrorVm {
	const vm = topology.mirrorVcpus > 0 ? kvm.createVm({ type: contextOf(main).type }) : undefined;
	const mainSlots = new Map<number, UserMemoryRegion>();
	const copied = new Map<number, UserMemoryRegion>();
	let windows: MappedWindow[] = [];

	const mirrorSlot = (region: UserMemoryRegion): number => {
		if (vm === undefined) return 0;
		const gone = region.memorySize === 0 || !strategy.copies(region);
		const old = copied.get(region.slot);
		if (gone && old === undefined) return 0;
		// A slot that moved out of what is copied is deleted.
		const ret = vm.setUserMemoryRegion(gone ? { ...region, memorySize: 0 } : region);
		if (ret === 0 && gone) copied.delete(region.slot);
		else if (ret === 0) copied.set(region.slot, region);
		return ret;
	};
	const mainSlot = (region: UserMemoryRegion): number => {
		const ret = main.setUserMemoryRegion(region);
		if (ret === 0 && region.memorySize === 0) mainSlots.delete(region.slot);
		else if (ret === 0) mainSlots.set(region.slot, region);
		return ret;
	};
	const setBoth = (region: UserMemoryRegion): number => {
		const old = mainSlots.get(region.slot);
		const ret = mainSlot(region);
		if (ret !== 0) return ret;
		const undo = () => mainSlot(old ?? { ...region, memorySize: 0 });
		try {
			const refused = mirrorSlot(region);
			if (refused !== 0) undo();
			return refused;
		} catch (error) {
			// A vCPU of the mirror that does not come out.
			undo();
			throw error;
		}
	};

	const drop = (window: MappedWindow): number => vm?.setUserMemoryRegion({ ...window, flags: 0, memorySize: 0 }) ?? 0;
	const add = (window: MappedWindow): number => vm?.setUserMemoryRegion({ ...window, flags: 0 }) ?? 0;
	const replaceWindows = (wanted: readonly MirrorWindow[]): number => {
		if (vm === undefined) return 0;
		const before = windows;
		const kept = before.filter((old) => wanted.some((window) => isSame(old, window)));
		const used = new Set(kept.map(({ slot }) => slot));
		const added: MappedWindow[] = [];
		for (const window of wanted) {
			if (kept.some((old) => isSame(old, window))) continue;
			let slot = FIRST_WINDOW_SLOT;
			while (used.has(slot)) slot++;
			used.add(slot);
			added.push({ ...window, slot });
		}
		const gone = before.filter((old) => !kept.includes(old));
		for (const [i, window] of gone.entries()) {
			try {
				drop(window);
			} catch (error) {
				// A vCPU of the mirror that does not come out.
				gone.slice(0, i).forEach(add);
				throw error;
			}
		}
		for (const [i, window] of added.entries()) {
			const ret = add(window);
			if (ret === 0) continue;
			added.slice(0, i).forEach(drop);
			gone.forEach(add);
			return ret;
		}
		windows = [...kept, ...added];
		return 0;
	};

	return {
		vm,
		strategy,
		shareContext: () =>
			vm === undefined || vm.checkExtension(Cap.VM_COPY_ENC_CONTEXT_FROM) === 0 ? 0 : vm.copyEncContextFrom(main),
		setUserMemoryRegion: (region) => {
			if ((region.slot & 0xffff) >= FIRST_WINDOW_SLOT) return -Errno.EINVAL;
			const old = mainSlots.get(region.slot);
			const isFlip =
				old !== undefined && region.memorySize !== 0 && ((old.flags ^ region.flags) & MemFlag.readonly) !== 0;
			if (!isFlip) return setBoth(region);
			const deleted = setBoth({ ...old, memorySize: 0 });
			if (deleted !== 0) return deleted;
			const ret = setBoth(region);
			if (ret !== 0) setBoth(old);
			return ret;
		},
		mapWindows: () => (vm === undefined ? 0 : replaceWindows(strategy.windows())),
		unmapWindows: () => replaceWindows([]),
		addVcpu: (index, cpuid) => {
			if (vm === undefined || index >= topology.maxCpus || !isMirrorVcpu(topology, index)) {
				throw new RangeError(
					`vCPU: expected one of the last ${topology.mirrorVcpus} of ${topology.maxCpus}, got ${index}`,
				);
			}
			return vm.createVcpu(index, cpuid);
		},
		destroy: () => vm?.destroy(),
	};
}

const isSame = (a: MirrorWindow, b: MirrorWindow): boolean =>
	a.guestPhysAddr === b.guestPhysAddr && a.memorySize === b.memorySize && a.userspaceAddr === b.userspaceAddr;
