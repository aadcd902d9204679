import { ExitCode, JumpTableAction } from '../src/abi/ghcb.js';
import {
	type BootParams,
	clearGhcb,
	encodeBootParams,
	GET_VARIABLE_DATA_OFFSET,
	ghcbExit,
	ghcbResult,
	initGhcb,
	loadIdt,
	MAX_CPUS,
	MemoryMap,
	vcBlocks,
	writeGhcbMsr,
} from '../src/guest/index.js';
import type { Block, CodeFragment, GuestCpu } from '../src/vcpu/index.js';

const PAGE = 4096;
const LARGE = 0x200000;
/** Where the firmware image says that vCPUs ≠ 0 start. */
export const AP_START = 0x80b000;
const TABLES = MemoryMap.secPageTables;
const IDT = 0x850000;
/** One stack per vCPU, growing down; and how many vCPUs wait. */
const STACKS = 0x890000;
const WAITING = 0x8f0000;

const ghcbOf = (vcpu: number) => MemoryMap.apGhcb + PAGE * vcpu;
const table = (entry: (index: number) => bigint) =>
	new Uint8Array(BigUint64Array.from({ length: 512 }, (_, i) => entry(i)).buffer);

/** The first 4 GiB one to one and private, but for the GHCBs. */
function buildTables(cpu: GuestCpu, mask: bigint): void {
	const link = 3n | mask;
	cpu.store(
		TABLES,
		table((i) => (i === 0 ? BigInt(TABLES + PAGE) | link : 0n)),
	);
	const region = MemoryMap.firmware;
	cpu.store(
		TABLES + PAGE,
		table((i) => (i === 0 ? BigInt(TABLES + 2 * PAGE) | link : i < 4 ? BigInt(i * 2 ** 30) | 0x80n | link : 0n)),
	);
	cpu.store(
		TABLES + 2 * PAGE,
		table((i) => (i * LARGE === region ? BigInt(TABLES + 3 * PAGE) | link : BigInt(i * LARGE) | 0x80n | link)),
	);
	const isShared = (at: number) => at >= MemoryMap.apGhcb && at < MemoryMap.apGhcbEnd;
	cpu.store(
		TABLES + 3 * PAGE,
		table((i) => BigInt(region + i * PAGE) | (isShared(region + i * PAGE) ? 3n : link)),
	);
}

function enterTables(cpu: GuestCpu, mask: bigint): void {
	cpu.cr4 |= 0x20n;
	cpu.efer |= 0x100n;
	cpu.cr3 = BigInt(TABLES) | mask;
	cpu.cr0 |= 0x80000001n;
}

/** What differs between boots. */
export interface EsFirmwareOptions {
	readonly params: Omit<BootParams, 'getVariable'>;
	readonly variable: { readonly status: bigint; readonly value: number };
	/** The firmware reports the GHCBs that it shares. */
	readonly reports: boolean;
	/** What it gives the hypervisor as AP jump table. */
	readonly jumpTable: number;
}

/**
 * Firmware of a SEV-ES guest, as small as it can be: page tables, GHCBs, the AP jump table; starts the other vCPUs, which wait
 * in AP_RESET_HOLD until a SIPI sends them through the table.
 */
