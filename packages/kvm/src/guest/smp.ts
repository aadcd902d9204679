import type { Block } from '../vcpu/program.js';
import { AP_MAILBOX_MAGIC, apMailbox, KernelOffset, MemoryMap } from './boot-protocol.js';
import { bootParam } from './e820.js';
import { dataAt, isSevEsActive, KernelData, KernelFlag, kernelBase, low32, setFlag, stackOf } from './kernel-data.js';
import { enterKernelTables } from './page-tables.js';

const mailbox = (field: 'magic' | 'entry' | 'kernel'): number => MemoryMap.apMailbox + apMailbox.offsetOf(field);

/**
 * `late_done` → `wake_aps` → `start_workload` on every vCPU. An AP comes to `kernel_ap_entry` from the firmware's mailbox
 * loop with the low 4 GiB mapped one to one and private; in a SEV-ES guest from AP_RESET_HOLD, through the jump table.
 */
export const smpBlocks: Record<string, Block> = {
	late_done: (cpu) => {
		if (cpu.loadU32(bootParam(cpu, 'kexecs')) === 0) return cpu.jump('wake_aps');
		cpu.setNum('rdi', 0);
		return cpu.call('kexec', 'wake_aps');
	},
	wake_aps: (cpu) => {
		setFlag(cpu, KernelFlag.smp);
		cpu.storeNum(mailbox('kernel'), kernelBase(cpu));
		if (isSevEsActive(cpu)) return cpu.jump('es_wake_aps');
		cpu.storeNum(mailbox('entry'), cpu.address('kernel_ap_entry'));
		cpu.storeU64(mailbox('magic'), AP_MAILBOX_MAGIC);
		return cpu.jump('start_boot_cpu');
	},
	start_boot_cpu: (cpu) => {
		cpu.setNum('rsi', 0);
		return cpu.jump('start_workload');
	},
	kernel_ap_entry: (cpu) => {
		const base = cpu.loadNum(mailbox('kernel'));
		enterKernelTables(cpu, base, cpu.loadU32(base + KernelData.cBit));
		// The stack, which a #VC needs, is found by the APIC id.
		if (isSevEsActive(cpu)) return cpu.jump('es_ap_identify');
		cpu.setNum('rax', 1);
		cpu.setNum('rcx', 0);
		return cpu.cpuid('ap_identified');
	},
	ap_identified: (cpu) => {
		cpu.setNum('r12', low32(cpu, 'rbx') >>> 24);
		return cpu.jump('ap_known');
	},
	/** R12 = index. */
	ap_known: (cpu) => {
		const index = cpu.num('r12');
		if (index >= cpu.loadU32(bootParam(cpu, 'cpus'))) return cpu.jump('ap_parked');
		cpu.setNum('rsp', stackOf(kernelBase(cpu), index));
		return cpu.jump(isSevEsActive(cpu) ? 'es_ap_ghcb' : 'ap_ready');
	},
	ap_ready: (cpu) => {
		cpu.storeU8(dataAt(cpu, KernelData.online + cpu.num('r12')), 1);
		cpu.setNum('rsi', cpu.num('r12'));
		return cpu.jump('start_workload');
	},
	/** A vCPU that the boot parameters do not count. */
	ap_parked: (cpu) => cpu.hlt('ap_parked'),
};

/** Bytes of a kernel's memory that are the workload's: one page for each vCPU. */
export const workloadState = (base: number, vcpu: number): number => base + KernelOffset.workloadState + 0x1000 * vcpu;
