import { MemoryMap } from '@cvm/kvm/guest';
import type { Block, CodeFragment } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { DECRYPTED, type FirmwareOptions, featureBit } from './options.js';
import { clearEncryptionMask } from './sec.js';
import { initialiseVariables, setLiveMigrationVariable } from './variables.js';
import { CODE_BASE, FirmwareMemory, isSevEs, setWorkWord, VARIABLE_FLASH, workWord } from './work-area.js';

const FIRST_LEAF = 0x40000000;
const LEAF_STEP = 0x100;
const END_OF_LEAVES = 0x40010000;
/** "KVMKVMKVM\0\0\0" in EBX, ECX, EDX. */
const SIGNATURE = [0x4b4d564bn, 0x564b4d56n, 0x4dn] as const;
const HYPERVISOR_PRESENT = 1n << 31n;
/** KVM_HC_PAGE_ENC_STATUS in v12, KVM_HC_MAP_GPA_RANGE upstream. */
const PAGE_STATUS = 12n;
const low32 = (value: bigint) => value & 0xffffffffn;

/**
 * Detection, page reports and EndOfDxe, after the OVMF live-migration patches v6 (edk2-devel, August 2021). R13 is the CPUID
 * leaf of the scan; `fw.report` takes the address in RDI and the number of 4 KiB pages in RSI.
 */
function dxeBlocks({ abi = 'upstream', setVariable = 'as-designed' }: FirmwareOptions): Record<string, Block> {
	return {
		'fw.dxe': (cpu) => {
			initialiseVariables(cpu);
			// Without SEV there is nothing to report, and AmdSevDxe returns before it registers for EndOfDxe.
			if (workWord(cpu, 'encryptionMask') === 0n) return cpu.jump('fw.boot');
			cpu.setNum('rax', 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('fw.dxe.hypervisor');
		},
		'fw.dxe.hypervisor': (cpu) => {
			if ((cpu.reg('rcx') & HYPERVISOR_PRESENT) === 0n) return cpu.jump('fw.dxe.ghcb');
			cpu.setNum('r13', FIRST_LEAF);
			return cpu.jump('fw.dxe.scan');
		},
		'fw.dxe.scan': (cpu) => {
			if (cpu.num('r13') >= END_OF_LEAVES) return cpu.jump('fw.dxe.ghcb');
			cpu.setNum('rax', cpu.num('r13'));
			cpu.setNum('rcx', 0);
			return cpu.cpuid('fw.dxe.signature');
		},
		'fw.dxe.signature': (cpu) => {
			const found = [cpu.reg('rbx'), cpu.reg('rcx'), cpu.reg('rdx')].map(low32);
			if (SIGNATURE.some((word, i) => found[i] !== word)) {
				cpu.setNum('r13', cpu.num('r13') + LEAF_STEP);
				return cpu.jump('fw.dxe.scan');
			}
			cpu.setNum('rax', cpu.num('r13') + 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('fw.dxe.features');
		},
		'fw.dxe.features': (cpu) => {
			setWorkWord(cpu, 'hypercall', (cpu.reg('rax') >> BigInt(featureBit(abi))) & 1n);
			return cpu.jump('fw.dxe.ghcb');
		},

		// SEC shared the GHCB before it could tell anybody.
		'fw.dxe.ghcb': (cpu) => {
			cpu.setNum('rdi', MemoryMap.ghcb);
			cpu.setNum('rsi', MemoryMap.ghcbPages);
			return cpu.call('fw.report', 'fw.dxe.ap_ghcbs');
		},
		'fw.dxe.ap_ghcbs': (cpu) => {
			if (!isSevEs(cpu)) return cpu.jump('fw.dxe.flash');
			cpu.setNum('rdi', MemoryMap.apGhcb);
			cpu.setNum('rsi', (MemoryMap.apGhcbEnd - MemoryMap.apGhcb) / PAGE_SIZE);
			return cpu.call('fw.report', 'fw.dxe.flash');
		},
		'fw.dxe.flash': (cpu) => {
			const pages = VARIABLE_FLASH.bytes / PAGE_SIZE;
			clearEncryptionMask(cpu, VARIABLE_FLASH.base, pages, FirmwareMemory.flashPageTable);
			cpu.flushTlb();
			cpu.setNum('rdi', VARIABLE_FLASH.base);
			cpu.setNum('rsi', pages);
			return cpu.call('fw.report', 'fw.dxe.end');
		},

		// SetMemoryEncDecHypercall3: after the tables changed and the TLB was flushed.
		'fw.report': (cpu) => {
			if (workWord(cpu, 'hypercall') === 0n) return cpu.ret();
			cpu.setReg('rax', PAGE_STATUS);
			cpu.setReg('rbx', cpu.reg('rdi') & ~0xfffn);
			cpu.setReg('rcx', cpu.reg('rsi'));
			cpu.setReg('rdx', DECRYPTED);
			return cpu.vmmcall('fw.report.result');
		},
		'fw.report.result': (cpu) => {
			// EFI_NO_MAPPING in OVMF. A host that did not take the report must not be told that it has them all.
			if (cpu.reg('rax') !== 0n) setWorkWord(cpu, 'refused', 1n);
			return cpu.ret();
		},

		'fw.dxe.end': (cpu) => {
			const vouch = workWord(cpu, 'hypercall') !== 0n && workWord(cpu, 'refused') === 0n;
			if (vouch && setVariable !== 'absent') setLiveMigrationVariable(cpu, setVariable === 'zero' ? 0 : 1);
			return cpu.jump(isSevEs(cpu) ? 'fw.mp' : 'fw.boot');
		},
	};
}

/** Finds out whether page reports are wanted, makes them, and says so in the UEFI variable. */
export const dxeFragment = (options: FirmwareOptions): CodeFragment => ({
	name: 'ovmf-dxe',
	base: CODE_BASE + 0x2000,
	blocks: dxeBlocks(options),
});
