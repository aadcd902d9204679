import { ExitCode, GhcbMsr, GhcbResult, JumpTableAction } from '../abi/ghcb.js';
import type { Block, GuestCpu } from '../vcpu/program.js';
import { KernelOffset } from './boot-protocol.js';
import { bootParam } from './e820.js';
import { clearGhcb, ghcbExit, ghcbResult, ghcbVerdict, initGhcb, writeGhcbMsr } from './ghcb.js';
import { cBitOf, dataAt, isSevEsActive, KernelData, kernelBase, low32 } from './kernel-data.js';
import { setVcGate } from './vc-handler.js';

/** Where vCPUs ≠ 0 of a SEV-ES guest start: real-mode code below 1 MiB, which the jump table names as CS:IP. */
export const AP_TRAMPOLINE = 0x98000;
const PAGE = 0x1000;

/** x2APIC: the interrupt command register; INIT, and start-up with the trampoline's page (APM vol. 2 §16.5, §16.14). */
const MSR_ICR = 0x830;
const ICR_INIT = 0x4500;
const ICR_STARTUP = 0x4600 | (AP_TRAMPOLINE / PAGE);
/** Ticks until a vCPU that does not answer is asked again. */
const PATIENCE = 32;

/** Versions of the GHCB protocol that this kernel speaks. */
const PROTOCOL = { min: 1, max: 2 } as const;
/** Termination: reason set 0, reason 1: no common version of the protocol. */
const TERMINATE_PROTOCOL = GhcbMsr.TERMINATE | (1 << 16);

const ghcbOf = (cpu: GuestCpu, vcpu: number): number => kernelBase(cpu) + KernelOffset.ghcbs + PAGE * vcpu;

/** Loads the registers for an interprocessor interrupt to vCPU R12. */
function sendTo(cpu: GuestCpu, command: number): void {
	cpu.setNum('rcx', MSR_ICR);
	cpu.setNum('rax', command);
	cpu.setReg('rdx', cpu.reg('r12'));
}

/**
 * SEV-ES (Linux 5.12 arch/x86/kernel/sev-es.c), on vCPU 0:
 *
 * `es_boot_ghcb` → `kvm_init_platform`: agrees on a version of the protocol, then uses a GHCB in `.bss..decrypted`, which
 * is shared already, and the full #VC handler.
 *
 * `es_init` → `late_initcall`: shares one GHCB page per vCPU with the host, by `early_set_memory_decrypted`, so that it
 * hears of them, and takes the first. Nothing in a guest without SEV-ES.
 *
 * `es_wake_aps` → `start_boot_cpu`: writes the CS:IP of the trampoline to the AP jump table, whose address the firmware gave
 * to the hypervisor, and starts the others with INIT and SIPI until each has come. Without a jump table they stay where they
 * are. The address must be that of a page; Linux panics otherwise.
 *
 * On the others, `es_ap_identify` → `ap_known` reads the APIC id by the MSR protocol, as there is no stack for #VC yet;
 * `es_ap_ghcb` → `ap_ready` takes the vCPU's own GHCB.
 */
