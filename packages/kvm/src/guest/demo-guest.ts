import { PAGE_SIZE } from '@cvm/layout';
import { type CodeFragment, type GuestProgram, link } from '../vcpu/program.js';
import { bareFirmware } from './bare-firmware.js';
import { MemoryMap } from './boot-protocol.js';
import { type LinuxKernelOptions, linuxKernel } from './kernel.js';

/** What {@link demoGuest} is built as. */
export interface DemoGuestOptions extends Omit<LinuxKernelOptions, 'workloads'> {
	/** Size of the guest's memory. At least 34 MiB, as workloads have it from 32 MiB on in pieces of 2 MiB. */
	readonly ramBytes: number;
}

/**
 * A whole guest to try a VMM with: {@link bareFirmware}, the kernel, and a workload for one vCPU without SEV-ES. After the kernel's
 * negotiation it shares the page at `MemoryMap.workload`, fills that page and the two private ones after it with bytes 0x2a, and
 * writes a byte to port 0xf4, again each time that KVM_RUN is called.
 */
export function demoGuest({ ramBytes, ...options }: DemoGuestOptions): GuestProgram {
	const page = MemoryMap.workload;
	const fragment = {
		name: 'demo',
		base: MemoryMap.workloadText,
		blocks: {
			'demo.share': (cpu) => {
				cpu.setNum('rdi', page);
				cpu.setNum('rsi', 1);
				return cpu.call('set_memory_decrypted', 'demo.write');
			},
			'demo.write': (cpu) => {
				cpu.fill(page, 3 * PAGE_SIZE, 0x2a);
				return cpu.out(0xf4, 1, 'demo.write');
			},
		},
	} satisfies CodeFragment;
	const kernel = linuxKernel({ ...options, workloads: { demo: { fragment, start: 'demo.share' } } });
	return link(bareFirmware({ ramBytes, workload: 'demo' }), ...kernel);
}
