import type { Infer, Layout } from '@cvm/layout';
import type { LocalMemory } from '../ccp/user-memory.js';
import type { KernelMemory } from '../memory/host-memory.js';
import { addressOf, type UserBuffer } from '../sev/handlers/argument.js';

/** The memory of a process: what `HostMemory.mmap` gave out. Addresses are u64s. */
export type UserSpace = LocalMemory;

/** The present mappings of a host. A read is a copy. Nothing is written unless all of the range is mapped. */
export function createUserSpace(memory: KernelMemory, dram: Uint8Array): UserSpace {
	return {
		read: (address, length) => {
			if (length === 0) return new Uint8Array(0);
			const at = memory.resolve(addressOf(address), length);
			return at < 0 ? undefined : new Uint8Array(dram.subarray(at, at + length));
		},
		write: (address, data) => {
			if (data.length === 0) return true;
			const at = memory.resolve(addressOf(address), data.length);
			if (at < 0) return false;
			dram.set(data, at);
			return true;
		},
	};
}

/** What a program gives to an ioctl: an integer, an address, or the bytes that an address would lead to. */
export type IoctlArgument = Uint8Array | number | bigint;

/** The third argument of ioctl(2) as the kernel takes it. */
export interface UserPointer {
	/** As a number: an address, or what the ioctl says it is. */
	readonly value: bigint;
	/** The program's bytes from `offset` on; `undefined` = EFAULT. */
	read(offset: number, length: number): Uint8Array | undefined;
	/** False = EFAULT: nothing is written then. */
	write(offset: number, data: Uint8Array): boolean;
}

/** PROJECT: what bytes without an address count as where an integer is wanted: an address near the end of user space. */
const SOMEWHERE = 0x7fff_ffff_e000n;

const U64 = 64;
const toU64 = (arg: number | bigint): bigint =>
	BigInt.asUintN(U64, typeof arg === 'bigint' ? arg : BigInt(Number.isFinite(arg) ? Math.trunc(arg) : 0));

/** An argument. Bytes end where they end: what is behind them is not mapped. */
export function userPointer(space: UserSpace, arg: IoctlArgument): UserPointer {
	if (arg instanceof Uint8Array) {
		return {
			value: SOMEWHERE,
			read: (offset, length) =>
				offset + length <= arg.length ? new Uint8Array(arg.subarray(offset, offset + length)) : undefined,
			write: (offset, data) => {
				if (offset + data.length > arg.length) return false;
				arg.set(data, offset);
				return true;
			},
		};
	}
	const value = toU64(arg);
	const at = (offset: number): bigint => BigInt.asUintN(U64, value + BigInt(offset));
	return {
		value,
		read: (offset, length) => space.read(at(offset), length),
		write: (offset, data) => space.write(at(offset), data),
	};
}

/** copy_from_user of a whole structure: `undefined` = EFAULT. */
export const readStructure = <L extends Pick<Layout<never>, 'size'> & { decode(data: Uint8Array): unknown }>(
	pointer: Pick<UserPointer, 'read'>,
	shape: L,
): Infer<L> | undefined => {
	const bytes = pointer.read(0, shape.size);
	return bytes && (shape.decode(bytes) as Infer<L>);
};

/** A buffer by address and length. */
export const userBuffer = (space: UserSpace, address: bigint, length: number): UserBuffer => ({
	isNull: address === 0n,
	length,
	read: (into) => {
		const bytes = space.read(address, length);
		if (bytes !== undefined) into.set(bytes);
		return bytes !== undefined;
	},
	write: (data) => space.write(address, data),
});
