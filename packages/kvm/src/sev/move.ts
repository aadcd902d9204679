import { Errno } from '../abi/errno.js';
import type { Capability } from '../capabilities.js';
import { isSince } from '../kernel.js';
import type { VcpuContext, VmContext } from '../vm/context.js';
import { VmWord } from '../vm/state.js';
import { openVcpuState, Register } from '../vm/vcpu-state.js';
import type { SevContext } from './context.js';
import { bindSaveArea } from './es/save-area.js';
import { publishSev } from './init.js';
import { withBothVms } from './lock-pair.js';

/**
 * KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM (Linux 5.16 to 6.10 arch/x86/kvm/svm/sev.c): moves the encryption context of a VM to another
 * VM of this host. The firmware does not notice. The source is dead: each of its ioctls is −EIO from then on. Memslots, vCPUs
 * and interrupt controllers stay each VM's own, with the INIT or SIPI that waits there; registered regions and mirrors go
 * along. The /dev/sev descriptor does not: firmware commands on the destination are −EBADF.
 *
 * −EINVAL: the kernel is too old, (since 6.10) the types of the VMs differ, `vm` is an SEV guest, `source` is not; with SEV-ES the
 * numbers of vCPUs differ, or a vCPU of the source has no encrypted state. −EBUSY (5.16, 5.17): the source has mirrors. −EINTR:
 * see below; else as {@link withBothVms}.
 *
 * UNCERTAIN(Linux 6.10 arch/x86/kvm/svm/sev.c): that the highest version of the GHCB protocol moves, and that a destination of a SEV
 * type need not KVM_SEV_INIT2 any more. A moved guest could not run otherwise.
 *
 * DEVIATION(Linux): while a vCPU of either VM is in KVM_RUN, Linux waits for it; here the wait ends at once, in −EINTR. ASIDs
 * are not charged to cgroups. No vCPU is ever found half created, as KVM_CREATE_VCPU does not overlap with this: no −EBUSY.
 *
 * @param source the VM behind the descriptor in `args[0]`; `undefined` if that is none
 */
export function moveEncContextFrom(vm: VmContext, source: VmContext | undefined): number {
	const { kernel } = vm;
	if (!isSince(kernel, '5.16')) return -Errno.EINVAL;
	return withBothVms(vm, source, (from) => {
		if (isSince(kernel, '6.10') && vm.type !== from.type) return -Errno.EINVAL;
		if (vm.sev.active || !from.sev.active) return -Errno.EINVAL;
		// Linux 5.16 tests it here, before it looks at the vCPUs.
		if (!isSince(kernel, '5.18') && from.sev.mirrors.size > 0) return -Errno.EBUSY;
		if (isRunning(vm) || isRunning(from)) return -Errno.EINTR;
		if (from.sev.es && !hasEncryptedVcpus(from, vm.vcpus.size)) return -Errno.EINVAL;
		moveContext(vm, from);
		moveVcpus(vm, from);
		die(from);
		return 0;
	});
}

/** The row of KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, as that of the copy. */
export const moveCapability: Capability = {
	check: ({ kernel }) => (isSince(kernel, '5.16') ? 1 : 0),
	enable: (vm) => moveEncContextFrom(vm, undefined),
};

const isRunning = ({ vcpus, words }: VmContext): boolean =>
	[...vcpus.values()].some(({ vcpu }) => Atomics.load(words, VmWord.running + vcpu.index) !== 0);

const hasEncryptedVcpus = ({ vcpus }: VmContext, count: number): boolean =>
	vcpus.size === count && [...vcpus.values()].every(({ guestStateProtected }) => guestStateProtected);

function moveContext(vm: VmContext, { sev: from, kernel }: VmContext): void {
	const { sev: to, words } = vm;
	to.active = true;
	to.asid = from.asid;
	to.handle = from.handle;
	to.es = from.es;
	to.ghcbVersion = from.ghcbVersion;
	if (isSince(kernel, '6.10')) to.vmsaFeatures = from.vmsaFeatures;
	to.regions.push(...from.regions.splice(0));
	for (const mirror of from.mirrors) {
		mirror.owner = to;
		to.mirrors.add(mirror);
	}
	from.mirrors.clear();
	moveReference(to, from);
	Atomics.store(words, VmWord.sevNeedInit, 0);
	publishSev(vm);
	Atomics.add(words, VmWord.tlbGeneration, 1);
}

/** A mirror's reference to its owner. */
function moveReference(to: SevContext, from: SevContext): void {
	const { owner } = from;
	if (owner === undefined) return;
	owner.mirrors.delete(from);
	owner.mirrors.add(to);
	to.owner = owner;
	from.owner = undefined;
}

/** What KVM keeps of a SEV-ES vCPU outside of its encrypted save area. */
const ES_REGISTERS = [
	Register.ghcbMsr,
	Register.apResetHold,
	Register.ghcbExit,
	Register.scratchGpa,
	Register.scratchLength,
	Register.sipiSeen,
] as const;

/** vCPUs pair up in the order in which they were created; their ids do not matter. */
function moveVcpus(vm: VmContext, source: VmContext): void {
	if (!vm.sev.es) return;
	const from = [...source.vcpus.values()];
	for (const [i, to] of [...vm.vcpus.values()].entries()) {
		const other = from[i];
		if (other !== undefined) moveVcpu(to, other);
	}
}

function moveVcpu(to: VcpuContext, from: VcpuContext): void {
	bindSaveArea(to, from.saveArea, true);
	bindSaveArea(from, undefined, false);
	const target = openVcpuState(to.vcpu.share()).registers;
	const source = openVcpuState(from.vcpu.share()).registers;
	for (const register of ES_REGISTERS) {
		target[register] = source[register] ?? 0n;
		source[register] = 0n;
	}
}

/** kvm_vm_dead. */
function die(vm: VmContext): void {
	const { sev, words, vcpus } = vm;
	sev.dead = true;
	sev.active = false;
	sev.es = false;
	sev.asid = 0;
	sev.handle = 0;
	Atomics.store(words, VmWord.dead, 1);
	publishSev(vm);
	for (const { vcpu } of vcpus.values()) vcpu.kick();
}
