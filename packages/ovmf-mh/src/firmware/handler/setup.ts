import type { Block, CodeFragment, GuestCpu, Next } from '@cvm/kvm/vcpu';
import { HandlerAllocations } from '../../geometry.js';
import { CODE_BASE } from '../work-area.js';
import type { HandlerDefects } from './defects.js';
import { type HandlerPlaces, writeEntryPage } from './entry.js';
import { buildPageTables, rootOf } from './page-tables.js';
import { storeVariable } from './variables.js';

/** The C-bit that the posted handler believes in (K15). */
const POSTED_MASK = 1n << 47n;
const SEV_LEAF = 0x8000001f;
const END_OF_32_BIT = 2 ** 32;
/** What the set-up returns in RAX: EFI_SUCCESS or this. */
const EFI_UNSUPPORTED = 0x8000000000000003n;

/** What the set-up is made for. */
export interface SetupOptions {
	readonly defects: HandlerDefects;
	readonly places: HandlerPlaces;
	/** Label of the loop. */
	readonly main: string;
}

/**
 * SetupMigrationHandler of the posted driver, steps 2 to 4: stack, page tables, entry page. Step 1, whether there is to be a
 * handler, and step 5, the target's dead loop, are of the firmware around it.
 *
 * - `mh.setup`, called on the boot processor with RDI = end of RAM in bytes. Returns an EFI status in RAX; other registers but RSP
 *   and RBP are lost. It executes CPUID with K15 fixed.
 * - `mh.entry.install`, called with RDI = CR3, RSI = first RSP, RDX = where the loop is: step 4 alone.
 * - `mh.rfc.ap`, jumped to on an application processor in long mode, with RDI as for `mh.setup`: the form of March 2021, in which the
 *   handler makes its own page tables and goes over to them itself. It needs no stack.
 */
export function setupFragment({ defects, places, main }: SetupOptions): CodeFragment {
	const { pageTablePool, stack } = places;
	const root = rootOf(pageTablePool);
	const firstRsp = defects.stackPointer === 'asPosted' ? stack : stack + HandlerAllocations.stackBytes;
	const isTooHigh = defects.rootAddress === 'fixed' && root >= END_OF_32_BIT;

	/** R12 becomes the C-bit. */
	const findMask = (cpu: GuestCpu, prefix: string): Next => {
		cpu.setReg('r12', POSTED_MASK);
		if (defects.encryptionBit === 'asPosted') return cpu.jump(`${prefix}.tables`);
		cpu.setNum('rax', SEV_LEAF);
		cpu.setNum('rcx', 0);
		return cpu.cpuid(`${prefix}.mask`);
	};
	const maskFromCpuid = (cpu: GuestCpu, prefix: string): Next => {
		cpu.setReg('r12', 1n << (cpu.reg('rbx') & 0x3fn));
		return cpu.jump(`${prefix}.tables`);
	};
	/** Step 3; the answer is the root with the C-bit. */
	const makeTables = (cpu: GuestCpu): bigint => {
		const mask = cpu.reg('r12');
		const withMask = BigInt(root) | mask;
		buildPageTables(cpu, pageTablePool, mask);
		storeVariable(cpu, 'encryptionMask', mask);
		storeVariable(cpu, 'pageTables', withMask);
		storeVariable(cpu, 'stackBase', BigInt(stack));
		storeVariable(cpu, 'ramEnd', cpu.reg('rdi'));
		storeVariable(cpu, 'moved', 0n);
		return withMask;
	};

	const blocks = {
		'mh.setup': (cpu) => {
			if (isTooHigh) {
				cpu.setReg('rax', EFI_UNSUPPORTED);
				return cpu.ret();
			}
			return findMask(cpu, 'mh.setup');
		},
		'mh.setup.mask': (cpu) => maskFromCpuid(cpu, 'mh.setup'),
		'mh.setup.tables': (cpu) => {
			cpu.setReg('rdi', makeTables(cpu));
			cpu.setNum('rsi', firstRsp);
			cpu.setNum('rdx', cpu.address(main));
			return cpu.jump('mh.entry.install');
		},
		'mh.entry.install': (cpu) => {
			const [root, stackBase, mhBase] = [cpu.reg('rdi'), cpu.reg('rsi'), cpu.reg('rdx')];
			writeEntryPage(cpu, defects, { root, stackBase, mhBase });
			cpu.setReg('rax', 0n);
			return cpu.ret();
		},

		'mh.rfc.ap': (cpu) => findMask(cpu, 'mh.rfc.ap'),
		'mh.rfc.ap.mask': (cpu) => maskFromCpuid(cpu, 'mh.rfc.ap'),
		'mh.rfc.ap.tables': (cpu) => {
			cpu.cr3 = makeTables(cpu);
			cpu.setNum('rsp', firstRsp);
			return cpu.jump(main);
		},
	} satisfies Record<string, Block>;
	return { name: 'mh-setup', base: CODE_BASE + 0x8000, blocks };
}
