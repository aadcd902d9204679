import { PAGE_SIZE } from '@cvm/layout';
import { Hypercall, MapGpaRange } from '../abi/hypercall.js';
import { isSince } from '../kernel.js';
import type { Block, GuestCpu } from '../vcpu/program.js';
import {
	dataAt,
	hasWarned,
	isSevActive,
	type KernelConfig,
	KernelData,
	KernelFlag,
	pop,
	push,
	reportsPageStatus,
	setFlag,
} from './kernel-data.js';
import { changeAttributes, lookupLeaf, splitLeaf, withEncryption } from './page-tables.js';
import { say } from './printk.js';
import { keepsRecord, recordSharing } from './shared-record.js';

/** Loads the registers of hypercall 12. Upstream's page-size code is always that of 4 KiB. */
export function pageStatusArguments(
	cpu: GuestCpu,
	{ kernel }: KernelConfig,
	gpa: number,
	pages: number,
	encrypted: boolean,
): void {
	cpu.setNum('rax', Hypercall.MAP_GPA_RANGE);
	cpu.setNum('rbx', gpa);
	cpu.setNum('rcx', pages);
	cpu.setNum('rdx', encrypted ? (kernel.abi === 'v12' ? 1 : MapGpaRange.ENCRYPTED) : 0);
}

/**
 * `set_memory_decrypted`, `set_memory_encrypted`: RDI = VA, RSI = pages; RAX = 0 or a negative errno. Changes the C-bit in
 * the page tables, flushes all TLBs, then reports. Contents are not converted: they read differently afterwards. Before
 * Linux 5.19 the host is told even if the change failed half-way. With a migration helper the guest's own record of what it shares
 * follows: before the host is told of shared pages, after it was told of private ones (see `keepsRecord`).
 *
 * `notify_range_enc_status_changed`: RDI = VA, RSI = pages, RDX = encrypted; one hypercall per leaf, each with the whole
 * leaf's pages; a missing leaf ends the walk, upstream with a warning, once (patch v12 09/13; Linux 5.16
 * arch/x86/mm/mem_encrypt.c). `enc_dec_hypercall` is the same with RSI = bytes.
 *
 * All keep RBX, RBP, R12 … R15, as the System V convention has it.
 */
export function setMemoryBlocks(config: KernelConfig): Record<string, Block> {
	const { kernel } = config;
	// "x86/mm: … notify only on success" came with x86_platform.guest in 5.19; 6.1 stands for it.
	const tellsOnFailure = !isSince(kernel, '6.1');
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
		cpa_lock: (cpu) => {
			const lock = dataAt(cpu, KernelData.cpaLock);
			return cpu.jump(cpu.exchangeU32(lock, 1) === 0 ? 'cpa_change' : 'cpa_lock');
		},
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
			const recordsNow = keepsRecord(cpu) && cpu.num('r14') === 0;
			if (recordsNow) recordSharing(cpu, cpu.num('rbx'), cpu.num('r13'));
			cpu.exchangeU32(dataAt(cpu, KernelData.cpaLock), 0);
			const told = recordsNow || !keepsRecord(cpu) ? 'set_memory_return' : 'record_lock';
			// Pages changed before the failure stay changed.
			if (cpu.reg('r15') !== 0n && !tellsOnFailure) return cpu.jump(told);
			cpu.setNum('rdi', cpu.num('rbx'));
			cpu.setNum('rsi', (cpu.num('r13') - cpu.num('rbx')) / PAGE_SIZE);
			cpu.setNum('rdx', cpu.num('r14'));
			return cpu.call('notify_range_enc_status_changed', told);
		},
		record_lock: (cpu) => {
			const lock = dataAt(cpu, KernelData.cpaLock);
			return cpu.jump(cpu.exchangeU32(lock, 1) === 0 ? 'record_private' : 'record_lock');
		},
		// From the tables as they are now: another vCPU may have shared one of the pages again.
		record_private: (cpu) => {
			recordSharing(cpu, cpu.num('rbx'), cpu.num('r13'));
			cpu.exchangeU32(dataAt(cpu, KernelData.cpaLock), 0);
			return cpu.jump('set_memory_return');
		},
		set_memory_return: (cpu) => {
			cpu.setReg('rax', cpu.reg('r15'));
			pop(cpu, 'rbx', 'r12', 'r13', 'r14', 'r15');
			return cpu.ret();
		},
		notify_range_enc_status_changed: (cpu) => {
			cpu.setNum('rsi', cpu.num('rsi') * PAGE_SIZE);
			return cpu.jump('enc_dec_hypercall');
		},
		enc_dec_hypercall: (cpu) => {
			if (!reportsPageStatus(cpu)) return cpu.ret();
			push(cpu, 'rbx', 'r12', 'r13', 'r14');
			cpu.setNum('r12', cpu.num('rdi'));
			cpu.setNum('r13', cpu.num('rdi') + cpu.num('rsi'));
			cpu.setNum('r14', cpu.num('rdx'));
			return cpu.jump('notify_leaf');
		},
		notify_leaf: (cpu) => {
			const va = cpu.num('r12');
			if (va >= cpu.num('r13')) return cpu.jump('notify_end');
			const leaf = lookupLeaf(cpu, va);
			if (leaf === undefined) {
				if (kernel.abi === 'v12' || hasWarned(cpu)) return cpu.jump('notify_end');
				setFlag(cpu, KernelFlag.warnedMissingLeaf);
				return say(config, cpu, 'missingLeaf', 'notify_end');
			}
			cpu.setNum('r12', va - (va % leaf.size) + leaf.size);
			pageStatusArguments(cpu, config, leaf.address, leaf.size / PAGE_SIZE, cpu.num('r14') === 1);
			return cpu.vmmcall('notify_leaf');
		},
		notify_end: (cpu) => {
			pop(cpu, 'rbx', 'r12', 'r13', 'r14');
			return cpu.ret();
		},
		...earlyBlocks(config),
	};
}

