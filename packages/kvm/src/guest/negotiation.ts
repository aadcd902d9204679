import { PAGE_SIZE } from '@cvm/layout';
import type { KvmAbi } from '../abi/generation.js';
import type { Block, GuestCpu, Next } from '../vcpu/program.js';
import { BootFlag, E820Type, EfiStatus, MemoryMap } from './boot-protocol.js';
import { bootParam, e820At, e820Count } from './e820.js';
import { low32 } from './entry.js';
import { isSevActive, KernelData, KernelFlag, reportsPageStatus } from './kernel-data.js';
import { pageStatusArguments } from './set-memory.js';

const HYPERVISOR_PRESENT = 0x80000000;
const FIRST_BASE = 0x40000000;
const LAST_BASE = 0x40010000;
const BASE_STEP = 0x100;
/** "KVMKVMKVM\0\0\0" in EBX, ECX, EDX. */
const SIGNATURE = [0x4b4d564b, 0x564b4d56, 0x0000004d] as const;
/** MSR_KVM_SEV_LIVE_MIGRATION (v12), MSR_KVM_MIGRATION_CONTROL (upstream). */
const MSR_MIGRATION = 0x4b564d08;
/** KVM_FEATURE_SEV_LIVE_MIGRATION (v12), KVM_FEATURE_MIGRATION_CONTROL (upstream). */
const FEATURE_BIT = { v12: 16, upstream: 17 } as const;

const isEfi = (cpu: GuestCpu): boolean => (cpu.loadU32(bootParam('flags')) & BootFlag.efi) !== 0;

/** MSR 0x4B564D08 ← 1: the host may migrate this guest. */
function writeReady(cpu: GuestCpu, next: string): Next {
	cpu.setNum('rcx', MSR_MIGRATION);
	cpu.setNum('rax', 1);
	cpu.setNum('rdx', 0);
	return cpu.wrmsr(next);
}

/**
 * `kvm_init_platform` → `late_initcall` → `wake_aps`: how a guest and its host agree on live migration.
 *
 * v12 (patches v12 10–12/13): with feature bit 16, report `.bss..decrypted`; without EFI write the MSR at once.
 * upstream (Linux 5.16 arch/x86/kernel/kvm.c): with feature bit 17, first report every RAM entry of E820 as encrypted.
 * With EFI both wait for the late initcall and the firmware's word that it kept track too. Only SEV guests take part.
 */
export function negotiationBlocks(abi: KvmAbi): Record<string, Block> {
	return {
		kvm_init_platform: (cpu) => {
			cpu.setNum('rax', 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('kvm_hypervisor_bit');
		},
		kvm_hypervisor_bit: (cpu) => {
			if ((low32(cpu, 'rcx') & HYPERVISOR_PRESENT) === 0) return cpu.jump('late_initcall');
			cpu.setNum('r12', FIRST_BASE);
			return cpu.jump('kvm_scan');
		},
		kvm_scan: (cpu) => {
			if (cpu.num('r12') >= LAST_BASE) return cpu.jump('late_initcall');
			cpu.setNum('rax', cpu.num('r12'));
			cpu.setNum('rcx', 0);
			return cpu.cpuid('kvm_compare');
		},
		kvm_compare: (cpu) => {
			const isKvm =
				low32(cpu, 'rbx') === SIGNATURE[0] && low32(cpu, 'rcx') === SIGNATURE[1] && low32(cpu, 'rdx') === SIGNATURE[2];
			if (!isKvm) {
				cpu.setNum('r12', cpu.num('r12') + BASE_STEP);
				return cpu.jump('kvm_scan');
			}
			// base | 1, not a fixed 0x40000001: Hyper-V leaves may come first.
			cpu.setNum('rax', cpu.num('r12') + 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('kvm_features');
		},
		kvm_features: (cpu) => {
			const features = low32(cpu, 'rax');
			cpu.storeU32(KernelData.kvmFeatures, features);
			if (!isSevActive(cpu) || ((features >>> FEATURE_BIT[abi]) & 1) === 0) return cpu.jump('late_initcall');
			cpu.storeU32(KernelData.flags, KernelFlag.reportsPageStatus);
			cpu.setNum('r12', 0);
			return cpu.jump(abi === 'v12' ? 'kvm_report_bss' : 'kvm_reset_page_status');
		},
		kvm_reset_page_status: (cpu) => {
			const index = cpu.num('r12');
			if (index >= e820Count(cpu)) return cpu.jump('kvm_report_bss');
			cpu.setNum('r12', index + 1);
			const entry = e820At(cpu, index);
			if (entry.type !== E820Type.ram) return cpu.jump('kvm_reset_page_status');
			pageStatusArguments(cpu, abi, entry.addr, Math.ceil(entry.size / PAGE_SIZE), true);
			return cpu.vmmcall('kvm_reset_page_status');
		},
		kvm_report_bss: (cpu) => {
			cpu.setNum('rdi', MemoryMap.bssDecrypted);
			cpu.setNum('rsi', (MemoryMap.bssDecryptedEnd - MemoryMap.bssDecrypted) / PAGE_SIZE);
			cpu.setNum('rdx', 0);
			return cpu.call('notify_range_enc_status_changed', 'kvm_bss_reported');
		},
		kvm_bss_reported: (cpu) => (isEfi(cpu) ? cpu.jump('late_initcall') : writeReady(cpu, 'late_initcall')),

		late_initcall: (cpu) => {
			const getVariable = cpu.loadNum(bootParam('getVariable'));
			if (!reportsPageStatus(cpu) || !isEfi(cpu) || getVariable === 0) return cpu.jump('wake_aps');
			cpu.storeNum(KernelData.variableSize, 1);
			cpu.storeU8(KernelData.variableValue, 0);
			const rsp = cpu.num('rsp') - 0x30;
			cpu.setNum('rsp', rsp);
			// The fifth argument stands above the callee's 32 bytes of home space.
			cpu.storeNum(rsp + 0x20, KernelData.variableValue);
			cpu.setNum('rcx', KernelData.variableName);
			cpu.setNum('rdx', KernelData.variableGuid);
			cpu.setNum('r8', 0);
			cpu.setNum('r9', KernelData.variableSize);
			return cpu.call(getVariable, 'late_variable');
		},
		late_variable: (cpu) => {
			cpu.setNum('rsp', cpu.num('rsp') + 0x30);
			const isSet = cpu.reg('rax') === EfiStatus.success && cpu.loadU8(KernelData.variableValue) !== 0;
			return isSet ? writeReady(cpu, 'wake_aps') : cpu.jump('wake_aps');
		},
	};
}
