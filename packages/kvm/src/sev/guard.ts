import { Errno } from '../abi/errno.js';
import { SevCommand } from '../abi/sev.js';
import { fails, type SevResult } from '../ccp/sev-device.js';
import { isSince } from '../kernel.js';
import type { VmContext } from '../vm/context.js';
import { createSevContext, type SevContext } from './context.js';

/** The commands that a mirror may issue: is_cmd_allowed_from_mirror of Linux arch/x86/kvm/svm/sev.c. */
const MIRROR_COMMANDS: ReadonlySet<number> = new Set([
	SevCommand.LAUNCH_UPDATE_VMSA,
	SevCommand.GUEST_STATUS,
	SevCommand.DBG_DECRYPT,
	SevCommand.DBG_ENCRYPT,
]);

/**
 * What KVM_MEMORY_ENCRYPT_OP tests before it looks at its argument: EIO for a VM whose context went to another one, ENOTTY on
 * a host without SEV, or 0.
 */
export function entryErrno(vm: VmContext): number {
	if (vm.sev.dead) return Errno.EIO;
	return vm.isSupported() ? 0 : Errno.ENOTTY;
}

/** What it tests once it has read the argument, before the id means anything: EINVAL if a mirror may not do that, or 0. */
export function mirrorErrno({ kernel, sev }: VmContext, id: number): number {
	if (sev.owner === undefined) return 0;
	// Linux 5.13, where mirrors came, let them do nothing at all.
	return isSince(kernel, '5.15') && MIRROR_COMMANDS.has(id) ? 0 : Errno.EINVAL;
}

/** Both tests, for callers whose argument cannot be missing. */
export const guardErrno = (vm: VmContext, id: number): number => entryErrno(vm) || mirrorErrno(vm, id);

/** Why a command may not run, or `undefined`. */
export function refusal(vm: VmContext, id: number): SevResult | undefined {
	const errno = guardErrno(vm, id);
	return errno === 0 ? undefined : fails(errno);
}

/**
 * The guard of one VM's commands: runs a command's handler on the VM's context, or answers that it may not run. A refusal has
 * the form of the handler's own answer for a VM that is no SEV guest: the handler is then called with such a context, so it
 * must work on nothing but its argument.
 */
export function createGuard(vm: VmContext): <R extends SevResult>(id: number, handler: (sev: SevContext) => R) => R {
	const { sev } = vm;
	const nothing = createSevContext(sev.kernel, sev.driver, sev.memory);
	return (id, handler) => {
		const errno = guardErrno(vm, id);
		return errno === 0 ? handler(sev) : { ...handler(nothing), ret: -errno, error: 0 };
	};
}