/**
 * `early_set_memory_decrypted`, `early_set_memory_encrypted`: RDI = VA, RSI = bytes; RAX = 0, or 1 if nothing is mapped
 * there. For the boot vCPU, before the others run and before page attributes have their lock: each leaf is converted in
 * place, so that what it holds reads the same afterwards; a large leaf that the range does not fill is split. Then the host
 * is told, as by `set_memory_…` (Linux 5.16 arch/x86/mm/mem_encrypt.c `early_set_memory_enc_dec`).
 *
 * Up to Linux 6.5 the walk that tells the host goes over whole pages from `VA`, not over the bytes: a range that ends in
 * its first page and does not start there also reports the page behind it, which stays private. Linux 6.6 took the unit
 * from pages to bytes.
 */
function earlyBlocks(config: KernelConfig): Record<string, Block> {
	// 6.10 stands for all from 6.6 on.
	const walksBytes = isSince(config.kernel, '6.10');
	const enter = (encrypted: boolean): Block => {
		return (cpu) => {
			if (!isSevActive(cpu)) {
				cpu.setNum('rax', 0);
				return cpu.ret();
			}
			push(cpu, 'rbx', 'r12', 'r13', 'r14');
			cpu.setNum('rbx', cpu.num('rdi'));
			cpu.setNum('r12', cpu.num('rdi'));
			cpu.setNum('r13', cpu.num('rdi') + cpu.num('rsi'));
			cpu.setNum('r14', encrypted ? 1 : 0);
			return cpu.jump('early_leaf');
		};
	};
	return {
		early_set_memory_decrypted: enter(false),
		early_set_memory_encrypted: enter(true),
		early_leaf: (cpu) => {
			const va = cpu.num('r12');
			const end = cpu.num('r13');
			if (va >= end) return cpu.jump('early_notify');
			const leaf = lookupLeaf(cpu, va);
			if (leaf === undefined) return cpu.jump('early_failed');
			const start = va - (va % leaf.size);
			if (leaf.size > PAGE_SIZE && (va !== start || end - va < leaf.size)) {
				if (!splitLeaf(cpu, va, leaf)) return cpu.jump('early_failed');
				cpu.flushTlb();
				return cpu.jump('early_leaf');
			}
			convert(cpu, start, leaf.entry, leaf.value, leaf.size, cpu.num('r14') === 1);
			if (keepsRecord(cpu)) recordSharing(cpu, start, start + leaf.size);
			cpu.setNum('r12', start + leaf.size);
			return cpu.jump('early_leaf');
		},
		early_notify: (cpu) => {
			const bytes = cpu.num('r13') - cpu.num('rbx');
			cpu.setNum('rdi', cpu.num('rbx'));
			cpu.setNum('rsi', walksBytes ? bytes : Math.ceil(bytes / PAGE_SIZE) * PAGE_SIZE);
			cpu.setNum('rdx', cpu.num('r14'));
			cpu.setNum('r12', 0);
			return cpu.call('enc_dec_hypercall', 'early_return');
		},
		early_failed: (cpu) => {
			cpu.setNum('r12', 1);
			return cpu.jump('early_return');
		},
		early_return: (cpu) => {
			cpu.setNum('rax', cpu.num('r12'));
			pop(cpu, 'rbx', 'r12', 'r13', 'r14');
			return cpu.ret();
		},
	};
}

/** Changes a leaf's C-bit and keeps what its page holds. */
function convert(cpu: GuestCpu, va: number, entry: number, value: bigint, size: number, encrypted: boolean): void {
	const changed = withEncryption(cpu, value, encrypted);
	if (changed === value) return;
	const contents = new Uint8Array(size);
	cpu.load(va, contents);
	cpu.storeU64(entry, changed);
	cpu.flushTlb();
	cpu.store(va, contents);
}
