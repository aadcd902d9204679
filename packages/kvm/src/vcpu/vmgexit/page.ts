import { PAGE_SIZE } from '@cvm/layout';
import type { MemoryController } from '@cvm/sev-hw/silicon';
import { ghcb } from '../../abi/ghcb.js';
import type { VmState } from '../../vm/state.js';

/** DRAM as it is: what the hypervisor sees of a shared page. */
const PLAIN = 0;
const BITMAP = ghcb.offsetOf('validBitmap');

/** Guest memory as KVM reads and writes it: by guest-physical address, without a key. */
export interface PlainMemory {
	/** Whether every page of the range is in a memslot. */
	isThere(gpa: bigint, length: number): boolean;
	/** false: not all of it is there, and `out` is worth nothing. */
	read(gpa: bigint, out: Uint8Array): boolean;
	/** Writes what is there and writable, and marks it dirty. */
	write(gpa: bigint, data: Uint8Array): void;
}

/** No memslot reaches this, and every number below is exact. */
const GPA_END = 1n << 52n;

export function createPlainMemory(vm: VmState, controller: MemoryController): PlainMemory {
	/** Calls `use` for each part within a page; false as soon as it says so. */
	const walk = (gpa: bigint, length: number, use: (at: number, done: number, n: number) => boolean): boolean => {
		if (gpa >= GPA_END) return false;
		const start = Number(gpa);
		for (let done = 0; done < length; ) {
			const at = start + done;
			const n = Math.min(length - done, PAGE_SIZE - (at % PAGE_SIZE));
			if (!use(at, done, n)) return false;
			done += n;
		}
		return true;
	};
	return {
		isThere: (gpa, length) => walk(gpa, length, (at) => vm.translate(at) >= 0),
		read: (gpa, out) =>
			walk(gpa, out.length, (at, done, n) => {
				const spa = vm.translate(at);
				if (spa >= 0) controller.read(PLAIN, spa, out.subarray(done, done + n));
				return spa >= 0;
			}),
		write: (gpa, data) => {
			walk(gpa, data.length, (at, done, n) => {
				const spa = vm.translate(at);
				if (spa < 0 || !vm.isWritable(at)) return false;
				controller.write(PLAIN, spa, data.subarray(done, done + n));
				vm.markDirty(at);
				return true;
			});
		},
	};
}

type LongField = 'rax' | 'rbx' | 'rcx' | 'rdx' | 'swExitCode' | 'swExitInfo1' | 'swExitInfo2' | 'swScratch';

/** The GHCB of a vCPU, as one exchange sees it: fields as they were when it was mapped, answers straight into the page. */
export interface GhcbPage {
	/** Guest-physical address. */
	readonly gpa: bigint;
	/** The fields, read once: the guest's other vCPUs may be writing. 4096 bytes. */
	readonly bytes: Uint8Array;
	/** Maps the page at a guest-physical address. False: there is no memory that KVM could write. */
	map(gpa: bigint): boolean;
	/** A field, valid or not. */
	long(at: number): bigint;
	/** Whether the guest marked the field at an offset as valid. */
	isValid(at: number): boolean;
	/** Marks all fields invalid in the page; `isValid` still says what it said. */
	clearValid(): void;
	/** Writes a field and marks it valid. */
	set(field: LongField, value: bigint): void;
}

export function createGhcbPage(vm: VmState, memory: PlainMemory): GhcbPage {
	const bytes = new Uint8Array(ghcb.size);
	const view = new DataView(bytes.buffer);
	const valid = new Uint8Array(16);
	const long = new Uint8Array(8);
	const longView = new DataView(long.buffer);
	let gpa = 0n;
	const write = (at: number, data: Uint8Array): void => memory.write(gpa + BigInt(at), data);
	return {
		get gpa() {
			return gpa;
		},
		bytes,
		map: (at) => {
			gpa = at;
			if (at >= GPA_END || !vm.isWritable(Number(at)) || !memory.read(at, bytes)) return false;
			valid.set(bytes.subarray(BITMAP, BITMAP + valid.length));
			return true;
		},
		long: (at) => view.getBigUint64(at, true),
		isValid: (at) => (((bytes[BITMAP + (at >>> 6)] ?? 0) >>> ((at >>> 3) & 7)) & 1) === 1,
		clearValid: () => {
			valid.fill(0);
			write(BITMAP, valid);
		},
		set: (field, value) => {
			const at = ghcb.offsetOf(field);
			longView.setBigUint64(0, value, true);
			write(at, long);
			valid[at >>> 6] = (valid[at >>> 6] ?? 0) | (1 << ((at >>> 3) & 7));
			write(BITMAP, valid);
		},
	};
}