export function esFirmware({ params, variable, reports, jumpTable }: EsFirmwareOptions): CodeFragment {
	const { cpus } = params;
	const cBit = (cpu: GuestCpu) => 1n << (BigInt(cpu.num('rax')) >> 24n);
	const blocks: Record<string, Block> = {
		// The GHCB MSR holds the SEV information response at reset: where the C-bit is.
		reset: (cpu) => {
			cpu.setNum('rcx', 0xc0010130);
			return cpu.rdmsr('fw.tables');
		},
		'fw.tables': (cpu) => {
			cpu.fill(MemoryMap.firmware, MemoryMap.firmwareEnd - MemoryMap.firmware, 0);
			buildTables(cpu, cBit(cpu));
			enterTables(cpu, cBit(cpu));
			for (let i = 0; i < MAX_CPUS; i++) initGhcb(cpu, ghcbOf(i), 1);
			loadIdt(cpu, IDT, 'fw_vc.handler');
			cpu.setNum('rsp', STACKS + PAGE);
			cpu.gsBase = ghcbOf(0);
			return writeGhcbMsr(cpu, ghcbOf(0), 0, reports ? 'fw.report' : 'fw.jump_table');
		},
		'fw.report': (cpu) => {
			cpu.setNum('rax', 12);
			cpu.setNum('rbx', MemoryMap.apGhcb);
			cpu.setNum('rcx', (MemoryMap.apGhcbEnd - MemoryMap.apGhcb) / PAGE);
			cpu.setNum('rdx', 0);
			return cpu.vmmcall('fw.jump_table');
		},
		'fw.jump_table': (cpu) => {
			clearGhcb(cpu, cpu.gsBase);
			const { AP_JUMP_TABLE } = ExitCode;
			cpu.setNum('r12', 0);
			return ghcbExit(cpu, cpu.gsBase, AP_JUMP_TABLE, BigInt(JumpTableAction.set), BigInt(jumpTable), 'fw.wake');
		},
		// INIT and SIPI to all but self: KVM starts them with the state that was measured.
		'fw.wake': (cpu) => {
			if (cpus === 1) return cpu.jump('fw.boot');
			cpu.setNum('rcx', 0x830);
			cpu.setNum('rax', 0xc4500);
			cpu.setNum('rdx', 0);
			return cpu.wrmsr('fw.sipi');
		},
		'fw.sipi': (cpu) => {
			cpu.setNum('rax', 0xc4600);
			return cpu.wrmsr('fw.await');
		},
		'fw.await': (cpu) => {
			for (let i = 1; i < cpus; i++) if (cpu.loadU8(WAITING + i) === 0) return cpu.hlt('fw.await');
			return cpu.jump('fw.boot');
		},
		'fw.boot': (cpu) => {
			const getVariable = params.efi ? cpu.address('fw.get_variable') : 0;
			cpu.fill(MemoryMap.bootParams, PAGE, 0);
			const apReset = cpu.address('fw.ap_reset');
			cpu.store(MemoryMap.bootParams, encodeBootParams({ getVariable, apReset, ...params }));
			cpu.setNum('rsi', MemoryMap.bootParams);
			return cpu.jump('kernel_entry');
		},
		'fw.get_variable': (cpu) => {
			cpu.storeU8(cpu.loadNum(cpu.num('rsp') + GET_VARIABLE_DATA_OFFSET), variable.value);
			cpu.setReg('rax', variable.status);
			return cpu.ret();
		},

		'fw.ap': (cpu) => {
			cpu.setNum('rcx', 0xc0010130);
			return cpu.rdmsr('fw.ap_tables');
		},
		'fw.ap_tables': (cpu) => {
			enterTables(cpu, cBit(cpu));
			return writeGhcbMsr(cpu, 4 | (1 << 30), 1, 'fw.ap_cpuid');
		},
		'fw.ap_cpuid': (cpu) => cpu.vmgexit('fw.ap_cpuid_read'),
		'fw.ap_cpuid_read': (cpu) => cpu.rdmsr('fw.ap_identified'),
		'fw.ap_identified': (cpu) => {
			const index = cpu.num('rdx') >>> 24;
			cpu.setNum('rsp', STACKS + PAGE * (index + 1));
			cpu.gsBase = ghcbOf(index);
			cpu.setNum('r12', index);
			return writeGhcbMsr(cpu, ghcbOf(index), 0, 'fw.ap_hold');
		},
		// A vCPU comes back with some other GHCB and tables, which are about to go; it still knows the C-bit from CR3.
		'fw.ap_reset': (cpu) => {
			const mask = cpu.cr3 & ~0xffffffffn;
			cpu.cr3 = BigInt(TABLES) | mask;
			return writeGhcbMsr(cpu, 4 | (1 << 30), 1, 'fw.ap_cpuid');
		},
		'fw.ap_hold': (cpu) => {
			cpu.storeU8(WAITING + cpu.num('r12'), 1);
			clearGhcb(cpu, cpu.gsBase);
			return ghcbExit(cpu, cpu.gsBase, ExitCode.AP_RESET_HOLD, 0n, 0n, 'fw.ap_held');
		},
		'fw.ap_held': (cpu) => {
			if (ghcbResult(cpu, cpu.gsBase) === 0) return cpu.jump('fw.ap_hold');
			// A far jump through the table: u16 IP, u16 CS.
			return cpu.jump(cpu.loadU16(MemoryMap.apJumpTable + 2) * 16 + cpu.loadU16(MemoryMap.apJumpTable));
		},
		...vcBlocks({ prefix: 'fw_vc', hypercall: 'ovmf' }),
	};
	const at = { reset: MemoryMap.resetVector, 'fw.ap': AP_START };
	return { name: 'es-firmware', base: MemoryMap.firmwareText, at, blocks };
}
