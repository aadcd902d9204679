import { Errno } from '../abi/errno.js';
import { createApic, resetByInit, startAtPage } from '../vcpu/apic.js';
import type { VmContext } from '../vm/context.js';
import { openVmState, VmWord } from '../vm/state.js';
import { MpState, openVcpuState, type VcpuHandle, VcpuWord } from '../vm/vcpu-state.js';
import { ApicEvent, loadApicEvents } from '../vm/words.js';
import type { RegisterAccess } from './access.js';

/** KVM_GET_MP_STATE and KVM_SET_MP_STATE of one vCPU. */
interface MpStateIoctls {
	/**
	 * KVM_GET_MP_STATE. The INIT and the SIPI that wait at the local APIC take effect first, so that a VMM which carries this
	 * and the registers loses neither.
	 *
	 * DEVIATION(Linux arch/x86/kvm/x86.c kvm_arch_vcpu_ioctl_get_mpstate): for a vCPU whose state is encrypted they go on
	 * waiting, and the answer is INIT_RECEIVED or SIPI_RECEIVED, which do the same once they are set elsewhere.
	 */
	getMpState(): number;
	/** KVM_SET_MP_STATE. −EINVAL: an unknown state, or without an in-kernel APIC any but RUNNABLE. */
	setMpState(state: number): number;
}

export function createMpStateIoctls(vm: VmContext, handle: VcpuHandle, access: RegisterAccess): MpStateIoctls {
	const { registers, words } = openVcpuState(handle);
	const { index } = handle;
	const present = (): number => Atomics.load(words, VcpuWord.mpState);
	const apic = createApic({
		vm: openVmState(handle.vm),
		index,
		words,
		onInit: () => {
			resetByInit(registers);
			Atomics.add(vm.words, VmWord.tlbGeneration, 1);
		},
		onSipi: (vector) => startAtPage(registers, vector),
	});
	return {
		getMpState: () => {
			const isRunning = Atomics.load(vm.words, VmWord.running + index) !== 0;
			if (!vm.hasIrqchip || isRunning) return present();
			if (!access.isProtected) {
				if (apic.hasEvents() || present() === MpState.sipiReceived) apic.acceptEvents();
				return present();
			}
			const events = loadApicEvents(vm.words, index);
			const isReset = (events & ApicEvent.init) !== 0;
			const waits = isReset || present() === MpState.initReceived;
			if ((events & ApicEvent.sipi) !== 0 && waits && index !== 0) return MpState.sipiReceived;
			if (!isReset) return present();
			return index === 0 ? MpState.runnable : MpState.initReceived;
		},
		setMpState: (state) => {
			if (vm.sev.dead) return -Errno.EIO;
			const isKnown = (Object.values(MpState) as number[]).includes(state);
			if (!isKnown || (!vm.hasIrqchip && state !== MpState.runnable)) return -Errno.EINVAL;
			Atomics.store(words, VcpuWord.mpState, state);
			return 0;
		},
	};
}
