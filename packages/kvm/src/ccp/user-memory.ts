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

/** What a handler wants of the program's memory: `write` absent = read `length` bytes. */
type Access = { readonly address: bigint; readonly length: number; readonly write?: Uint8Array };
/** What it gets: the bytes, `true` for what was written, or `undefined` and `false`: EFAULT. */
type Outcome = Uint8Array | boolean | undefined;

/**
 * A handler that stops at each access to the program's memory. So the same checks serve a program whose memory is at hand and
 * one whose memory is at the other end of a socket.
 */
export type Steps<T> = Generator<Access, T, Outcome>;

/** A program's memory in the same thread. As {@link UserMemory}, which answers later. */
export interface LocalMemory {
	read(address: bigint, length: number): Uint8Array | undefined;
	write(address: bigint, data: Uint8Array): boolean;
}

/** Runs a handler to its end. */
export function runNow<T>(steps: Steps<T>, memory: LocalMemory): T {
	let step = steps.next();
	while (!step.done) {
		const { address, length, write } = step.value;
		step = steps.next(write === undefined ? memory.read(address, length) : memory.write(address, write));
	}
	return step.value;
}

/** Runs a handler to its end, waiting for the program's memory. */
export async function runLater<T>(steps: Steps<T>, memory: UserMemory): Promise<T> {
	let step = steps.next();
	while (!step.done) {
		const { address, length, write } = step.value;
		step = steps.next(await (write === undefined ? memory.read(address, length) : memory.write(address, write)));
	}
	return step.value;
}

/** copy_from_user. @throws Refusal EFAULT */
export function* copyIn(address: bigint, length: number): Steps<Uint8Array> {
	const data = yield { address, length };
	if (!(data instanceof Uint8Array) || data.length !== length) throw new Refusal(Errno.EFAULT);
	return data;
}

/** copy_from_user of a structure. @throws Refusal EFAULT */
export function* structIn<L extends Pick<Layout<never>, 'size'> & { decode(data: Uint8Array): unknown }>(
	address: bigint,
	shape: L,
): Steps<Infer<L>> {
	return shape.decode(yield* copyIn(address, shape.size)) as Infer<L>;
}

/** copy_to_user. @throws Refusal EFAULT */
export function* copyOut(address: bigint, data: Uint8Array): Steps<void> {
	if ((yield { address, length: data.length, write: data }) !== true) throw new Refusal(Errno.EFAULT);
}
