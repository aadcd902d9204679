import { PAGE_SIZE } from '@cvm/layout';
import type { KvmAbi } from '../abi/generation.js';
import type { Block, GuestCpu } from '../vcpu/program.js';
import { isSevActive, KernelData, pop, push, reportsPageStatus } from './kernel-data.js';
import { changeAttributes, lookupLeaf } from './page-tables.js';

/** Number of KVM_HC_PAGE_ENC_STATUS and KVM_HC_MAP_GPA_RANGE. */
const HC_PAGE_STATUS = 12;
/** KVM_MAP_GPA_RANGE_ENCRYPTED (Linux include/uapi/linux/kvm_para.h); the page-size code is always 0, 4 KiB. */
const MAP_GPA_RANGE_ENCRYPTED = 0x10;

/** Loads the registers of hypercall 12. */
export function pageStatusArguments(cpu: GuestCpu, abi: KvmAbi, gpa: number, pages: number, encrypted: boolean): void {
	cpu.setNum('rax', HC_PAGE_STATUS);
	cpu.setNum('rbx', gpa);
	cpu.setNum('rcx', pages);
	cpu.setNum('rdx', encrypted ? (abi === 'v12' ? 1 : MAP_GPA_RANGE_ENCRYPTED) : 0);
}

/**
 * `set_memory_decrypted`, `set_memory_encrypted`: RDI = VA, RSI = pages; RAX = 0 or a negative errno. Changes the C-bit in
 * the page tables, flushes all TLBs, then reports. Contents are not converted: they read differently afterwards.
 *
 * `notify_range_enc_status_changed`: RDI = VA, RSI = pages, RDX = encrypted; one hypercall per leaf, each with the whole
 * leaf's pages; a missing leaf ends the walk (patch v12 09/13; Linux 5.16 arch/x86/mm/mem_encrypt.c).
 *
 * Both keep RBX, RBP, R12 … R15, as the System V convention has it.
 */
export function setMemoryBlocks(abi: KvmAbi): Record<string, Block> {
	const enter = (encrypted: boolean): Block => {
		return (cpu) => {
			if (!isSevActive(cpu) || cpu.num('rsi') === 0) {
				cpu.setNum('rax', 0);
				return cpu.ret();
			}
			push(cpu, 'rbx', 'r12', 'r13', 'r14', 'r15');
			const va = cpu.num('rdi') - (cpu.num('rdi') % PAGE_SIZE);
			cpu.setNum('rbx', va);
			cpu.setNum('r12', va);
			cpu.setNum('r13', va + cpu.num('rsi') * PAGE_SIZE);
			cpu.setNum('r14', encrypted ? 1 : 0);
			return cpu.jump('cpa_lock');
		};
	};
	return {
		set_memory_decrypted: enter(false),
		set_memory_encrypted: enter(true),
		cpa_lock: (cpu) => cpu.jump(cpu.exchangeU32(KernelData.cpaLock, 1) === 0 ? 'cpa_change' : 'cpa_lock'),
		cpa_change: (cpu) => {
			const result = changeAttributes(cpu, cpu.num('r12'), cpu.num('r13'), cpu.num('r14') === 1);
			if (result < 0) {
				cpu.setReg('r15', BigInt(result));
				return cpu.jump('cpa_flush');
			}
			cpu.setNum('r12', result);
			if (result < cpu.num('r13')) return cpu.jump('cpa_change');
			cpu.setNum('r15', 0);
			return cpu.jump('cpa_flush');
		},
		cpa_flush: (cpu) => {
			cpu.flushTlb();
			cpu.exchangeU32(KernelData.cpaLock, 0);
			// As Linux: pages changed before the failure stay changed, and the host is not told.
			if (cpu.reg('r15') !== 0n) return cpu.jump('set_memory_return');
			cpu.setNum('rdi', cpu.num('rbx'));
			cpu.setNum('rsi', (cpu.num('r13') - cpu.num('rbx')) / PAGE_SIZE);
			cpu.setNum('rdx', cpu.num('r14'));
			return cpu.call('notify_range_enc_status_changed', 'set_memory_return');
		},
		set_memory_return: (cpu) => {
			cpu.setReg('rax', cpu.reg('r15'));
			pop(cpu, 'rbx', 'r12', 'r13', 'r14', 'r15');
			return cpu.ret();
		},
		notify_range_enc_status_changed: (cpu) => {
			if (!reportsPageStatus(cpu)) return cpu.ret();
			push(cpu, 'rbx', 'r12', 'r13', 'r14');
			cpu.setNum('r12', cpu.num('rdi'));
			cpu.setNum('r13', cpu.num('rdi') + cpu.num('rsi') * PAGE_SIZE);
			cpu.setNum('r14', cpu.num('rdx'));
			return cpu.jump('notify_leaf');
		},
		notify_leaf: (cpu) => {
			const va = cpu.num('r12');
			const leaf = va < cpu.num('r13') ? lookupLeaf(cpu, va) : undefined;
			if (leaf === undefined) {
				pop(cpu, 'rbx', 'r12', 'r13', 'r14');
				return cpu.ret();
			}
			cpu.setNum('r12', va - (va % leaf.size) + leaf.size);
			pageStatusArguments(cpu, abi, leaf.address, leaf.size / PAGE_SIZE, cpu.num('r14') === 1);
			return cpu.vmmcall('notify_leaf');
		},
	};
}
