import type { VmState } from '../vm/state.js';
import { Register } from '../vm/vcpu-state.js';
import type { GuestMemory } from './guest-memory.js';
import { loadFlatCode } from './segments.js';
import { TripleFault } from './triple-fault.js';

const Vector = { UD: 6, GP: 13, PF: 14, VC: 29 } as const;
/** Exceptions that push an error code. */
const HAS_ERROR_CODE: ReadonlySet<number> = new Set([Vector.GP, Vector.PF, Vector.VC]);

const GATE_BYTES = 16;
const GATE_PRESENT = 0x80;
const GateType = { interrupt: 0xe, trap: 0xf } as const;
/** RFLAGS bits that delivery clears: TF, NT, RF, VM; and IF through an interrupt gate. */
const CLEARED = 0x100n | 0x4000n | 0x10000n | 0x20000n;
const IF = 0x200n;

/** Offsets in a 64-bit TSS. */
const TSS_RSP0 = 4;
const TSS_IST = 0x24;

/** Delivery of exceptions through the guest's IDT (APM vol. 2 §8.9). */
export interface Exceptions {
	/**
	 * Pushes SS, RSP, RFLAGS, CS, RIP and the error code, if the exception has one, and goes to the gate's handler. `nrip`
	 * is for the register of that name.
	 *
	 * PROJECT: gates are those of long mode in every mode; the RIP that is pushed is the linear address of the block that
	 * faulted; the IDT, the TSS and the stack are read and written at the guest's privilege.
	 *
	 * DEVIATION(APM vol. 2 §8.2.9): what goes wrong in delivery is a triple fault at once, without #DF.
	 *
	 * @throws TripleFault the one it was given, if the IDT ends before the gate, the gate is none, or delivery faults
	 */
	deliver(fault: TripleFault, nrip: number): void;
}

export function createExceptions(o: {
	readonly vm: VmState;
	readonly registers: BigUint64Array;
	readonly memory: GuestMemory;
	rip(): number;
	jump(to: number): void;
}): Exceptions {
	const { vm, registers, memory } = o;
	const get = (index: number): bigint => registers[index] ?? 0n;

	const vectorOf = ({ code }: TripleFault): number => {
		switch (code) {
			case 'ud':
				return Vector.UD;
			case 'gp':
				return Vector.GP;
			case 'translation':
				return Vector.PF;
			case 'vc':
				return Vector.VC;
			case 'memory':
				return vm.sevEs ? Vector.VC : -1;
			case 'code':
				return -1;
		}
	};

	/** The gate of a vector; `undefined` if it cannot be used. */
	const gateOf = (vector: number) => {
		const at = vector * GATE_BYTES;
		if (at + GATE_BYTES - 1 > Number(get(Register.idtrLimit) & 0xffffn)) return undefined;
		const base = Number(get(Register.idtrBase)) + at;
		const low = memory.loadU64(base);
		const high = memory.loadU64(base + 8);
		const attributes = Number((low >> 40n) & 0xffn);
		const type = attributes & 0x1f;
		const isGate = type === GateType.interrupt || type === GateType.trap;
		if ((attributes & GATE_PRESENT) === 0 || !isGate) return undefined;
		const offset = (low & 0xffffn) | ((low >> 32n) & 0xffff0000n) | ((high & 0xffffffffn) << 32n);
		return {
			offset: Number(offset),
			selector: (low >> 16n) & 0xffffn,
			ist: Number((low >> 32n) & 7n),
			isInterrupt: type === GateType.interrupt,
		};
	};

	/** The stack pointer of a handler that does not run on the stack of what it interrupts; `undefined` without a TSS. */
	const stackFromTss = (ist: number): number | undefined => {
		const at = ist === 0 ? TSS_RSP0 : TSS_IST + 8 * (ist - 1);
		if (at + 7 > Number(get(Register.tr) >> 32n)) return undefined;
		return Number(memory.loadU64(Number(get(Register.trBase)) + at));
	};

	const enter = (vector: number, errorCode: number): boolean => {
		const gate = gateOf(vector);
		if (gate === undefined) return false;
		const newCpl = gate.selector & 3n;
		const oldCpl = get(Register.cpl);
		if (newCpl > oldCpl) return false;
		const isInner = newCpl < oldCpl;
		const oldRsp = get(Register.rsp);
		const top = isInner || gate.ist !== 0 ? stackFromTss(gate.ist) : Number(oldRsp);
		if (top === undefined) return false;
		const hasCode = HAS_ERROR_CODE.has(vector);
		const rsp = top - (top % 16) - (hasCode ? 48 : 40);
		const frame = new BigUint64Array([
			...(hasCode ? [BigInt(errorCode)] : []),
			BigInt(o.rip()),
			get(Register.cs) & 0xffffn,
			get(Register.rflags),
			oldRsp,
			get(Register.ss) & 0xffffn,
		]);
		memory.store(rsp, new Uint8Array(frame.buffer));
		registers[Register.rsp] = BigInt(rsp);
		registers[Register.rflags] = get(Register.rflags) & ~(CLEARED | (gate.isInterrupt ? IF : 0n));
		registers[Register.cpl] = newCpl;
		if (isInner) registers[Register.ss] = newCpl;
		loadFlatCode(registers, gate.selector);
		o.jump(gate.offset);
		return true;
	};

	return {
		deliver: (fault, nrip) => {
			const vector = vectorOf(fault);
			if (vector < 0) throw fault;
			const { errorCode = 0, address, info1 = 0n, info2 = 0n } = fault.detail;
			try {
				if (!enter(vector, errorCode)) throw fault;
			} catch (error) {
				throw error instanceof TripleFault ? fault : error;
			}
			if (vector === Vector.PF && address !== undefined) registers[Register.cr2] = BigInt.asUintN(64, BigInt(address));
			registers[Register.nrip] = BigInt(nrip);
			registers[Register.exitInfo1] = info1;
			registers[Register.exitInfo2] = info2;
		},
	};
}
