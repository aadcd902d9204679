import { GHCB_BUFFER, GHCB_SCRATCH_LIMIT, GhcbError } from '../../abi/ghcb.js';
import { isSince } from '../../kernel.js';
import { PendingKind, Register } from '../../vm/vcpu-state.js';
import { type CoreParts, EXIT, GO_ON } from '../core.js';
import type { GhcbPage, PlainMemory } from './page.js';

const EINVAL = 22;
const INT_MAX = 0x7fffffffn;
const MMIO_PART = 8;
const PIO_PAGE = 4096;
const OPERAND_SIZES: readonly number[] = [1, 2, 4];

/** An answer with SW_EXITINFO1 = 2. */
export type Malformed = (error: GhcbError) => number;

/** MMIO and string I/O: exits in parts, whose data are in a scratch area of the guest's choice (GHCB standard §4.1). */
export interface DeviceAccess {
	mmio(isWrite: boolean, address: bigint, length: bigint, scratch: bigint): number;
	stringIo(isIn: boolean, port: number, size: number, count: bigint, scratch: bigint): number;
	/** Takes the VMM's answer to one part and goes on to the next. */
	complete(kind: number): number;
}

export function createDeviceAccess(
	parts: CoreParts,
	page: GhcbPage,
	memory: PlainMemory,
	malformed: Malformed,
): DeviceAccess {
	const { vm, registers, run } = parts;
	/** What the guest had in a scratch area outside of the GHCB when it asked: it may write there meanwhile. */
	let copy: Uint8Array | undefined;
	const part = new Uint8Array(PIO_PAGE);

	const badScratch = (): number => (isSince(vm.kernel, '5.16') ? malformed(GhcbError.INVALID_SCRATCH) : -EINVAL);

	/** Whether the scratch area may be used; notes it in the registers, and its contents. */
	const openScratch = (begin: bigint, length: bigint): boolean => {
		copy = undefined;
		const end = BigInt.asUintN(64, begin + length);
		if (begin === 0n || end < begin) return false;
		if ((begin & ~0xfffn) === page.gpa) {
			if (begin < page.gpa + BigInt(GHCB_BUFFER.begin) || end > page.gpa + BigInt(GHCB_BUFFER.end)) return false;
		} else {
			if (length > BigInt(GHCB_SCRATCH_LIMIT)) return false;
			copy = new Uint8Array(Number(length));
			if (!memory.read(begin, copy)) return false;
		}
		registers[Register.scratchGpa] = begin;
		registers[Register.scratchLength] = length;
		return true;
	};
	const left = (): number => Number(registers[Register.scratchLength] ?? 0n);
	const scratchGpa = (): bigint => registers[Register.scratchGpa] ?? 0n;

	/** The next bytes of a write. */
	const take = (length: number): Uint8Array => {
		const out = part.subarray(0, length);
		if (copy !== undefined) out.set(copy.subarray(copy.length - left(), copy.length - left() + length));
		else if (!memory.read(scratchGpa(), out)) out.fill(0);
		return out;
	};
	const advance = (length: number): void => {
		registers[Register.scratchGpa] = scratchGpa() + BigInt(length);
		registers[Register.scratchLength] = BigInt(left() - length);
	};
	const wait = (kind: number): number => {
		registers[Register.pendingKind] = BigInt(kind);
		return EXIT;
	};

	const mmioPart = (kind: number): number => {
		if (left() === 0) return GO_ON;
		const length = Math.min(left(), MMIO_PART);
		const data = kind === PendingKind.mmioWrite ? take(length) : undefined;
		run.exitMmio(registers[Register.exitPort] ?? 0n, length, data);
		return wait(kind);
	};
	const stringPart = (kind: number): number => {
		if (left() === 0) return GO_ON;
		const size = Number(registers[Register.exitSize] ?? 1n);
		const length = Math.min(left(), PIO_PAGE);
		const isWrite = kind === PendingKind.stringOut;
		if (isWrite) run.ioBytes.set(take(length));
		run.exitIoString(isWrite, Number(registers[Register.exitPort] ?? 0n), size, length / size);
		return wait(kind);
	};

	return {
		mmio: (isWrite, address, length, scratch) => {
			if (!openScratch(scratch, length)) return badScratch();
			registers[Register.exitPort] = address;
			return mmioPart(isWrite ? PendingKind.mmioWrite : PendingKind.mmioRead);
		},
		stringIo: (isIn, port, size, count, scratch) => {
			if (!OPERAND_SIZES.includes(size))
				return isSince(vm.kernel, '5.16') ? malformed(GhcbError.INVALID_INPUT) : -EINVAL;
			const length = count * BigInt(size);
			if (count > INT_MAX || length > INT_MAX) return -EINVAL;
			if (!openScratch(scratch, length)) return badScratch();
			registers[Register.exitPort] = BigInt(port);
			registers[Register.exitSize] = BigInt(size);
			return stringPart(isIn ? PendingKind.stringIn : PendingKind.stringOut);
		},
		complete: (kind) => {
			if (kind === PendingKind.mmioRead || kind === PendingKind.mmioWrite) {
				const length = Math.min(left(), MMIO_PART);
				if (kind === PendingKind.mmioRead) memory.write(scratchGpa(), run.mmioBytes.subarray(0, length));
				registers[Register.exitPort] = BigInt.asUintN(64, (registers[Register.exitPort] ?? 0n) + BigInt(length));
				advance(length);
				return mmioPart(kind);
			}
			const length = Math.min(left(), PIO_PAGE);
			if (kind === PendingKind.stringIn) memory.write(scratchGpa(), run.ioBytes.subarray(0, length));
			advance(length);
			return stringPart(kind);
		},
	};
}
