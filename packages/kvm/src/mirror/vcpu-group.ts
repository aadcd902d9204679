import { isMirrorVcpu, type MirrorTopology } from './topology.js';

/** The moments at which a VMM carries register state between itself and KVM for all vCPUs. */
export const Synchronisation = {
	/** Before the VMM looks at registers: from KVM. */
	states: 'states',
	/** After a reset: to KVM. */
	postReset: 'post-reset',
	/** When a machine was made or loaded: to KVM. */
	postInit: 'post-init',
	/** Before a saved machine is loaded. */
	preLoadvm: 'pre-loadvm',
} as const;
/** One of {@link Synchronisation}. */
export type Synchronisation = (typeof Synchronisation)[keyof typeof Synchronisation];

/** A vCPU with its thread, as the VMM holds it. */
export interface GroupVcpu {
	readonly index: number;
	/** Its thread is parked and will not enter the guest. */
	readonly isPaused: boolean;
	/** It has nothing to do: halted, or paused. */
	readonly isIdle: boolean;
	/** Asks the thread to park. It does so by itself, later. */
	pause(): void;
	/** Makes the thread look at what it was asked. */
	kick(): void;
	resume(): void;
	synchronise(when: Synchronisation): void;
	/** Puts the vCPU into the reset state. */
	reset(): void;
}

/**
 * The vCPUs of a machine, for what is done to all of them: QEMU's softmmu/cpus.c with the rule of the mirror_vm branch, that
 * none of it is done to a mirror vCPU. So a mirror runs on while the guest is stopped for its migration, its registers are never
 * in the stream, and a reset does not reach it. Single vCPUs are reached through `mirrors`.
 */
export interface VcpuGroup<V extends GroupVcpu> {
	/** In the order of their indices. */
	readonly mains: readonly V[];
	readonly mirrors: readonly V[];
	/** @throws RangeError if the index is taken or not one of the machine's */
	add(vcpu: V): void;
	/** Asks all to park and kicks them. Then call {@link kickAll} until {@link allPaused}. */
	pauseAll(): void;
	kickAll(): void;
	allPaused(): boolean;
	resumeAll(): void;
	allIdle(): boolean;
	synchroniseAll(when: Synchronisation): void;
	/** system_reset of paused vCPUs: all are reset, then synchronised. */
	resetAll(): void;
	/** Starts the migration handler: the mirrors alone are reset and resumed. */
	startMirrors(): void;
}

/** A group for a machine's CPUs, still empty. */
export function createVcpuGroup<V extends GroupVcpu>(topology: MirrorTopology): VcpuGroup<V> {
	const mains: V[] = [];
	const mirrors: V[] = [];
	const forMains = (action: (vcpu: V) => void) => () => mains.forEach(action);
	return {
		mains,
		mirrors,
		add: (vcpu) => {
			const { index } = vcpu;
			const isTaken = [...mains, ...mirrors].some((other) => other.index === index);
			if (isTaken || !Number.isInteger(index) || index < 0 || index >= topology.maxCpus) {
				throw new RangeError(`vCPU: expected a free index below ${topology.maxCpus}, got ${index}`);
			}
			const list = isMirrorVcpu(topology, index) ? mirrors : mains;
			list.push(vcpu);
			list.sort((a, b) => a.index - b.index);
		},
		pauseAll: forMains((vcpu) => {
			vcpu.pause();
			vcpu.kick();
		}),
		kickAll: forMains((vcpu) => vcpu.kick()),
		allPaused: () => mains.every(({ isPaused }) => isPaused),
		resumeAll: forMains((vcpu) => vcpu.resume()),
		allIdle: () => mains.every(({ isIdle }) => isIdle),
		synchroniseAll: (when) => {
			for (const vcpu of mains) vcpu.synchronise(when);
		},
		resetAll: () => {
			for (const vcpu of mains) vcpu.reset();
			for (const vcpu of mains) vcpu.synchronise(Synchronisation.postReset);
		},
		startMirrors: () => {
			for (const vcpu of mirrors) {
				vcpu.reset();
				vcpu.resume();
			}
		},
	};
}
