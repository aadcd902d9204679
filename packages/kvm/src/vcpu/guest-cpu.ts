import type { RandomSource } from '@cvm/crypto';
import { MXCSR_MASK, MXCSR_MASK_AT } from '../registers/fpu.js';
import { Register, type RegisterName } from '../vm/vcpu-state.js';
import type { GuestMemory } from './guest-memory.js';
import { writeCr0, writeEfer } from './msrs.js';
import { type GuestCpu, type GuestProgram, type IoSize, type Next, ProgramError, type Target } from './program.js';
import { loadFlatCode, RFLAGS_ONE } from './segments.js';

/** The instruction that a block ended in. */
export const Ending = {
	none: 0,
	jump: 1,
	hlt: 2,
	cpuid: 3,
	rdmsr: 4,
	wrmsr: 5,
	vmmcall: 6,
	vmcall: 7,
	out: 8,
	in: 9,
	ud2: 10,
	vmgexit: 11,
} as const;
export type Ending = (typeof Ending)[keyof typeof Ending];

/** A {@link GuestCpu} and, for the run loop, how its last block ended. */
export interface BlockCpu extends GuestCpu {
	readonly ending: Ending;
	/** RIP after the instruction, or where to jump. */
	readonly to: number;
	readonly port: number;
	readonly ioSize: IoSize;
	/** Before each block. */
	begin(): void;
}

const VMMCALL = Uint8Array.of(0x0f, 0x01, 0xd9);
const VMCALL = Uint8Array.of(0x0f, 0x01, 0xc1);

const NEXT = {} as Next;
/** Present, busy 64-bit TSS, as a save area packs attributes; << 16. */
const BUSY_TSS = 0x8bn << 16n;
/** Flags that IRET takes from its frame at CPL 0, but VM. */
const IRET_FLAGS = 0x3c7fd5n;
const SAFE_HIGH = 0x1fffff;

export interface GuestCpuParts {
	readonly registers: BigUint64Array;
	readonly memory: GuestMemory;
	readonly program: GuestProgram;
	/** `VmState.fixesHypercalls`. */
	fixesHypercalls(): boolean;
	/** The XSAVE area. */
	readonly xsave: Uint8Array;
	/** What RDRAND draws from. */
	readonly random: RandomSource;
	/** This vCPU's TLB. */
	flushOwnTlb(): void;
	/** Those of all vCPUs. */
	flushAllTlbs(): void;
}

