import { PAGE_SIZE } from '@cvm/layout';
import { isPosting } from '../kernel.js';
import type { Block, GuestCpu } from '../vcpu/program.js';
import { apMailbox, bootParams, E820Type, KernelOffset, MemoryMap } from './boot-protocol.js';
import { bootParam, e820At, e820Count } from './e820.js';
import {
	dataAt,
	isSmp,
	type KernelConfig,
	KernelData,
	kernelBase,
	low32,
	pop,
	push,
	RebootStage,
	reportsPageStatus,
} from './kernel-data.js';
import { isOffered, nextRamEntry, writeMigrationMsr } from './negotiation.js';
import { changeAttributes, LARGE_PAGE } from './page-tables.js';
import { keepsRecord, recordSharing } from './shared-record.js';

const EINVAL = 22;
const EOPNOTSUPP = 95;
const SAVED = ['rbx', 'r12', 'r13', 'r14', 'r15'] as const;

/** Memory that every kernel of this model uses where it stands, besides its own. */
const TAKEN = [
	[MemoryMap.firmware, MemoryMap.firmwareEnd],
	[MemoryMap.splitPageTables, MemoryMap.splitPageTablesEnd],
	[MemoryMap.workload, Number.POSITIVE_INFINITY],
] as const;

/** Whether a new kernel may be loaded at `to`: free RAM that the running kernel does not use. */
function isFree(cpu: GuestCpu, to: number): boolean {
	const end = to + KernelOffset.end;
	const own = kernelBase(cpu);
	const taken = [...TAKEN, [own, own + KernelOffset.end] as const];
	if (to % LARGE_PAGE !== 0 || taken.some(([from, upTo]) => to < upTo && end > from)) return false;
	for (let i = e820Count(cpu) - 1; i >= 0; i--) {
		const entry = e820At(cpu, i);
		if (entry.type === E820Type.ram && entry.addr <= to && entry.addr + entry.size >= end) return true;
	}
	return false;
}

/** Whether all other vCPUs went through a stage. */
function haveSeen(cpu: GuestCpu, stage: number): boolean {
	if (!isSmp(cpu)) return true;
	const cpus = cpu.loadU32(bootParam(cpu, 'cpus'));
	for (let i = 1; i < cpus; i++) {
		const isOnline = cpu.loadU8(dataAt(cpu, KernelData.online + i)) !== 0;
		if (isOnline && cpu.loadU8(dataAt(cpu, KernelData.rebootSeen + i)) < stage) return false;
	}
	return true;
}

const setStage = (cpu: GuestCpu, stage: number): void => {
	cpu.storeU32(dataAt(cpu, KernelData.rebootStage), stage);
};

/**
 * `kexec`: RDI = where the new kernel goes, 0 for the other one of `MemoryMap.kexecKernel` and `MemoryMap.bootParams`. On
 * vCPU 0. Does not return, but RAX = −EINVAL for another vCPU or a place that is not free RAM on a 2 MiB boundary, and
 * −EOPNOTSUPP if other vCPUs run that the firmware does not take back (`BootParams.apReset`).
 *
 * First the reboot callback (Linux 5.16 arch/x86/kernel/kvm.c `kvm_pv_guest_cpu_reboot`): v12 reports every RAM entry of
 * E820 as encrypted, on vCPU 0, if it reports page status at all (patch v12 13/13); upstream leaves that to the next kernel
 * and writes 0 to the migration MSR, on every vCPU. Then the other vCPUs are stopped, and the new kernel starts with the
 * boot parameters of the old one. In between the others run: what one of them shares after the reset stays on the host's
 * list, as in review of v12; `othersDuringReset: 'stopped'` is what v12 would have needed.
 *
 * PROJECT: vCPUs ≠ 0 go back to the firmware in a SEV-ES guest, too, and wait in its AP_RESET_HOLD. Linux of that time halts
 * them where they are, so that the next kernel has one vCPU.
 *
 * `cpu_idle`: waits for the next tick. The others notice only here that they are to stop: PROJECT, for want of IPIs to
 * running vCPUs. A program that is to be stopped on vCPUs ≠ 0 calls it regularly.
 */
