import { MemoryMap } from '@cvm/kvm/guest';
import type { Block, CodeFragment, GuestCpu } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { memEncryptBlocks, pagesArgument } from './mem-encrypt.js';
import { type FirmwareOptions, featureBit } from './options.js';
import { sharedGhcbPages } from './sec.js';
import { initialiseVariables, setLiveMigrationVariable } from './variables.js';
import { CODE_BASE, isSevEs, setWorkWord, VARIABLE_FLASH, workWord } from './work-area.js';

const FIRST_LEAF = 0x40000000;
const LEAF_STEP = 0x100;
const END_OF_LEAVES = 0x40010000;
/** "KVMKVMKVM\0\0\0" in EBX, ECX, EDX. */
const SIGNATURE = [0x4b4d564bn, 0x564b4d56n, 0x4dn] as const;
const HYPERVISOR_PRESENT = 1n << 31n;
const low32 = (value: bigint) => value & 0xffffffffn;

/**
 * Detection, page reports and EndOfDxe, after the OVMF live-migration patches v6 (edk2-devel, August 2021), with the migration
 * handler's set-up between them. R13 is the CPUID leaf of the scan.
 */
function dxeBlocks(options: FirmwareOptions): Record<string, Block> {
	const { abi = 'upstream', setVariable: answer = 'as-designed', variableSetBy: setter = 'AmdSevDxe' } = options;
	const { helper = 'none', reports } = options;
	const setVariable = (cpu: GuestCpu): void => {
		const vouch =
			options.reportsPages !== false && workWord(cpu, 'hypercall') !== 0n && workWord(cpu, 'refused') === 0n;
		if (!vouch || answer === 'absent') return;
		setLiveMigrationVariable(cpu, answer === 'zero' ? 0 : 1, options.variableAttributes === 'volatile');
	};
	return {
		'fw.dxe': (cpu) => {
			initialiseVariables(cpu, options.variableStore === 'kept');
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
			const pages = reports?.ghcb === 'exact' ? sharedGhcbPages(options) : MemoryMap.ghcbPages;
			pagesArgument(cpu, MemoryMap.ghcb, MemoryMap.ghcb + pages * PAGE_SIZE);
			return cpu.call('fw.report', 'fw.dxe.ap_ghcbs');
		},
		'fw.dxe.ap_ghcbs': (cpu) => {
			if (!isSevEs(cpu)) return cpu.jump('fw.dxe.flash');
			pagesArgument(cpu, MemoryMap.apGhcb, MemoryMap.apGhcbEnd);
			return cpu.call('fw.report', 'fw.dxe.flash');
		},
		'fw.dxe.flash': (cpu) => {
			pagesArgument(cpu, VARIABLE_FLASH.base, VARIABLE_FLASH.base + VARIABLE_FLASH.bytes);
			return cpu.call('fw.enc_dec', 'fw.dxe.platform');
		},
		'fw.dxe.platform': (cpu) => {
			if (setter === 'PlatformDxe') setVariable(cpu);
			return cpu.jump(helper === 'none' ? 'fw.dxe.end' : 'fw.mh');
		},
		'fw.dxe.end': (cpu) => {
			if (setter === 'AmdSevDxe') setVariable(cpu);
			return cpu.jump(isSevEs(cpu) ? 'fw.mp' : 'fw.boot');
		},
		...memEncryptBlocks(options),
	};
}

/** Finds out whether page reports are wanted, makes them, and says so in the UEFI variable. */
export const dxeFragment = (options: FirmwareOptions): CodeFragment => ({
	name: 'ovmf-dxe',
	base: CODE_BASE + 0x2000,
	blocks: dxeBlocks(options),
});
