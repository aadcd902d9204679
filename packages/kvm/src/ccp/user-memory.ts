import type { Infer, Layout } from '@cvm/layout';
import { Errno } from '../abi/errno.js';

/**
 * The memory of the program that made an ioctl. Addresses are the program's, lengths in bytes and never above 16 KiB.
 * Nothing else in the program may be assumed: it may change the memory at any time, and may be gone.
 */
export interface UserMemory {
	/** `undefined` if any byte of the range cannot be read: EFAULT. */
	read(address: bigint, length: number): Promise<Uint8Array | undefined>;
	/** `false` if any byte of the range cannot be written: EFAULT. Bytes before that one may have been written. */
	write(address: bigint, data: Uint8Array): Promise<boolean>;
}

/** What an ioctl returns early. */
export class Refusal extends Error {
	override readonly name = 'Refusal';
	readonly ret: number;

	/** @param errno positive */
	constructor(errno: number) {
		super(`errno ${errno}`);
		this.ret = -errno;
	}
}

/** copy_from_user. @throws Refusal EFAULT */
export async function copyIn(memory: UserMemory, address: bigint, length: number): Promise<Uint8Array> {
	const data = await memory.read(address, length);
	if (data?.length !== length) throw new Refusal(Errno.EFAULT);
	return data;
}

/** copy_from_user of a structure. @throws Refusal EFAULT */
export async function structIn<L extends Pick<Layout<never>, 'size'> & { decode(data: Uint8Array): unknown }>(
	memory: UserMemory,
	address: bigint,
	shape: L,
): Promise<Infer<L>> {
	return shape.decode(await copyIn(memory, address, shape.size)) as Infer<L>;
}

/** copy_to_user. @throws Refusal EFAULT */
export async function copyOut(memory: UserMemory, address: bigint, data: Uint8Array): Promise<void> {
	if (!(await memory.write(address, data))) throw new Refusal(Errno.EFAULT);
}