export function createGuestCpu(parts: GuestCpuParts): BlockCpu {
	const { registers, memory, program, flushOwnTlb, flushAllTlbs } = parts;
	// Halves of the registers, low half first, for values that fit a number.
	const halves = new Uint32Array(registers.buffer, registers.byteOffset, registers.length * 2);
	const opcode = new Uint8Array(3);
	const drawn = new BigUint64Array(1);
	const drawnBytes = new Uint8Array(drawn.buffer);
	let ending: Ending = Ending.none;
	let to = 0;
	let port = 0;
	let ioSize: IoSize = 1;

	const number = (what: string, low: number, high: number): number => {
		if (high > SAFE_HIGH) throw new RangeError(`${what}: expected a value below 2^53, got a larger one`);
		return high * 2 ** 32 + low;
	};
	const checked = (what: string, value: number): number => {
		if (!Number.isSafeInteger(value) || value < 0) {
			throw new RangeError(`${what}: expected an integer from 0 to 2^53 - 1, got ${value}`);
		}
		return value;
	};
	const num = (name: RegisterName): number => {
		const at = 2 * Register[name];
		return number(name, halves[at] ?? 0, halves[at + 1] ?? 0);
	};
	/** A register that holds an address: of the upper half as a negative number. */
	const signed = (name: RegisterName): number => {
		const at = 2 * Register[name];
		return ((halves[at + 1] ?? 0) | 0) * 2 ** 32 + (halves[at] ?? 0);
	};
	const setNum = (name: RegisterName, value: number): void => {
		const at = 2 * Register[name];
		halves[at] = checked(name, value);
		halves[at + 1] = value / 2 ** 32;
	};
	const address = (target: Target): number => (typeof target === 'number' ? target : program.address(target));
	const end = (kind: Ending, target: Target): Next => {
		if (ending !== Ending.none) {
			throw new ProgramError('unfinished', 'block: expected one terminator, got a second one');
		}
		// First, so that an unknown label leaves the block unfinished.
		to = address(target);
		ending = kind;
		return NEXT;
	};
	const endIo = (kind: Ending, toPort: number, size: IoSize, target: Target): Next => {
		port = toPort;
		ioSize = size;
		return end(kind, target);
	};
	const loadNum = (va: number): number => {
		const low = memory.loadInteger(va, 4);
		return number(`u64 at VA 0x${va.toString(16)}`, low, memory.loadInteger(va + 4, 4));
	};

	return {
		get ending() {
			return ending;
		},
		get to() {
			return to;
		},
		get port() {
			return port;
		},
		get ioSize() {
			return ioSize;
		},
		begin: () => {
			ending = Ending.none;
		},

		reg: (name) => registers[Register[name]] ?? 0n,
		setReg: (name, value) => {
			registers[Register[name]] = value;
		},
		num,
		setNum,

		get cr0() {
			return registers[Register.cr0] ?? 0n;
		},
		set cr0(value) {
			writeCr0(registers, value);
			flushOwnTlb();
		},
		get cr3() {
			return registers[Register.cr3] ?? 0n;
		},
		set cr3(value) {
			registers[Register.cr3] = value;
			flushOwnTlb();
		},
		get cr4() {
			return registers[Register.cr4] ?? 0n;
		},
		set cr4(value) {
			registers[Register.cr4] = value;
			flushOwnTlb();
		},
		get efer() {
			return registers[Register.efer] ?? 0n;
		},
		set efer(value) {
			writeEfer(registers, value);
			flushOwnTlb();
		},
		get cr2() {
			return signed('cr2');
		},
		set cr2(value) {
			registers[Register.cr2] = BigInt.asUintN(64, BigInt(value));
		},
		get cpl() {
			return num('cpl');
		},
		get gsBase() {
			return num('gsBase');
		},
		set gsBase(value) {
			setNum('gsBase', value);
		},
		lgdt: (base, limit) => {
			setNum('gdtrBase', base);
			registers[Register.gdtrLimit] = BigInt(limit & 0xffff);
		},
		lidt: (base, limit) => {
			setNum('idtrBase', base);
			registers[Register.idtrLimit] = BigInt(limit & 0xffff);
		},
		ltr: (base, limit) => {
			setNum('trBase', base);
			registers[Register.tr] = (BigInt(limit) << 32n) | BUSY_TSS;
		},
		get nrip() {
			return num('nrip');
		},
		get exitInfo1() {
			return registers[Register.exitInfo1] ?? 0n;
		},
		get exitInfo2() {
			return registers[Register.exitInfo2] ?? 0n;
		},
		xsave: (va) => {
			const image = parts.xsave.slice();
			new DataView(image.buffer).setUint32(MXCSR_MASK_AT, MXCSR_MASK, true);
			memory.store(va, image);
		},

		xrstor: (va) => {
			const image = new Uint8Array(parts.xsave.length);
			memory.load(va, image);
			// Not part of the state.
			new DataView(image.buffer).setUint32(MXCSR_MASK_AT, 0, true);
			parts.xsave.set(image);
		},

		load: memory.load,
		store: memory.store,
		loadU8: (va) => memory.loadInteger(va, 1),
		loadU16: (va) => memory.loadInteger(va, 2),
		loadU32: (va) => memory.loadInteger(va, 4),
		loadU64: memory.loadU64,
		loadNum,
		storeU8: (va, value) => memory.storeInteger(va, 1, value),
		storeU16: (va, value) => memory.storeInteger(va, 2, value),
		storeU32: (va, value) => memory.storeInteger(va, 4, value),
		storeU64: memory.storeU64,
		storeNum: (va, value) => memory.storeU64(va, BigInt(checked('u64', value))),
		fill: memory.fill,
		addU8: (va, delta) => {
			const sum = (memory.loadInteger(va, 1) + delta) & 0xff;
			memory.storeInteger(va, 1, sum);
			return sum;
		},
		exchangeU32: memory.exchangeU32,
		rdrand: () => {
			parts.random.fill(drawnBytes);
			const value = drawn[0] ?? 0n;
			drawn[0] = 0n;
			return value;
		},
		flushTlb: flushAllTlbs,
		address: program.address,

		jump: (target) => end(Ending.jump, target),
		farJump: (selector, target) => {
			const ended = end(Ending.jump, target);
			loadFlatCode(registers, BigInt(selector));
			return ended;
		},
		call: (target, returnTo) => {
			const rsp = num('rsp') - 8;
			memory.storeU64(rsp, BigInt(program.address(returnTo)));
			setNum('rsp', rsp);
			return end(Ending.jump, target);
		},
		ret: () => {
			const rsp = num('rsp');
			const target = loadNum(rsp);
			setNum('rsp', rsp + 8);
			return end(Ending.jump, target);
		},
		hlt: (next) => end(Ending.hlt, next),
		cpuid: (next) => end(Ending.cpuid, next),
		rdmsr: (next) => end(Ending.rdmsr, next),
		wrmsr: (next) => end(Ending.wrmsr, next),
		vmmcall: (next) => end(Ending.vmmcall, next),
		vmcall: (next) => end(Ending.vmcall, next),
		hypercallAt: (va, next) => {
			memory.load(va, opcode);
			const isVmcall = opcode.every((byte, i) => byte === VMCALL[i]);
			// KVM intercepts the #UD, decodes the text and writes it anew through the guest's own page tables.
			if (isVmcall && parts.fixesHypercalls()) memory.store(va, VMMCALL);
			else if (isVmcall || !opcode.every((byte, i) => byte === VMMCALL[i])) return end(Ending.ud2, next);
			return end(Ending.vmmcall, next);
		},
		out: (toPort, size, next) => endIo(Ending.out, toPort, size, next),
		in: (fromPort, size, next) => endIo(Ending.in, fromPort, size, next),
		ud2: (next = 0) => end(Ending.ud2, next),
		vmgexit: (next) => end(Ending.vmgexit, next),
		iret: () => {
			const rsp = num('rsp');
			const target = loadNum(rsp);
			const cs = memory.loadU64(rsp + 8);
			const flags = memory.loadU64(rsp + 16);
			const newRsp = memory.loadU64(rsp + 24);
			const ss = memory.loadU64(rsp + 32);
			registers[Register.rsp] = newRsp;
			registers[Register.rflags] = (flags & IRET_FLAGS) | RFLAGS_ONE;
			registers[Register.cpl] = cs & 3n;
			loadFlatCode(registers, cs);
			registers[Register.ss] = ((registers[Register.ss] ?? 0n) & ~0xffffn) | (ss & 0xffffn);
			return end(Ending.jump, target);
		},
	};
}
