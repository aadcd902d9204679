import { ExitCode, GhcbMsr, JumpTableAction } from '@cvm/kvm/abi';
import { clearGhcb, ghcbExit, ghcbResult, MemoryMap, vcBlocks, writeGhcbMsr } from '@cvm/kvm/guest';
import type { Block, CodeFragment, GuestCpu, Next } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { RESET_ADDRESS } from '../image/image.js';
import type { FirmwareOptions } from './options.js';
import { CODE_BASE, isWaiting, setWaiting, workWord } from './work-area.js';

/** x2APIC interrupt command register; INIT and SIPI to all other processors. KVM ignores the vector of the first SIPI. */
const MSR_ICR = 0x830;
const INIT_OTHERS = 0xc4500;
const STARTUP_OTHERS = 0xc4600;

const MSR_GHCB = 0xc0010130;
const CR4_PAE = 0x20n;
const EFER_LME = 0x100n;
const CR0_PG_PE = 0x80000001n;

/** The firmware's page tables; `mask` is the C-bit. */
function enterTables(cpu: GuestCpu, mask: bigint): void {
	cpu.cr4 |= CR4_PAE;
	cpu.efer |= EFER_LME;
	cpu.cr3 = BigInt(MemoryMap.secPageTables) | mask;
	cpu.cr0 |= CR0_PG_PE;
}

/** On with the boot, or in a migration target to rest for good: the other processors are in their hold by now. */
function leave(cpu: GuestCpu, { vcpuStates = false }: FirmwareOptions): Next {
	if (workWord(cpu, 'target') === 0n) return cpu.jump('fw.boot');
	return vcpuStates ? park(cpu, 0) : cpu.jump('fw.mh.dead_es');
}
/** A processor of a target rests where it will find its own save area. */
function park(cpu: GuestCpu, index: number): Next {
	cpu.setNum('rbx', index);
	return cpu.jump('mh.resume.park');
}
const identify = (cpu: GuestCpu) => writeGhcbMsr(cpu, GhcbMsr.CPUID_REQUEST | (1 << 30), 1, 'fw.mp.cpuid');

/**
 * The other processors of a SEV-ES guest (edk2 UefiCpuPkg MpInitLib): `fw.mp` → `fw.boot` on the first one gives the
 * hypervisor a jump table, starts them and waits until all wait in AP_RESET_HOLD. They start at `fw.mp.start`, which the reset
 * block of the image names, and leave the hold by a far jump through the table, where the kernel put CS:IP. `fw.mp.reset`
 * takes back one that a kernel hands back.
 *
 * They have no stack, and need none: what they ask for goes by the MSR protocol or straight through their GHCB.
 */
const mpBlocks = (options: FirmwareOptions): Record<string, Block> => ({
	'fw.mp': (cpu) => {
		clearGhcb(cpu, cpu.gsBase);
		const table = BigInt(MemoryMap.apJumpTable);
		return ghcbExit(cpu, cpu.gsBase, ExitCode.AP_JUMP_TABLE, BigInt(JumpTableAction.set), table, 'fw.mp.wake');
	},
	'fw.mp.wake': (cpu) => {
		if (workWord(cpu, 'cpus') <= 1n) return leave(cpu, options);
		cpu.setNum('rcx', MSR_ICR);
		cpu.setNum('rax', INIT_OTHERS);
		cpu.setNum('rdx', 0);
		return cpu.wrmsr('fw.mp.sipi');
	},
	'fw.mp.sipi': (cpu) => {
		cpu.setNum('rax', STARTUP_OTHERS);
		return cpu.wrmsr('fw.mp.await');
	},
	'fw.mp.await': (cpu) => {
		for (let i = 1; i < Number(workWord(cpu, 'cpus')); i++) if (!isWaiting(cpu, i)) return cpu.hlt('fw.mp.await');
		return leave(cpu, options);
	},

	// The GHCB MSR tells where the C-bit is until it is written.
	'fw.mp.start': (cpu) => {
		cpu.setNum('rcx', MSR_GHCB);
		return cpu.rdmsr('fw.mp.tables');
	},
	'fw.mp.tables': (cpu) => {
		enterTables(cpu, 1n << BigInt(cpu.num('rax') >>> 24));
		return identify(cpu);
	},
	'fw.mp.reset': (cpu) => {
		cpu.cr3 = BigInt(MemoryMap.secPageTables) | (cpu.cr3 & ~0xffffffffn);
		return identify(cpu);
	},
	'fw.mp.cpuid': (cpu) => cpu.vmgexit('fw.mp.cpuid_read'),
	'fw.mp.cpuid_read': (cpu) => cpu.rdmsr('fw.mp.identified'),
	'fw.mp.identified': (cpu) => {
		const index = cpu.num('rdx') >>> 24;
		cpu.gsBase = MemoryMap.apGhcb + PAGE_SIZE * index;
		// Not again after the kernel started: the work area is the firmware's, but it was cleared for good.
		if (workWord(cpu, 'cpus') !== 0n) setWaiting(cpu, index);
		if (options.vcpuStates === true && workWord(cpu, 'target') !== 0n) return park(cpu, index);
		return writeGhcbMsr(cpu, cpu.gsBase, 0, 'fw.mp.hold');
	},
	'fw.mp.hold': (cpu) => {
		clearGhcb(cpu, cpu.gsBase);
		return ghcbExit(cpu, cpu.gsBase, ExitCode.AP_RESET_HOLD, 0n, 0n, 'fw.mp.held');
	},
	'fw.mp.held': (cpu) => {
		if (ghcbResult(cpu, cpu.gsBase) === 0) return cpu.jump('fw.mp.hold');
		const table = MemoryMap.apJumpTable;
		return cpu.jump(cpu.loadU16(table + 2) * 16 + cpu.loadU16(table));
	},
	...vcBlocks({ prefix: 'fw.vc', hypercall: options.reports?.esRegisters === 'upstream' ? 'ovmf-upstream' : 'ovmf' }),
});

/** SEV-ES: the #VC handlers, and how the other processors start. */
export const mpFragment = (options: FirmwareOptions): CodeFragment => ({
	name: 'ovmf-mp',
	base: CODE_BASE + 0x5000,
	blocks: mpBlocks(options),
	at: { 'fw.mp.start': RESET_ADDRESS },
});
