import type { Block, CodeFragment, GuestCpu } from '@cvm/kvm/vcpu';
import { HandlerAllocations, PublishedGeometry } from '../../geometry.js';
import type { HandlerDefects } from './defects.js';
import { CODE64, dxeGdt, EntryOffset, entryAddresses, entryStub32, entryStub64 } from './entry-page.js';

const { entry } = PublishedGeometry;
const CR0_PG = 1n << 31n;
const EFER_LME = 1n << 8n;
const LOWER_HALF_END = 1n << 47n;
const MSR_EFER = 0xc0000080;
const at = (field: 'cr3' | 'cr3High' | 'stackBase' | 'mhBase'): number =>
	entry + EntryOffset.addresses + entryAddresses.offsetOf(field);

/** Where a handler has its memory; all addresses are guest-physical. */
export interface HandlerPlaces {
	/** 11 pages, 2 MiB aligned as posted. */
	readonly pageTablePool: number;
	/** 4 pages, 2 MiB aligned as posted. */
	readonly stack: number;
}

/** Where our firmware puts it. */
export const DEFAULT_PLACES: HandlerPlaces = {
	pageTablePool: HandlerAllocations.pageTablePool,
	stack: HandlerAllocations.stack,
};

/**
 * The fourth step of SetupMigrationHandler: stubs, GDT and addresses.
 *
 * @param root CR3, of which as posted 32 bits are stored
 */
export function writeEntryPage(
	cpu: GuestCpu,
	{ gdtLength, rootAddress }: HandlerDefects,
	{ root, stackBase, mhBase }: { readonly root: bigint; readonly stackBase: bigint; readonly mhBase: bigint },
): void {
	cpu.store(entry + EntryOffset.code32, entryStub32());
	cpu.store(entry + EntryOffset.code64, entryStub64());
	const gdt = dxeGdt();
	cpu.store(entry + EntryOffset.gdt, gdtLength === 'asPosted' ? gdt.subarray(0, gdt.length - 1) : gdt);
	cpu.storeU32(at('cr3'), Number(root & 0xffffffffn));
	if (rootAddress === 'fixed') cpu.storeU32(at('cr3High'), Number(root >> 32n));
	cpu.storeU64(at('stackBase'), stackBase);
	cpu.storeU64(at('mhBase'), mhBase);
}

/** Whether an address can be that of code or of a stack; with another one the processor faults sooner or later. */
export const isUsable = (address: bigint): boolean => address < LOWER_HALF_END;

/** Whether the text at an address is still that of a stub. */
function isText(cpu: GuestCpu, address: number, text: Uint8Array): boolean {
	const found = new Uint8Array(text.length);
	cpu.load(address, found);
	return text.every((byte, i) => byte === found[i]);
}

const blocks = {
	/**
	 * Where the VMM starts the mirror vCPU: protected mode, paging off, so that all accesses are private. PROJECT: if the page
	 * does not hold the stub, what it holds is taken for an invalid instruction.
	 */
	'mh.entry32': (cpu) => {
		if (!isText(cpu, entry + EntryOffset.code32, entryStub32())) return cpu.ud2();
		cpu.cr3 = BigInt(cpu.loadU32(at('cr3')));
		cpu.setNum('rcx', MSR_EFER);
		cpu.efer |= EFER_LME;
		cpu.setReg('rdx', 0n);
		cpu.cr0 |= CR0_PG;
		cpu.setReg('rax', cpu.cr0);
		return cpu.farJump(CODE64, 'mh.entry64');
	},
	'mh.entry64': (cpu) => {
		if (!isText(cpu, entry + EntryOffset.code64, entryStub64())) return cpu.ud2();
		const [stackBase, mhBase] = [cpu.loadU64(at('stackBase')), cpu.loadU64(at('mhBase'))];
		cpu.setReg('rsp', stackBase);
		return isUsable(stackBase) && isUsable(mhBase) ? cpu.jump(Number(mhBase)) : cpu.ud2();
	},
} satisfies Record<string, Block>;

/** The stubs where the VMM finds them. */
export const entryFragment: CodeFragment = {
	name: 'mh-entry',
	base: entry,
	at: { 'mh.entry32': entry + EntryOffset.code32, 'mh.entry64': entry + EntryOffset.code64 },
	blocks,
};
