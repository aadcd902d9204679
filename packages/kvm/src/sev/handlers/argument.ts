import type { Hva } from '@cvm/layout';
import { Errno } from '../../abi/errno.js';
import { BLOB_LIMIT, type KernelBuffer, type SevDriver } from '../../ccp/sev-device.js';

/*
 * What a SEV command is given, wherever its caller keeps it: as objects and byte arrays (the typed facade) or in a
 * program's memory (the ABI entry of `@cvm/kvm/process`). The handlers in this folder see only this, so both ways run the
 * same checks in the same order.
 */

/** The structure of one command: `kvm_sev_cmd.data` points to it. */
export interface Argument<In, Out = never> {
	/** copy_from_user: `undefined` = −EFAULT. */
	read(): In | undefined;
	/** copy_to_user of the fields that the command changes; all others keep what the caller wrote. False = −EFAULT. */
	write(out: Out): boolean;
}

/** A buffer that a structure points to: an address and a length. */
export interface UserBuffer {
	/** The address is 0. */
	readonly isNull: boolean;
	/** As the caller says. */
	readonly length: number;
	/** Copies `length` bytes to the front of `into`. False, and nothing is copied: −EFAULT. */
	read(into: Uint8Array): boolean;
	/** Copies `data` to the front of the buffer. False: −EFAULT. */
	write(data: Uint8Array): boolean;
}

/** Memory of the program by address. Addresses are u64s and lengths may be any: no number stands for those that do not fit. */
export interface UserRange {
	/** Host-virtual address. One that no mapping can have stands for all that are too big for a number. */
	readonly address: number;
	readonly length: number;
	/** Address plus length is 2^64 or more. */
	readonly wraps: boolean;
}

/** Above every mapping, with room for an offset within a page. */
const NOWHERE = 2 ** 52;

/** A u64 address as a number: exact as far as memory goes, else somewhere unmapped at the same offset in its page. */
export const addressOf = (address: bigint): number =>
	address < BigInt(NOWHERE) ? Number(address) : NOWHERE + Number(address & 0xfffn);

/** A range as the ABI has it. */
export const rangeOf = (address: bigint, length: bigint): UserRange => ({
	address: addressOf(address),
	length: Number(length),
	wraps: address + length >= 1n << 64n,
});

/** A range as the typed facade has it. */
export const range = (address: Hva, length: number): UserRange => ({
	address,
	length,
	wraps: address + length >= 2 ** 64,
});

const NULL_BUFFER: UserBuffer = { isNull: true, length: 0, read: () => false, write: () => false };

/** Bytes of the typed facade; without any it is a null pointer. */
export const bytesBuffer = (bytes: Uint8Array | undefined): UserBuffer =>
	bytes === undefined
		? NULL_BUFFER
		: {
				isNull: false,
				length: bytes.length,
				read: (into) => {
					into.set(bytes);
					return true;
				},
				write: (data) => {
					bytes.set(data);
					return true;
				},
			};

/** A buffer of `length` bytes for an answer of the typed facade: the copy is made only when there is one. */
export function answerBuffer(length: number): UserBuffer & { readonly answer: Uint8Array } {
	let answer = new Uint8Array(0);
	return {
		isNull: false,
		length,
		read: () => true,
		write: (data) => {
			answer = new Uint8Array(data.slice());
			return true;
		},
		get answer() {
			return answer;
		},
	};
}

/** A structure of the typed facade; `answer` is what the command wrote. */
export function given<In, Out>(input: In): Argument<In, Out> & { readonly answer: Out | undefined } {
	let answer: Out | undefined;
	return {
		read: () => input,
		write: (out) => {
			answer = out;
			return true;
		},
		get answer() {
			return answer;
		},
	};
}

/**
 * Where the firmware puts a packet, header and payload, before they are copied out. Zeroed, as kzalloc does: the firmware writes
 * less than the caller may have asked for.
 */
export interface PacketOut {
	readonly fields: {
		readonly hdrPaddr: bigint;
		readonly hdrLen: number;
		readonly transPaddr: bigint;
		readonly transLen: number;
	};
	/** Payload, then header. False: −EFAULT. */
	copy(): boolean;
}

/** Room for a packet, or `undefined`: −ENOMEM. DEVIATION(Linux arch/x86/kvm/svm/sev.c): kernel memory ends at 0x4000 bytes each. */
export function packetOut(driver: SevDriver, header: UserBuffer, data: UserBuffer): PacketOut | undefined {
	if (header.length > BLOB_LIMIT || data.length > BLOB_LIMIT) return undefined;
	const hdr = driver.scratch(0);
	const trans = driver.scratch(1);
	hdr.bytes.fill(0, 0, header.length);
	trans.bytes.fill(0, 0, data.length);
	return {
		fields: {
			hdrPaddr: BigInt(hdr.spa),
			hdrLen: header.length,
			transPaddr: BigInt(trans.spa),
			transLen: data.length,
		},
		copy: () => data.write(trans.bytes.subarray(0, data.length)) && header.write(hdr.bytes.subarray(0, header.length)),
	};
}

/** A blob in kernel memory; `errno` 0 or why it is not there. */
export interface CopiedBlob {
	readonly errno: number;
	readonly paddr: bigint;
	readonly length: number;
}

/**
 * psp_copy_user_blob of Linux drivers/crypto/ccp/sev-dev.c: no address, no length or more than 0x4000 bytes is EINVAL;
 * unreadable is EFAULT. The model's scratch memory is always there, so it is never ENOMEM.
 */
export function readBlob(into: KernelBuffer, blob: UserBuffer): CopiedBlob {
	const { isNull, length } = blob;
	const isSize = length !== 0 && length <= BLOB_LIMIT;
	const errno = isNull || !isSize ? Errno.EINVAL : blob.read(into.bytes) ? 0 : Errno.EFAULT;
	return errno === 0 ? { errno, paddr: BigInt(into.spa), length } : { errno, paddr: 0n, length: 0 };
}
