import { expect } from 'vitest';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import type { Block } from '../src/vcpu/index.js';
import { createRig, programOf, type Rig } from './guest-rig.js';

const MIB = 1 << 20;
/** Where CR3 points. */
export const TABLES = 0x10000;
/** Milan's C-bit, and the bits of a page-table entry. */
export const C = 1n << 51n;
export const P = 1n;
export const W = 2n;

/** A u64 as it stands in memory. */
export function le64(value: bigint): Uint8Array {
	const out = new Uint8Array(8);
	new DataView(out.buffer).setBigUint64(0, value, true);
	return out;
}

/** A vCPU in long mode that runs `block`. Tables at 0x10000 (PML4), 0x11000 (PDPT), 0x12000 (PD), 0x13000 (PT of the first 2 MiB, one to one, private). */
export function mapped(o: { sev?: boolean; links?: bigint; block: Block; second?: Block }): Rig {
	const end: Block = (cpu) => cpu.out(0xf4, 1, 'end');
	const program = programOf({ reset: o.block, second: o.second ?? end, end });
	const rig = createRig({ ramBytes: 8 * MIB, sev: o.sev !== false, program });
	const c = o.sev === false ? 0n : C;
	const links = P | W | (o.links ?? c);
	// Memory that was never written through the key reads as noise.
	rig.poke(TABLES, new Uint8Array(0x8000));
	rig.poke(TABLES, le64(0x11000n | links));
	rig.poke(0x11000, le64(0x12000n | links));
	rig.poke(0x12000, le64(0x13000n | links));
	for (let i = 0; i < 512; i++) rig.poke(0x13000 + 8 * i, le64(BigInt(i * 4096) | P | W | c));
	rig.setRegister('cr3', BigInt(TABLES) | c);
	rig.setRegister('cr4', 0x20n);
	rig.setRegister('efer', 0x500n);
	rig.setRegister('cr0', 0x80000011n);
	return rig;
}

/** Address of a page's entry in the page table. */
export const pte = (page: number) => 0x13000 + 8 * page;

/** Runs to the end and gives back what the guest saw; the blocks put it in R8. */
export function run(rig: Rig): number {
	rig.vcpus[0]?.run();
	expect(rig.vcpus[0]?.fault).toBeUndefined();
	return Number(rig.register('r8'));
}

/** Runs into a triple fault and gives back which. */
export function faultOf(rig: Rig): string {
	expect(rig.vcpus[0]?.run()).toBe(0);
	expect(rig.view().getUint32(RunOffset.exitReason, true)).toBe(ExitReason.SHUTDOWN);
	return `${rig.vcpus[0]?.fault?.code}: ${rig.vcpus[0]?.fault?.message}`;
}