export function kexecBlocks(config: KernelConfig): Record<string, Block> {
	const isUpstream = config.kernel.abi === 'upstream';
	// v5 was the first posting that thought of kexec.
	const resets = isPosting(config.kernel, 'v5', 'v12');
	const stopsFirst = config.othersDuringReset === 'stopped';
	const leaves = (cpu: GuestCpu): boolean =>
		isUpstream && isOffered(config, cpu.loadU32(dataAt(cpu, KernelData.kvmFeatures)));
	return {
		kexec: (cpu) => {
			push(cpu, ...SAVED);
			const own = kernelBase(cpu);
			const other = own === MemoryMap.bootParams ? MemoryMap.kexecKernel : MemoryMap.bootParams;
			cpu.setNum('r13', cpu.num('rdi') === 0 ? other : cpu.num('rdi'));
			cpu.setNum('rax', 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('kexec_identified');
		},
		kexec_identified: (cpu) => {
			const isBlocked =
				isSmp(cpu) && cpu.loadU32(bootParam(cpu, 'cpus')) > 1 && cpu.loadNum(bootParam(cpu, 'apReset')) === 0;
			const isAllowed = low32(cpu, 'rbx') >>> 24 === 0 && isFree(cpu, cpu.num('r13'));
			if (!isAllowed || isBlocked) {
				cpu.setReg('rax', BigInt(-(isAllowed ? EOPNOTSUPP : EINVAL)));
				pop(cpu, ...SAVED);
				return cpu.ret();
			}
			return cpu.jump(stopsFirst ? 'kexec_stop' : 'kexec_callback');
		},
		kexec_callback: (cpu) => {
			setStage(cpu, RebootStage.callback);
			cpu.setNum('r12', 0);
			return leaves(cpu) ? writeMigrationMsr(config, cpu, 0, 'kexec_reset') : cpu.jump('kexec_reset');
		},
		kexec_reset: (cpu) => {
			if (!resets || !reportsPageStatus(cpu) || cpu.num('r12') >= e820Count(cpu)) return cpu.jump('kexec_callbacks');
			return nextRamEntry(config, cpu) ? cpu.vmmcall('kexec_reset') : cpu.jump('kexec_reset');
		},
		kexec_callbacks: (cpu) => {
			if (stopsFirst) return cpu.jump('kexec_load');
			return haveSeen(cpu, RebootStage.callback) ? cpu.jump('kexec_stop') : cpu.hlt('kexec_callbacks');
		},
		kexec_stop: (cpu) => {
			// Before any of them can come back to it.
			cpu.storeU64(MemoryMap.apMailbox + apMailbox.offsetOf('magic'), 0n);
			setStage(cpu, RebootStage.stop);
			return cpu.jump('kexec_stopping');
		},
		kexec_stopping: (cpu) => {
			if (!haveSeen(cpu, RebootStage.stop)) return cpu.hlt('kexec_stopping');
			return cpu.jump(stopsFirst ? 'kexec_callback' : 'kexec_load');
		},
		kexec_load: (cpu) => {
			const to = cpu.num('r13');
			// The new kernel starts with these tables, and what it needs may be shared with the host just now.
			for (let at = to; at < to + KernelOffset.end; ) {
				at = changeAttributes(cpu, at, to + KernelOffset.end, true);
				if (at < 0) return cpu.jump('kernel_panic');
			}
			cpu.flushTlb();
			if (keepsRecord(cpu)) recordSharing(cpu, to, to + KernelOffset.end);
			const params = new Uint8Array(PAGE_SIZE);
			cpu.load(kernelBase(cpu), params);
			cpu.store(to, params);
			const kexecs = to + bootParams.offsetOf('kexecs');
			cpu.storeU32(kexecs, Math.max(0, cpu.loadU32(kexecs) - 1));
			cpu.setNum('rsi', to);
			return cpu.jump('kernel_entry');
		},

		cpu_idle: (cpu) => cpu.hlt('cpu_idle_check'),
		cpu_idle_check: (cpu) => {
			if (cpu.loadU32(dataAt(cpu, KernelData.rebootStage)) === RebootStage.none) return cpu.ret();
			push(cpu, 'rbx', 'r12');
			cpu.setNum('rax', 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('cpu_idle_reboot');
		},
		cpu_idle_reboot: (cpu) => {
			const index = low32(cpu, 'rbx') >>> 24;
			cpu.setNum('r12', index);
			if (index === 0) return cpu.jump('cpu_idle_return');
			const seen = cpu.loadU8(dataAt(cpu, KernelData.rebootSeen + index));
			if (seen < RebootStage.callback && leaves(cpu)) return writeMigrationMsr(config, cpu, 0, 'cpu_idle_seen');
			return cpu.jump('cpu_idle_seen');
		},
		cpu_idle_seen: (cpu) => {
			const seen = dataAt(cpu, KernelData.rebootSeen + cpu.num('r12'));
			const stage = cpu.loadU32(dataAt(cpu, KernelData.rebootStage));
			if (stage !== RebootStage.stop) {
				cpu.storeU8(seen, stage);
				return cpu.jump('cpu_idle_return');
			}
			const firmware = cpu.loadNum(bootParam(cpu, 'apReset'));
			// Last: from here on the memory of this kernel, page tables and stack, belongs to the next one.
			cpu.storeU8(seen, stage);
			return cpu.jump(firmware);
		},
		cpu_idle_return: (cpu) => {
			pop(cpu, 'rbx', 'r12');
			return cpu.ret();
		},
	};
}
