/** A general-purpose register. */
export type RegName =
	| 'rax'
	| 'rcx'
	| 'rdx'
	| 'rbx'
	| 'rsp'
	| 'rbp'
	| 'rsi'
	| 'rdi'
	| 'r8'
	| 'r9'
	| 'r10'
	| 'r11'
	| 'r12'
	| 'r13'
	| 'r14'
	| 'r15';

declare const next: unique symbol;
/** What a block ends in. Only the terminators of {@link GuestCpu} make one. */
export type Next = { readonly [next]: true };

/**
 * A straight run of guest code that ends in one instruction that may exit or jump. It must not keep anything in
 * JavaScript from one call to the next: all guest state lives in guest memory and registers. A block that faults stops at
 * the faulting access; what it did before stays done.
 */
export type Block = (cpu: GuestCpu) => Next;

/** Where to go: a label of the program, or a virtual address that holds a block. */
export type Target = string | number;

/** Operand bytes of an I/O instruction. */
export type IoSize = 1 | 2 | 4;

/**
 * What guest code sees of its vCPU. Virtual addresses are numbers below 2^47, those of the upper half negative: −2^39 is
 * 0xFFFFFF8000000000. Code, stacks and tables are in the lower half. Memory goes through the page tables that CR3 names (with
 * CR0.PG off: identity, private if SEV is active), little-endian, at any alignment.
 * An exception goes through the IDT; without a gate for it the guest is shut down.
 */
export interface GuestCpu {
	reg(name: RegName): bigint;
	/** Keeps the low 64 bits. */
	setReg(name: RegName, value: bigint): void;
	/** A register whose value is below 2^53: addresses, counts. @throws RangeError if it is not */
	num(name: RegName): number;
	/** Sets a register to an integer below 2^53. @throws RangeError if it is not one */
	setNum(name: RegName, value: number): void;

	/** Control registers and EFER. Writing one flushes this vCPU's TLB. */
	cr0: bigint;
	cr3: bigint;
	cr4: bigint;
	efer: bigint;
	/** The address that the last page fault named; negative if it is one of the upper half. MOV to CR2 writes it. */
	cr2: number;
	/** Current privilege level: 0 … 3. */
	readonly cpl: number;
	/** GS.base: what WRGSBASE and RDGSBASE do. */
	gsBase: number;

	/** LGDT. PROJECT: nothing looks at descriptors. */
	lgdt(base: number, limit: number): void;
	/** LIDT. Gates are 16 bytes each in every mode of this model (APM vol. 2 §4.8.4). */
	lidt(base: number, limit: number): void;
	/** Loads TR with a 64-bit TSS: RSP0 at 4, IST1 … IST7 from 0x24 on. Only stack switches need it. */
	ltr(base: number, limit: number): void;
	/**
	 * PROJECT: what a handler cannot find out by decoding instructions, as blocks are not bytes. Valid until the next
	 * exception. `nrip` is the address after the instruction that faulted, or of the block itself if the fault was in its
	 * middle; the two infos are EXITINFO1 and EXITINFO2 as the processor gives them to a hypervisor (APM vol. 2 §15):
	 * IN, OUT: port << 16 | size << 4 | 1 for IN; RDMSR 0, WRMSR 1; an access without memory: error code and address.
	 */
	readonly nrip: number;
	readonly exitInfo1: bigint;
	readonly exitInfo2: bigint;
	/** XSAVE of all components: stores the 4096-byte area, with the processor's MXCSR_MASK. */
	xsave(va: number): void;
	/** XRSTOR of all components from a 4096-byte area in the standard form, as {@link xsave} stores it. */
	xrstor(va: number): void;

	load(va: number, out: Uint8Array): void;
	store(va: number, data: Uint8Array): void;
	loadU8(va: number): number;
	loadU16(va: number): number;
	loadU32(va: number): number;
	loadU64(va: number): bigint;
	/** A u64 below 2^53. @throws RangeError if it is not */
	loadNum(va: number): number;
	storeU8(va: number, value: number): void;
	storeU16(va: number, value: number): void;
	storeU32(va: number, value: number): void;
	storeU64(va: number, value: bigint): void;
	/** Stores a u64 below 2^53. @throws RangeError if it is not one */
	storeNum(va: number, value: number): void;
	/** Sets `length` bytes to one value, in bulk. */
	fill(va: number, length: number, byte: number): void;
	/** Adds to a byte, modulo 256, and returns the sum. Not atomic. */
	addU8(va: number, delta: number): number;
	/** LOCK XCHG: stores a u32 and returns what was there, in one step for every vCPU of the VM that does the same. */
	exchangeU32(va: number, value: number): number;
	/**
	 * RDRAND (APM vol. 3): 64 random bits of the processor's own generator, never of the host's choosing. PROJECT: it never
	 * fails, so there is no carry flag to look at.
	 */
	rdrand(): bigint;
	/** Flushes the TLBs of all vCPUs of the VM: when it returns, no vCPU uses an older translation. */
	flushTlb(): void;

	/** The address of a label: what LEA gives. @throws ProgramError if the program has no such label */
	address(label: string): number;