export const esBlocks: Record<string, Block> = {
	es_boot_ghcb: (cpu) => writeGhcbMsr(cpu, GhcbMsr.SEV_INFO_REQUEST, 0, 'es_info'),
	es_info: (cpu) => cpu.vmgexit('es_info_read'),
	es_info_read: (cpu) => cpu.rdmsr('es_info_check'),
	es_info_check: (cpu) => {
		const [low, high] = [low32(cpu, 'rax'), low32(cpu, 'rdx')];
		const [min, max] = [high & 0xffff, high >>> 16];
		const isResponse = (low & 0xfff) === GhcbMsr.SEV_INFO_RESPONSE && low >>> 24 === cBitOf(cpu);
		if (!isResponse || max < PROTOCOL.min || min > PROTOCOL.max) {
			return writeGhcbMsr(cpu, TERMINATE_PROTOCOL, 0, 'vc.terminate_exit');
		}
		cpu.gsBase = kernelBase(cpu) + KernelOffset.bootGhcb;
		const version = Math.min(max, PROTOCOL.max);
		cpu.storeU32(dataAt(cpu, KernelData.ghcbVersion), version);
		initGhcb(cpu, cpu.gsBase, version);
		setVcGate(cpu, kernelBase(cpu) + KernelOffset.idt, 'vc.handler');
		return writeGhcbMsr(cpu, cpu.gsBase, 0, 'kvm_init_platform');
	},

	es_init: (cpu) => {
		if (!isSevEsActive(cpu)) return cpu.jump('late_initcall');
		cpu.setNum('r12', 0);
		return cpu.jump('es_share_ghcb');
	},
	es_share_ghcb: (cpu) => {
		const vcpu = cpu.num('r12');
		if (vcpu === cpu.loadU32(bootParam(cpu, 'cpus'))) {
			cpu.gsBase = ghcbOf(cpu, 0);
			return writeGhcbMsr(cpu, cpu.gsBase, 0, 'late_initcall');
		}
		cpu.setNum('rdi', ghcbOf(cpu, vcpu));
		cpu.setNum('rsi', PAGE);
		return cpu.call('early_set_memory_decrypted', 'es_ghcb_shared');
	},
	es_ghcb_shared: (cpu) => {
		const vcpu = cpu.num('r12');
		initGhcb(cpu, ghcbOf(cpu, vcpu), cpu.loadU32(dataAt(cpu, KernelData.ghcbVersion)));
		cpu.setNum('r12', vcpu + 1);
		return cpu.jump('es_share_ghcb');
	},

	es_wake_aps: (cpu) => {
		clearGhcb(cpu, cpu.gsBase);
		return ghcbExit(cpu, cpu.gsBase, ExitCode.AP_JUMP_TABLE, BigInt(JumpTableAction.get), 0n, 'es_jump_table');
	},
	es_jump_table: (cpu) => {
		if (ghcbVerdict(cpu, cpu.gsBase) !== GhcbResult.SUCCESS) return cpu.jump('vc.terminate');
		const table = ghcbResult(cpu, cpu.gsBase);
		if (table === 0) return cpu.jump('start_boot_cpu');
		if (table % PAGE !== 0) return cpu.jump('kernel_panic');
		// u16 IP, u16 CS.
		cpu.storeU32(table, (AP_TRAMPOLINE / 16) * 0x10000);
		cpu.setNum('r12', 0);
		return cpu.jump('es_next_ap');
	},
	es_next_ap: (cpu) => {
		const vcpu = cpu.num('r12') + 1;
		cpu.setNum('r12', vcpu);
		return cpu.jump(vcpu < cpu.loadU32(bootParam(cpu, 'cpus')) ? 'es_wake_ap' : 'start_boot_cpu');
	},
	es_wake_ap: (cpu) => {
		sendTo(cpu, ICR_INIT);
		return cpu.wrmsr('es_start_ap');
	},
	es_start_ap: (cpu) => {
		sendTo(cpu, ICR_STARTUP);
		cpu.setNum('r13', PATIENCE);
		return cpu.wrmsr('es_await_ap');
	},
	es_await_ap: (cpu) => {
		if (cpu.loadU8(dataAt(cpu, KernelData.online + cpu.num('r12'))) !== 0) return cpu.jump('es_next_ap');
		const left = cpu.num('r13') - 1;
		// It may not have reached its hold when the interrupt came.
		if (left < 0) return cpu.jump('es_wake_ap');
		cpu.setNum('r13', left);
		return cpu.hlt('es_await_ap');
	},

	es_ap_trampoline: (cpu) => cpu.jump('kernel_ap_entry'),
	// Leaf 1, EBX[31:24].
	es_ap_identify: (cpu) => writeGhcbMsr(cpu, GhcbMsr.CPUID_REQUEST | (1 << 30), 1, 'es_ap_cpuid'),
	es_ap_cpuid: (cpu) => cpu.vmgexit('es_ap_cpuid_read'),
	es_ap_cpuid_read: (cpu) => cpu.rdmsr('es_ap_identified'),
	es_ap_identified: (cpu) => {
		if ((low32(cpu, 'rax') & 0xfff) !== GhcbMsr.CPUID_RESPONSE) return cpu.jump('vc.terminate');
		cpu.setNum('r12', low32(cpu, 'rdx') >>> 24);
		return cpu.jump('ap_known');
	},
	es_ap_ghcb: (cpu) => {
		cpu.lidt(kernelBase(cpu) + KernelOffset.idt, PAGE - 1);
		cpu.gsBase = ghcbOf(cpu, cpu.num('r12'));
		return writeGhcbMsr(cpu, cpu.gsBase, 0, 'ap_ready');
	},
};
