import { PAGE_SIZE } from '@cvm/layout';
import { KvmFeature, MSR_KVM_MIGRATION_CONTROL } from '../abi/capabilities.js';
import { liveMigrationFeature } from '../abi/page-status.js';
import { isPosting } from '../kernel.js';
import type { Block, GuestCpu, Next } from '../vcpu/program.js';
import { BootFlag, E820Type, EfiStatus, KernelOffset } from './boot-protocol.js';
import { bootParam, e820At, e820Count } from './e820.js';
import {
	dataAt,
	isSevActive,
	type KernelConfig,
	KernelData,
	KernelFlag,
	kernelBase,
	low32,
	reportsPageStatus,
	setFlag,
} from './kernel-data.js';
import { say } from './printk.js';
import { pageStatusArguments } from './set-memory.js';

const HYPERVISOR_PRESENT = 0x80000000;
const FIRST_BASE = 0x40000000;
const LAST_BASE = 0x40010000;
const BASE_STEP = 0x100;
/** "KVMKVMKVM\0\0\0" in EBX, ECX, EDX. */
const SIGNATURE = [0x4b4d564b, 0x564b4d56, 0x0000004d] as const;

/** MSR_KVM_SEV_LIVE_MIGRATION (v12), MSR_KVM_MIGRATION_CONTROL (upstream). */
const migrationMsr = ({ kernel }: KernelConfig): number =>
	liveMigrationFeature(kernel.series)?.msr ?? MSR_KVM_MIGRATION_CONTROL;

/** Bit of the feature leaf that offers the MSR. −1: there is none, and every SEV guest reports (v1 to v4). */
const featureBit = ({ kernel }: KernelConfig): number =>
	kernel.abi === 'upstream' ? KvmFeature.MIGRATION_CONTROL : (liveMigrationFeature(kernel.series)?.bit ?? -1);

/** Whether the host offered live migration. */
export const isOffered = (config: KernelConfig, features: number): boolean => {
	const bit = featureBit(config);
	return bit < 0 || ((features >>> bit) & 1) === 1;
};

const isEfi = (cpu: GuestCpu): boolean => (cpu.loadU32(bootParam(cpu, 'flags')) & BootFlag.efi) !== 0;

/** The migration MSR ← `value`: whether the host may migrate this guest. */
export function writeMigrationMsr(config: KernelConfig, cpu: GuestCpu, value: 0 | 1, next: string): Next {
	cpu.setNum('rcx', migrationMsr(config));
	cpu.setNum('rax', value);
	cpu.setNum('rdx', 0);
	return cpu.wrmsr(next);
}

/** Loads the registers of hypercall 12 for E820 entry R12, all of it encrypted, and counts R12 up. Whether it is RAM. */
export function nextRamEntry(config: KernelConfig, cpu: GuestCpu): boolean {
	const index = cpu.num('r12');
	cpu.setNum('r12', index + 1);
	const entry = e820At(cpu, index);
	if (entry.type !== E820Type.ram) return false;
	if (config.e820Walk === 'as-posted') {
		// The address as it stands: an unaligned one is answered with −EINVAL, which nobody looks at.
		pageStatusArguments(cpu, config, entry.addr, Math.ceil(entry.size / PAGE_SIZE), true);
		return true;
	}
	const first = Math.ceil(entry.addr / PAGE_SIZE);
	const pages = Math.floor((entry.addr + entry.size) / PAGE_SIZE) - first;
	if (pages <= 0) return false;
	pageStatusArguments(cpu, config, first * PAGE_SIZE, pages, true);
	return true;
}

/** hv_clock_boot is a page, wall_clock 12 bytes behind it: at the start of `.bss..decrypted`. PROJECT: the places. */
const CLOCK_VARIABLES = [0, PAGE_SIZE] as const;

/**
 * `kvm_init_platform` → `es_init` → `late_initcall` → `late_done`: how a guest and its host agree on live migration.
 *
 * v12 (patches v12 10–12/13): with feature bit 16, report `.bss..decrypted`; without EFI write the MSR at once.
 * upstream (Linux 5.16 arch/x86/kernel/kvm.c): with feature bit 17, first report every RAM entry of E820 as encrypted.
 * With EFI both wait for the late initcall and the firmware's word that it kept track too. Only SEV guests take part.
 *
 * Earlier postings: v7 to v9 report two variables of `.bss..decrypted` instead of all of it, which the leaf walk makes two
 * reports of the same large page; v5 and v6 do not ask for the variable; v1 to v4 have neither feature bit nor MSR, and
 * leave `.bss..decrypted` out.
 */