	jump(to: Target): Next;
	/** JMP FAR: loads CS with a flat 64-bit code segment of this selector (PROJECT: descriptors are not looked at) and jumps. */
	farJump(selector: number, to: Target): Next;
	/** Pushes the address of `returnTo` on the guest's stack (RSP) and jumps. */
	call(to: Target, returnTo: string): Next;
	/** Pops an address from the guest's stack and jumps there. */
	ret(): Next;
	/** Waits for the next tick of the 1 kHz timer. */
	hlt(next: Target): Next;
	/** In: EAX leaf, ECX subleaf. Out: EAX, EBX, ECX, EDX. */
	cpuid(next: Target): Next;
	/** In: ECX index. Out: EDX:EAX. */
	rdmsr(next: Target): Next;
	/** In: ECX index, EDX:EAX value. */
	wrmsr(next: Target): Next;
	/** In: RAX number, RBX, RCX, RDX, RSI arguments. Out: RAX. */
	vmmcall(next: Target): Next;
	/** Intel's opcode: #UD in an SEV guest, otherwise as `vmmcall` (KVM patches the instruction, unless told not to). */
	vmcall(next: Target): Next;
	/**
	 * Executes the three bytes at a virtual address: 0F 01 D9 is VMMCALL, all else #UD. 0F 01 C1 (VMCALL) becomes VMMCALL, in
	 * memory too, where KVM patches it: not in SEV guests, and not with the quirk off.
	 */
	hypercallAt(va: number, next: Target): Next;
	/** Writes the low `size` bytes of RAX to a port. */
	out(port: number, size: IoSize, next: Target): Next;
	/** Reads a port into the low `size` bytes of RAX; a read of 4 bytes clears the upper half. */
	in(port: number, size: IoSize, next: Target): Next;
	/** #UD; `next` is where a handler may go on. */
	ud2(next?: Target): Next;
	/** Pops RIP, CS, RFLAGS, RSP and SS: 8 bytes each. */
	iret(): Next;
	/** VMGEXIT: hands the GHCB to the hypervisor. In a guest without SEV-ES it is a VMMCALL. */
	vmgexit(next: Target): Next;
}

/** A run of guest code at a fixed place. */
export interface CodeFragment {
	readonly name: string;
	/** Guest virtual address of the first block, a multiple of 16. Label number i stands at `base + 16 * i`. */
	readonly base: number;
	/** Labels are global to the program. */
	readonly blocks: Readonly<Record<string, Block>>;
	/** Labels that stand elsewhere: the reset vector. */
	readonly at?: Readonly<Record<string, number>>;
}

/** Linked guest code: what a CPU would fetch. It has no state and is the same in every thread and on every host. */
export interface GuestProgram {
	/** @throws ProgramError if there is no such label */
	address(label: string): number;
	/** The block at an address, if one begins there. */
	block(address: number): Block | undefined;
	/** The label at an address, for traces. */
	label(address: number): string | undefined;
}

/**
 * A guest program that contradicts itself: a bug in its author's code. `unknown`: no such label. `unfinished`: a block that
 * returned without exactly one terminator. The others come from {@link link}.
 */
export class ProgramError extends Error {
	override readonly name = 'ProgramError';
	readonly code: 'duplicate' | 'overlap' | 'misplaced' | 'unknown' | 'unfinished';

	constructor(code: ProgramError['code'], message: string) {
		super(message);
		this.code = code;
	}
}

/** Bytes of address space that one block takes. */
export const BLOCK_BYTES = 16;

/**
 * Puts fragments together.
 *
 * @throws ProgramError `duplicate` label, `overlap` of two blocks, `misplaced` base (not a multiple of 16) or label in `at` (of 4)
 */
export function link(...fragments: readonly CodeFragment[]): GuestProgram {
	const addresses = new Map<string, number>();
	const blocks = new Map<number, Block>();
	const labels = new Map<number, string>();
	for (const fragment of fragments) {
		for (const [i, [label, block]] of Object.entries(fragment.blocks).entries()) {
			const at = fragment.at?.[label] ?? fragment.base + BLOCK_BYTES * i;
			const where = `${fragment.name}.${label}`;
			// Labels that were placed one by one may stand where a table of the firmware says, as the start of vCPUs ≠ 0 does.
			const step = fragment.at?.[label] === undefined ? BLOCK_BYTES : 4;
			if (!Number.isSafeInteger(at) || at < 0 || at % step !== 0) {
				throw new ProgramError('misplaced', `${where}: expected a multiple of ${step}, got 0x${at.toString(16)}`);
			}
			if (addresses.has(label)) throw new ProgramError('duplicate', `${where}: expected a new label, got a second one`);
			const other = labels.get(at);
			if (other !== undefined) {
				throw new ProgramError('overlap', `${where}: expected a free address, got that of ${other}`);
			}
			addresses.set(label, at);
			blocks.set(at, block);
			labels.set(at, label);
		}
	}
	return {
		address: (label) => {
			const at = addresses.get(label);
			if (at === undefined) throw new ProgramError('unknown', `label: expected one of the program, got ${label}`);
			return at;
		},
		block: (address) => blocks.get(address),
		label: (address) => labels.get(address),
	};
}
