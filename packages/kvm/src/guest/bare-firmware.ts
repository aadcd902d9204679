import { PAGE_SIZE } from '@cvm/layout';
import type { CodeFragment } from '../vcpu/program.js';
import {
	AP_MAILBOX_MAGIC,
	apMailbox,
	type BootParams,
	E820Type,
	encodeBootParams,
	MemoryMap,
} from './boot-protocol.js';

const CR0_PG = 1n << 31n;

/** What {@link bareFirmware} tells the kernel: the rest has defaults. */
export type BareFirmwareOptions = Partial<Omit<BootParams, 'getVariable' | 'apReset' | 'efi'>> &
	Pick<BootParams, 'ramBytes' | 'workload'>;

/**
 * The least that a kernel needs from firmware, for guests without SEV-ES: the boot parameters, and a place where the other
 * vCPUs wait. No EFI. By default one vCPU, and all memory but the firmware's is RAM.
 */
export function bareFirmware(options: BareFirmwareOptions): CodeFragment {
	const { firmware, firmwareEnd } = MemoryMap;
	const { ram, reserved } = E820Type;
	const e820 = [
		{ addr: 0, size: firmware, type: ram },
		{ addr: firmware, size: firmwareEnd - firmware, type: reserved },
		{ addr: firmwareEnd, size: options.ramBytes - firmwareEnd, type: ram },
	];
	const defaults = { seed: 0n, stepLimit: 0n, cpus: 1, efi: false, getVariable: 0, e820 };
	return {
		name: 'bare-firmware',
		base: MemoryMap.firmwareText,
		at: { reset: MemoryMap.resetVector },
		blocks: {
			reset: (cpu) => {
				cpu.setNum('rax', 1);
				cpu.setNum('rcx', 0);
				return cpu.cpuid('firmware.identified');
			},
			'firmware.identified': (cpu) => {
				if (cpu.num('rbx') >>> 24 !== 0) return cpu.jump('firmware.wait');
				const apReset = cpu.address('firmware.take_back');
				cpu.fill(MemoryMap.bootParams, PAGE_SIZE, 0);
				cpu.store(MemoryMap.bootParams, encodeBootParams({ ...defaults, ...options, apReset }));
				cpu.storeU64(MemoryMap.apMailbox, 0n);
				cpu.setNum('rsi', MemoryMap.bootParams);
				return cpu.jump('kernel_entry');
			},
			// First of all away from the kernel's page tables, which are another kernel's memory from now on.
			'firmware.take_back': (cpu) => {
				cpu.cr0 &= ~CR0_PG;
				return cpu.jump('firmware.wait');
			},
			'firmware.wait': (cpu) => {
				if (cpu.loadU64(MemoryMap.apMailbox) !== AP_MAILBOX_MAGIC) return cpu.hlt('firmware.wait');
				return cpu.jump(cpu.loadNum(MemoryMap.apMailbox + apMailbox.offsetOf('entry')));
			},
		},
	};
}
