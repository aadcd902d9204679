import { Cap, MSR_KVM_MIGRATION_CONTROL, MsrExitReason, MsrFilterDefault } from '../abi/capabilities.js';
import type { KvmAbi } from '../abi/generation.js';
import { ExitReason, RunOffset } from '../abi/run-page.js';
import type { MsrFilter } from '../msr/filter.js';

/** Denies nothing but the migration MSR, to reads and to writes. */
const FILTER: MsrFilter = {
	flags: MsrFilterDefault.ALLOW,
	ranges: [{ flags: 3, nmsrs: 1, base: MSR_KVM_MIGRATION_CONTROL, bitmap: new Uint8Array(8) }],
};

/** The ioctls of a VM that {@link watchGuest} calls. */
export interface WatchedVm {
	enableCap(cap: number, args: readonly bigint[]): number;
	setMsrFilter(filter: MsrFilter): number;
}

/**
 * Makes page status and consent reach the VMM: hypercall 12 exits (upstream; v12 always does), and so do accesses to the
 * migration MSR, which KVM does not have. Must precede advertising either in CPUID.
 *
 * @returns the ioctl that failed and its −errno, or `undefined`
 */
export function watchGuest(vm: WatchedVm, abi: KvmAbi): { readonly call: string; readonly ret: number } | undefined {
	const exits = abi === 'upstream' ? vm.enableCap(Cap.EXIT_HYPERCALL, [1n << 12n]) : 0;
	if (exits !== 0) return { call: 'KVM_CAP_EXIT_HYPERCALL', ret: exits };
	const reasons = vm.enableCap(Cap.X86_USER_SPACE_MSR, [BigInt(MsrExitReason.FILTER)]);
	if (reasons !== 0) return { call: 'KVM_CAP_X86_USER_SPACE_MSR', ret: reasons };
	const filter = vm.setMsrFilter(FILTER);
	return filter === 0 ? undefined : { call: 'KVM_X86_SET_MSR_FILTER', ret: filter };
}

/** Who implements the migration MSR, and for whom. */
export interface MigrationMsrOptions {
	/** The feature bit is in the guest's CPUID. Without it every access is #GP. */
	readonly isExposed: boolean;
	/** The guest's memory is encrypted: the MSR begins at 0. Otherwise at 1, as there is nothing to agree on. */
	readonly isEncrypted: boolean;
}

/**
 * MSR_KVM_SEV_LIVE_MIGRATION (v12) and MSR_KVM_MIGRATION_CONTROL (upstream), which are the VMM's. Bit 0: firmware and kernel
 * keep their host informed about page status, so the guest may migrate. All other bits are reserved.
 *
 * PROJECT: the value is a part of the VM's state and travels with it, as the guest never says it again (A→B→C); a reset
 * of the machine sets it back. A kexec does nothing here: the new kernel repeats the handshake.
 */
export interface MigrationMsr {
	readonly value: 0 | 1;
	/** Why the guest cannot migrate; `undefined`: it can. */
	readonly blocker: string | undefined;
	/**
	 * Answers KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR; one of another MSR gets an error, which is #GP for the guest.
	 *
	 * @returns false, and nothing is written, if the exit is another one
	 */
	answer(run: Uint8Array): boolean;
	/** The machine was reset. */
	reset(): void;
	/** Takes over what arrived with a guest. @throws RangeError unless it is 0 or 1 */
	load(value: bigint): void;
}

/** The MSR of one VM. */
export function createMigrationMsr({ isExposed, isEncrypted }: MigrationMsrOptions): MigrationMsr {
	const initial = isEncrypted ? 0 : 1;
	let value: 0 | 1 = initial;

	const access = (view: DataView, isWrite: boolean): boolean => {
		if (!isExposed || view.getUint32(RunOffset.msrIndex, true) !== MSR_KVM_MIGRATION_CONTROL) return false;
		if (!isWrite) {
			view.setBigUint64(RunOffset.msrData, BigInt(value), true);
			return true;
		}
		const data = view.getBigUint64(RunOffset.msrData, true);
		if (data > 1n) return false;
		value = data === 1n ? 1 : 0;
		return true;
	};

	return {
		get value() {
			return value;
		},
		get blocker() {
			return value === 1 ? undefined : 'the guest has not said that it keeps its host informed about its pages';
		},
		answer: (run) => {
			const view = new DataView(run.buffer, run.byteOffset, run.byteLength);
			const reason = view.getUint32(RunOffset.exitReason, true);
			if (reason !== ExitReason.X86_RDMSR && reason !== ExitReason.X86_WRMSR) return false;
			view.setUint8(RunOffset.msrError, access(view, reason === ExitReason.X86_WRMSR) ? 0 : 1);
			return true;
		},
		reset: () => {
			value = initial;
		},
		load: (data) => {
			if (data !== 0n && data !== 1n) throw new RangeError(`migration MSR: expected 0 or 1, got ${data}`);
			value = data === 1n ? 1 : 0;
		},
	};
}
