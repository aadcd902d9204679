import { Errno } from '../abi/errno.js';
import { VmType } from '../abi/vm-type.js';
import { KvmError } from '../error.js';
import type { VmContext } from '../vm/context.js';
import { VcpuWord } from '../vm/vcpu-state.js';

/**
 * The one place that says what an ioctl may do with the registers of a vCPU. After LAUNCH_UPDATE_VMSA they are the guest's
 * own (Linux 5.11 to 6.10 arch/x86/kvm/x86.c, `guest_state_protected`): with KVM_SEV_ES_INIT reading finds what the last
 * exchange through the GHCB left, and zeros, and writing is accepted without effect; in a VM of type SEV_ES both are −EINVAL.
 */
export interface RegisterAccess {
	/** The guest's state is encrypted. */
	readonly isProtected: boolean;
	/** @throws KvmError `vm-gone` if the VM is dead */
	requireAlive(what: string): void;
	/**
	 * A reading ioctl.
	 *
	 * @param hidden what it finds if the state is encrypted; `visible` again by default
	 * @throws KvmError `protected` in a VM of type SEV_ES, `vm-gone` if the VM is dead
	 */
	get<T>(what: string, visible: () => T, hidden?: () => T): T;
	/** A writing ioctl: 0 or −errno. @param hidden what it does if the state is encrypted; nothing by default */
	set(visible: () => number, hidden?: () => number): number;
}

/** @param words of the vCPU */
export function createAccess({ sev, type }: Pick<VmContext, 'sev' | 'type'>, words: Int32Array): RegisterAccess {
	const isProtected = (): boolean => Atomics.load(words, VcpuWord.guestStateProtected) === 1;
	/** has_protected_state. */
	const requireAlive = (what: string): void => {
		if (sev.dead) throw new KvmError('vm-gone', what, 'a live VM', 'one whose context was moved away');
	};
	const isTyped = type === VmType.SEV_ES || type === VmType.SNP;
	return {
		get isProtected() {
			return isProtected();
		},
		requireAlive,
		get: (what, visible, hidden = visible) => {
			requireAlive(what);
			if (!isProtected()) return visible();
			if (isTyped) throw new KvmError('protected', what, 'a vCPU whose state is not encrypted', 'one of a SEV-ES VM');
			return hidden();
		},
		set: (visible, hidden = () => 0) => {
			if (sev.dead) return -Errno.EIO;
			if (!isProtected()) return visible();
			return isTyped ? -Errno.EINVAL : hidden();
		},
	};
}
