import { Errno } from '../abi/errno.js';
import { Register } from '../vm/vcpu-state.js';
import {
	type KvmDtable,
	type KvmSegment,
	readSegment,
	SEGMENTS,
	type SegmentName,
	TABLES,
	writeSegment,
} from './segments.js';

const GENERAL = [
	'rax',
	'rcx',
	'rdx',
	'rbx',
	'rsp',
	'rbp',
	'rsi',
	'rdi',
	'r8',
	'r9',
	'r10',
	'r11',
	'r12',
	'r13',
	'r14',
	'r15',
	'rip',
	'rflags',
] as const;
const CONTROL = ['cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer', 'apicBase'] as const;
/** What KVM knows of a protected vCPU without the save area: its own traps tell it (Linux 5.11 svm.c). */
const TRAPPED: ReadonlySet<string> = new Set(['cr0', 'cr4', 'cr8', 'efer', 'apicBase']);

/** struct kvm_regs. */
export type KvmRegs = Readonly<Record<(typeof GENERAL)[number], bigint>>;

/**
 * struct kvm_sregs. `interruptBitmap` is zeros: with an in-kernel interrupt controller nothing waits there, and without one
 * nothing is ever queued here.
 */
export type KvmSregs = Readonly<Record<(typeof CONTROL)[number], bigint>> &
	Readonly<Record<SegmentName, KvmSegment>> &
	Readonly<Record<keyof typeof TABLES, KvmDtable>> & {
		readonly interruptBitmap: readonly bigint[];
		/** PROJECT: the current privilege level, that is `ss.dpl`. Setting it sets that. */
		readonly cpl: bigint;
	};

const Cr0 = { PG: 1n << 31n } as const;
const Cr4 = { PAE: 1n << 5n } as const;
const Efer = { LME: 1n << 8n, LMA: 1n << 10n } as const;
/** Bits of APIC_BASE that are none: all but BSP, x2APIC, enable and a 52-bit address. */
const APIC_BASE_RESERVED = 0xfff00000000002ffn;

const names = <T extends object>(table: T): readonly (keyof T)[] => Object.keys(table) as (keyof T)[];

/** KVM_GET_REGS. */
export const readRegs = (registers: BigUint64Array): KvmRegs =>
	Object.fromEntries(GENERAL.map((name) => [name, registers[Register[name]] ?? 0n])) as KvmRegs;

/** KVM_SET_REGS; registers that are left out stay. */
export function writeRegs(registers: BigUint64Array, regs: Partial<KvmRegs>): number {
	for (const name of GENERAL) {
		const value = regs[name];
		if (value !== undefined) registers[Register[name]] = value;
	}
	return 0;
}

/** KVM_GET_SREGS. */
export const readSregs = (registers: BigUint64Array): KvmSregs => {
	const control = CONTROL.map((name) => [name, registers[Register[name]] ?? 0n]);
	const segments = names(SEGMENTS).map((name) => [name, readSegment(registers, name)]);
	const tables = names(TABLES).map((name) => [
		name,
		{ base: registers[TABLES[name]] ?? 0n, limit: Number(registers[TABLES[name] + 1] ?? 0n) },
	]);
	const rest = { interruptBitmap: [0n, 0n, 0n, 0n], cpl: registers[Register.cpl] ?? 0n };
	return { ...Object.fromEntries([...control, ...segments, ...tables]), ...rest } as KvmSregs;
};

const NO_SEGMENT: KvmSegment = {
	base: 0n,
	limit: 0,
	selector: 0,
	type: 0,
	present: 0,
	dpl: 0,
	db: 0,
	s: 0,
	l: 0,
	g: 0,
	avl: 0,
	unusable: 0,
};

/** KVM_GET_SREGS of a protected vCPU: what its traps told, all else zero. */
export const readHiddenSregs = (registers: BigUint64Array): KvmSregs => {
	const control = CONTROL.map((name) => [name, TRAPPED.has(name) ? (registers[Register[name]] ?? 0n) : 0n]);
	const segments = names(SEGMENTS).map((name) => [name, NO_SEGMENT]);
	const tables = names(TABLES).map((name) => [name, { base: 0n, limit: 0 }]);
	const rest = { interruptBitmap: [0n, 0n, 0n, 0n], cpl: 0n };
	return { ...Object.fromEntries([...control, ...segments, ...tables]), ...rest } as KvmSregs;
};

/** kvm_is_valid_sregs of Linux arch/x86/kvm/x86.c, and the reserved bits of APIC_BASE. */
function isValid({ cr0, cr4, efer, cs, apicBase }: KvmSregs): boolean {
	if ((apicBase & APIC_BASE_RESERVED) !== 0n) return false;
	const isLong = (efer & Efer.LME) !== 0n && (cr0 & Cr0.PG) !== 0n;
	if (isLong) return (cr4 & Cr4.PAE) !== 0n && (efer & Efer.LMA) !== 0n;
	return (efer & Efer.LMA) === 0n && cs.l === 0;
}

/** KVM_SET_SREGS; what is left out stays. −EINVAL, and nothing is set, for a mode that no processor can be in. */
export function writeSregs(registers: BigUint64Array, sregs: Partial<KvmSregs>): number {
	const merged = { ...readSregs(registers), ...sregs };
	if (!isValid(merged)) return -Errno.EINVAL;
	for (const name of CONTROL) registers[Register[name]] = BigInt.asUintN(64, merged[name]);
	for (const name of names(TABLES)) {
		registers[TABLES[name]] = BigInt.asUintN(64, merged[name].base);
		registers[TABLES[name] + 1] = BigInt(merged[name].limit & 0xffff);
	}
	// Only those that were given: a segment of the reset state has no bits that say "present", and stays as it is.
	for (const name of names(SEGMENTS)) {
		const segment = sregs[name];
		if (segment !== undefined) writeSegment(registers, name, segment);
	}
	if (sregs.cpl !== undefined) writeCpl(registers, sregs.cpl);
	return 0;
}

function writeCpl(registers: BigUint64Array, cpl: bigint): void {
	const dpl = 3n << 21n;
	registers[Register.cpl] = cpl & 3n;
	registers[Register.ss] = ((registers[Register.ss] ?? 0n) & ~dpl) | ((cpl & 3n) << 21n);
}

/** KVM_SET_SREGS of a protected vCPU: the APIC's base still is the host's. */
export function writeHiddenSregs(registers: BigUint64Array, sregs: Partial<KvmSregs>): number {
	const merged = { ...readHiddenSregs(registers), ...sregs };
	if (!isValid(merged)) return -Errno.EINVAL;
	registers[Register.apicBase] = merged.apicBase;
	return 0;
}
