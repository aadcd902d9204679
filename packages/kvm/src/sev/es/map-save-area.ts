import { PAGE_SHIFT, PAGE_SIZE } from '@cvm/layout';
import { Errno } from '../../abi/errno.js';
import type { VmContext } from '../../vm/context.js';
import { MAX_VCPUS, VmWord } from '../../vm/state.js';

/** Guest frames are words here. */
const MAX_FRAME = 2 ** 31;

/** 0 if the call exists for this VM. */
const check = ({ sev, host }: VmContext): number =>
	host.vmsaMapping !== 'model' || !sev.active || !sev.es ? -Errno.ENOTTY : 0;

/** Index of the save area at a guest frame, or −1. */
function find({ words }: VmContext, frame: number): number {
	const count = Atomics.load(words, VmWord.saveAreaCount);
	for (let i = 0; i < count; i++) {
		if (Atomics.load(words, VmWord.saveAreaGuestFrames + i) === frame) return i;
	}
	return -1;
}

/** Every vCPU forgets its translations at its next block. */
const onChange = ({ words }: VmContext): number => {
	Atomics.add(words, VmWord.tlbGeneration, 1);
	return 0;
};

/**
 * PROJECT: see `Vm.mapSaveArea`. The page is kernel memory and stays the kernel's: it lives as long as the VM of the vCPU, which
 * outlives its mirrors' use of it.
 */
export function mapSaveArea(vm: VmContext, vcpu: number, guestPhysAddr: number, owner: VmContext): number {
	const refused = check(vm);
	if (refused !== 0) return refused;
	const frame = guestPhysAddr / PAGE_SIZE;
	if (!Number.isInteger(frame) || frame < 0 || frame >= MAX_FRAME) return -Errno.EINVAL;
	if (owner !== vm && vm.sev.owner !== owner.sev) return -Errno.EINVAL;
	const context = owner.vcpus.get(vcpu);
	if (context?.saveArea === undefined || !context.guestStateProtected) return -Errno.EINVAL;
	if (find(vm, frame) >= 0) return -Errno.EEXIST;
	const { words } = vm;
	const count = Atomics.load(words, VmWord.saveAreaCount);
	if (count === MAX_VCPUS) return -Errno.ENOMEM;
	Atomics.store(words, VmWord.saveAreaFrames + count, context.saveArea.spa / 2 ** PAGE_SHIFT);
	Atomics.store(words, VmWord.saveAreaGuestFrames + count, frame);
	Atomics.store(words, VmWord.saveAreaCount, count + 1);
	return onChange(vm);
}

/** PROJECT: see `Vm.unmapSaveArea`. */
export function unmapSaveArea(vm: VmContext, guestPhysAddr: number): number {
	const refused = check(vm);
	if (refused !== 0) return refused;
	const at = find(vm, guestPhysAddr / PAGE_SIZE);
	if (at < 0) return -Errno.ENOENT;
	const { words } = vm;
	const last = Atomics.load(words, VmWord.saveAreaCount) - 1;
	// The list is empty while it changes: a vCPU that looks meanwhile looks again, as its translations are void afterwards.
	Atomics.store(words, VmWord.saveAreaCount, 0);
	for (const list of [VmWord.saveAreaGuestFrames, VmWord.saveAreaFrames]) {
		Atomics.store(words, list + at, Atomics.load(words, list + last));
	}
	Atomics.store(words, VmWord.saveAreaCount, last);
	return onChange(vm);
}
