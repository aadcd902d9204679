import { Register } from '../vm/vcpu-state.js';

/** struct kvm_segment: `limit` in bytes, the attributes as in a descriptor, each 0 or 1 but `type` and `dpl`. */
export interface KvmSegment {
	readonly base: bigint;
	readonly limit: number;
	readonly selector: number;
	readonly type: number;
	readonly present: number;
	readonly dpl: number;
	readonly db: number;
	readonly s: number;
	readonly l: number;
	readonly g: number;
	readonly avl: number;
	readonly unusable: number;
}

/** struct kvm_dtable: GDTR or IDTR. */
export interface KvmDtable {
	readonly base: bigint;
	readonly limit: number;
}

/** Segments of struct kvm_sregs and their base registers in the register file; the rest of each is in the next one. */
export const SEGMENTS = {
	cs: Register.csBase,
	ds: Register.dsBase,
	es: Register.esBase,
	fs: Register.fsBase,
	gs: Register.gsBase,
	ss: Register.ssBase,
	tr: Register.trBase,
	ldt: Register.ldtrBase,
} as const;
/** The name of a segment in struct kvm_sregs. */
export type SegmentName = keyof typeof SEGMENTS;

/** Tables of struct kvm_sregs. */
export const TABLES = { gdt: Register.gdtrBase, idt: Register.idtrBase } as const;

const DPL_SHIFT = 5;
const PRESENT = 1 << 7;
const BYTE_LIMIT = 0xfffff;

const bit = (value: number, at: number): number => (value & 1) << at;

/** The attributes of a segment as a VMCB and a save area pack them (APM vol. 2 §15.5.1): 12 bits. */
export function packAttributes(s: Omit<KvmSegment, 'base' | 'limit' | 'selector'>): number {
	const isPresent = s.unusable === 0 ? s.present : 0;
	const low = (s.type & 15) | bit(s.s, 4) | ((s.dpl & 3) << DPL_SHIFT) | bit(isPresent, 7);
	return low | bit(s.avl, 8) | bit(s.l, 9) | bit(s.db, 10) | bit(s.g, 11);
}

/** Reads a segment of the register file as svm_get_segment of Linux arch/x86/kvm/svm/svm.c shows it. */
export function readSegment(registers: BigUint64Array, name: SegmentName): KvmSegment {
	const at = SEGMENTS[name];
	const rest = registers[at + 1] ?? 0n;
	const attributes = Number((rest >> 16n) & 0xffffn);
	const limit = Number(rest >> 32n);
	const present = (attributes & PRESENT) === 0 ? 0 : 1;
	return {
		base: registers[at] ?? 0n,
		limit,
		selector: Number(rest & 0xffffn),
		type: attributes & 15,
		present,
		dpl: name === 'ss' ? Number((registers[Register.cpl] ?? 0n) & 3n) : (attributes >> DPL_SHIFT) & 3,
		db: (attributes >> 10) & 1,
		s: (attributes >> 4) & 1,
		l: (attributes >> 9) & 1,
		// AMD's processors do not keep the granularity bit of all segments; the limit says it.
		g: limit > BYTE_LIMIT ? 1 : 0,
		avl: (attributes >> 8) & 1,
		unusable: 1 - present,
	};
}

/** svm_set_segment. SS brings the privilege level with it. */
export function writeSegment(registers: BigUint64Array, name: SegmentName, segment: KvmSegment): void {
	const at = SEGMENTS[name];
	registers[at] = BigInt.asUintN(64, segment.base);
	registers[at + 1] =
		BigInt(segment.selector & 0xffff) | (BigInt(packAttributes(segment)) << 16n) | (BigInt(segment.limit >>> 0) << 32n);
	if (name === 'ss') registers[Register.cpl] = BigInt(segment.dpl & 3);
}
