import type { Block, GuestCpu } from '../vcpu/program.js';
import {
	AP_MAILBOX_MAGIC,
	apMailbox,
	BOOT_MAGIC,
	efiString,
	LIVE_MIGRATION_VARIABLE,
	MAX_CPUS,
	MEM_ENCRYPT_GUID,
	MemoryMap,
} from './boot-protocol.js';
import { bootParam } from './e820.js';
import { KernelData } from './kernel-data.js';
import { buildTables, enterKernelTables } from './page-tables.js';

const MSR_SEV_STATUS = 0xc0010131;
const LEAF_HIGHEST_EXTENDED = 0x80000000;
const LEAF_ENCRYPTED_MEMORY = 0x8000001f;

/** EAX, EBX, ECX or EDX. */
export const low32 = (cpu: GuestCpu, name: 'rax' | 'rbx' | 'rcx' | 'rdx'): number =>
	Number(cpu.reg(name) & 0xffffffffn);

/**
 * `kernel_entry`: in any mode that maps the low 4 GiB one to one and private; boot parameters in place; interrupts do not
 * exist. Finds the C-bit as Linux does (`sme_enable`: CPUID says what may be, MSR SEV_STATUS what is), builds page tables,
 * goes on to `clear_memory`. R15 = position of the C-bit or 0.
 */
export const entryBlocks: Record<string, Block> = {
	kernel_entry: (cpu) => {
		if (cpu.loadU64(bootParam('magic')) !== BOOT_MAGIC) return cpu.jump('kernel_panic');
		const cpus = cpu.loadU32(bootParam('cpus'));
		if (cpus < 1 || cpus > MAX_CPUS) return cpu.jump('kernel_panic');
		cpu.setNum('rax', LEAF_HIGHEST_EXTENDED);
		cpu.setNum('rcx', 0);
		cpu.setNum('r15', 0);
		return cpu.cpuid('entry_extended');
	},
	entry_extended: (cpu) => {
		if (low32(cpu, 'rax') < LEAF_ENCRYPTED_MEMORY) return cpu.jump('entry_tables');
		cpu.setNum('rax', LEAF_ENCRYPTED_MEMORY);
		cpu.setNum('rcx', 0);
		return cpu.cpuid('entry_encrypted_memory');
	},
	entry_encrypted_memory: (cpu) => {
		if ((low32(cpu, 'rax') & 2) === 0) return cpu.jump('entry_tables');
		cpu.setNum('r15', low32(cpu, 'rbx') & 0x3f);
		cpu.setNum('rcx', MSR_SEV_STATUS);
		return cpu.rdmsr('entry_sev_status');
	},
	entry_sev_status: (cpu) => {
		if ((low32(cpu, 'rax') & 1) === 0) cpu.setNum('r15', 0);
		return cpu.jump('entry_tables');
	},
	entry_tables: (cpu) => {
		const cBit = cpu.num('r15');
		buildTables(cpu, cBit);
		cpu.fill(MemoryMap.kernelData, MemoryMap.kernelPageTables - MemoryMap.kernelData, 0);
		cpu.storeU32(KernelData.cBit, cBit);
		cpu.store(KernelData.variableName, efiString(LIVE_MIGRATION_VARIABLE));
		cpu.store(KernelData.variableGuid, MEM_ENCRYPT_GUID);
		enterKernelTables(cpu, cBit);
		return cpu.jump('clear_memory');
	},
	memory_cleared: (cpu) => {
		cpu.setNum('rsp', stackOf(0));
		return cpu.jump('kvm_init_platform');
	},
	kernel_panic: (cpu) => cpu.ud2(),
};

const stackOf = (cpu: number): number => MemoryMap.kernelStacks + MemoryMap.kernelStackBytes * (cpu + 1);

/**
 * `wake_aps` → `start_workload` on every vCPU. An AP comes to `kernel_ap_entry` from the firmware's mailbox loop with the
 * low 4 GiB mapped one to one and private.
 */
export const smpBlocks: Record<string, Block> = {
	wake_aps: (cpu) => {
		cpu.storeNum(MemoryMap.apMailbox + apMailbox.offsetOf('entry'), cpu.address('kernel_ap_entry'));
		cpu.storeU64(MemoryMap.apMailbox + apMailbox.offsetOf('magic'), AP_MAILBOX_MAGIC);
		cpu.setNum('rsi', 0);
		return cpu.jump('start_workload');
	},
	kernel_ap_entry: (cpu) => {
		enterKernelTables(cpu, cpu.loadU32(KernelData.cBit));
		cpu.setNum('rax', 1);
		cpu.setNum('rcx', 0);
		return cpu.cpuid('ap_identified');
	},
	ap_identified: (cpu) => {
		const index = low32(cpu, 'rbx') >>> 24;
		if (index >= cpu.loadU32(bootParam('cpus'))) return cpu.jump('ap_parked');
		cpu.setNum('rsp', stackOf(index));
		cpu.setNum('rsi', index);
		return cpu.jump('start_workload');
	},
	/** A vCPU that the boot parameters do not count. */
	ap_parked: (cpu) => cpu.hlt('ap_parked'),
};
