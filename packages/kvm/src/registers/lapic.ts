import { Errno } from '../abi/errno.js';
import type { VmContext } from '../vm/context.js';

/** Registers of a local APIC (APM vol. 2 §16.3.2): offset, value after reset. */
const RESET: readonly (readonly [offset: number, value: number])[] = [
	/** Version, and six entries of the vector table. */
	[0x30, 0x00050014],
	/** DFR: flat. */
	[0xe0, 0xffffffff],
	/** Spurious vector; the APIC is off by software. */
	[0xf0, 0xff],
	/** The vector table, masked. */
	...[0x320, 0x330, 0x340, 0x350, 0x360, 0x370].map((offset) => [offset, 0x10000] as const),
];
const ID = 0x20;

/** KVM_GET_LAPIC and KVM_SET_LAPIC of one vCPU. They work for protected vCPUs too: the APIC is KVM's. */
interface LapicState {
	getLapic(): Uint8Array | undefined;
	setLapic(data: Uint8Array): number;
}

/** @param page the registers; they get their reset values here */
export function createLapicState(vm: VmContext, index: number, page: Uint8Array): LapicState {
	const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
	for (const [offset, value] of RESET) view.setUint32(offset, value, true);
	view.setUint32(ID, (index << 24) >>> 0, true);
	return {
		getLapic: () => (vm.hasIrqchip && !vm.sev.dead ? new Uint8Array(page.slice()) : undefined),
		setLapic: (data) => {
			if (vm.sev.dead) return -Errno.EIO;
			if (!vm.hasIrqchip || data.length !== page.length) return -Errno.EINVAL;
			page.set(data);
			return 0;
		},
	};
}