export function negotiationBlocks(config: KernelConfig): Record<string, Block> {
	const { kernel } = config;
	const isUpstream = kernel.abi === 'upstream';
	const marksVariables = isPosting(kernel, 'v7', 'v9');
	const hasMsr = !isPosting(kernel, 'v1', 'v4');
	const asksFirmware = !isPosting(kernel, 'v1', 'v6');
	return {
		kvm_init_platform: (cpu) => {
			cpu.setNum('rax', 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('kvm_hypervisor_bit');
		},
		kvm_hypervisor_bit: (cpu) => {
			if ((low32(cpu, 'rcx') & HYPERVISOR_PRESENT) === 0) return cpu.jump('es_init');
			cpu.setNum('r12', FIRST_BASE);
			return cpu.jump('kvm_scan');
		},
		kvm_scan: (cpu) => {
			if (cpu.num('r12') >= LAST_BASE) return cpu.jump('es_init');
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
			cpu.storeU32(dataAt(cpu, KernelData.kvmFeatures), features);
			if (!isSevActive(cpu) || !isOffered(config, features)) {
				return isUpstream ? cpu.jump('es_init') : say(config, cpu, 'unsupported', 'es_init');
			}
			setFlag(cpu, KernelFlag.reportsPageStatus);
			cpu.setNum('r12', 0);
			if (isUpstream) return cpu.jump('kvm_reset_page_status');
			return hasMsr ? say(config, cpu, 'enabled', 'kvm_report_bss') : cpu.jump('es_init');
		},
		kvm_reset_page_status: (cpu) => {
			if (cpu.num('r12') >= e820Count(cpu)) {
				cpu.setNum('r12', 0);
				return cpu.jump('kvm_report_bss');
			}
			return nextRamEntry(config, cpu) ? cpu.vmmcall('kvm_reset_page_status') : cpu.jump('kvm_reset_page_status');
		},
		kvm_report_bss: (cpu) => {
			const variable = cpu.num('r12');
			if (variable >= (marksVariables ? CLOCK_VARIABLES.length : 1)) return cpu.jump('kvm_bss_reported');
			cpu.setNum('r12', variable + 1);
			const bss = kernelBase(cpu) + KernelOffset.bssDecrypted;
			cpu.setNum('rdi', bss + (CLOCK_VARIABLES[variable] ?? 0));
			cpu.setNum('rsi', marksVariables ? 1 : (KernelOffset.end - KernelOffset.bssDecrypted) / PAGE_SIZE);
			cpu.setNum('rdx', 0);
			return cpu.call('notify_range_enc_status_changed', 'kvm_report_bss');
		},
		kvm_bss_reported: (cpu) =>
			isEfi(cpu) && asksFirmware ? cpu.jump('es_init') : writeMigrationMsr(config, cpu, 1, 'es_init'),

		late_initcall: (cpu) => {
			const isWanted = reportsPageStatus(cpu) && asksFirmware && (!isUpstream || isEfi(cpu));
			if (!isWanted) return cpu.jump('late_done');
			const getVariable = cpu.loadNum(bootParam(cpu, 'getVariable'));
			// v12 asks for runtime services alone, and so says this in a guest without EFI as well.
			if (getVariable === 0 || !isEfi(cpu)) return say(config, cpu, 'noRuntime', 'late_done');
			const value = dataAt(cpu, KernelData.variableValue);
			const size = dataAt(cpu, KernelData.variableSize);
			cpu.storeNum(size, 1);
			cpu.storeU8(value, 0);
			const rsp = cpu.num('rsp') - 0x30;
			cpu.setNum('rsp', rsp);
			// The fifth argument stands above the callee's 32 bytes of home space.
			cpu.storeNum(rsp + 0x20, value);
			cpu.setNum('rcx', dataAt(cpu, KernelData.variableName));
			cpu.setNum('rdx', dataAt(cpu, KernelData.variableGuid));
			cpu.setNum('r8', 0);
			cpu.setNum('r9', size);
			return cpu.call(getVariable, 'late_variable');
		},
		late_variable: (cpu) => {
			cpu.setNum('rsp', cpu.num('rsp') + 0x30);
			const status = cpu.reg('rax');
			if (status === EfiStatus.notFound) return say(config, cpu, 'notFound', 'late_done');
			if (status !== EfiStatus.success) return say(config, cpu, 'unreadable', 'late_done');
			const isSet = cpu.loadU8(dataAt(cpu, KernelData.variableValue)) !== 0;
			return say(config, cpu, isSet ? 'efiEnabled' : 'disabled', isSet ? 'late_ready' : 'late_done');
		},
		late_ready: (cpu) => writeMigrationMsr(config, cpu, 1, 'late_done'),
	};
}
