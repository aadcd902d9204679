import type { Block, GuestCpu } from '../vcpu/program.js';
import {
	BOOT_MAGIC,
	bootParams,
	efiString,
	KernelOffset,
	LIVE_MIGRATION_VARIABLE,
	MAX_CPUS,
	MEM_ENCRYPT_GUID,
} from './boot-protocol.js';
import { dataAt, isSevEsActive, type KernelConfig, KernelData, kernelBase, low32, stackOf } from './kernel-data.js';
import { buildTables, enterKernelTables } from './page-tables.js';
import { resetRecord } from './shared-record.js';
import { loadIdt } from './vc-handler.js';

const MSR_SEV_STATUS = 0xc0010131;
const LEAF_HIGHEST_EXTENDED = 0x80000000;
const LEAF_ENCRYPTED_MEMORY = 0x8000001f;

/**
 * `kernel_entry`: RSI = where the kernel was loaded, whose first page holds the boot parameters; in any mode that maps the
 * low 4 GiB one to one and private; interrupts do not exist. Loads an IDT whose #VC handler needs no GHCB, finds the C-bit
 * as Linux does (`sme_enable`: CPUID says what may be, MSR SEV_STATUS what is), builds page tables, goes on to
 * `clear_memory`. R14 = load address, R15 = position of the C-bit or 0, R13 = SEV_STATUS.
 */
export const entryBlocks = ({ gbPages }: KernelConfig): Record<string, Block> => ({
	kernel_entry: (cpu) => {
		const base = cpu.num('rsi');
		const field = (name: 'magic' | 'cpus') => base + bootParams.offsetOf(name);
		if (cpu.loadU64(field('magic')) !== BOOT_MAGIC) return cpu.jump('kernel_panic');
		const cpus = cpu.loadU32(field('cpus'));
		if (cpus < 1 || cpus > MAX_CPUS) return cpu.jump('kernel_panic');
		// A #VC pushes its frame on the stack, and CPUID raises one in a guest whose registers are encrypted.
		cpu.setNum('rsp', stackOf(base, 0));
		loadIdt(cpu, base + KernelOffset.idt, 'vc.no_ghcb');
		cpu.setNum('r13', 0);
		cpu.setNum('r14', base);
		cpu.setNum('r15', 0);
		cpu.setNum('rax', LEAF_HIGHEST_EXTENDED);
		cpu.setNum('rcx', 0);
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
		cpu.setNum('r13', low32(cpu, 'rax'));
		if ((cpu.num('r13') & 1) === 0) cpu.setNum('r15', 0);
		return cpu.jump('entry_tables');
	},
	entry_tables: (cpu) => {
		const base = cpu.num('r14');
		const cBit = cpu.num('r15');
		buildTables(cpu, base, cBit, gbPages);
		cpu.fill(base + KernelOffset.data, KernelOffset.idt - KernelOffset.data, 0);
		cpu.fill(base + KernelOffset.idtEnd, KernelOffset.pageTables - KernelOffset.idtEnd, 0);
		cpu.storeU32(base + KernelData.cBit, cBit);
		cpu.storeU32(base + KernelData.sevStatus, cpu.num('r13'));
		cpu.store(base + KernelData.variableName, efiString(LIVE_MIGRATION_VARIABLE));
		cpu.store(base + KernelData.variableGuid, MEM_ENCRYPT_GUID);
		enterKernelTables(cpu, base, cBit);
		resetRecord(cpu);
		return cpu.jump('clear_memory');
	},
	memory_cleared: (cpu) => {
		cpu.setNum('rsp', stackOf(kernelBase(cpu), 0));
		cpu.storeU8(dataAt(cpu, KernelData.online), 1);
		return cpu.jump(isSevEsActive(cpu) ? 'es_boot_ghcb' : 'kvm_init_platform');
	},
	kernel_panic: (cpu: GuestCpu) => cpu.ud2(),
});
