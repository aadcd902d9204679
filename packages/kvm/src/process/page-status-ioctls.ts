import { Errno } from '../abi/errno.js';
import {
	kvmPageEncBitmap,
	kvmSharedPagesEntry,
	kvmSharedPagesList,
	PAGE_STATUS_IOCTLS,
	type PageStatusIoctls,
} from '../abi/page-status.js';
import { KMALLOC_LIMIT } from '../ccp/sev-device.js';
import type { UserPointer, UserSpace } from './user-space.js';
import { readStructure } from './user-space.js';
import type { VmCall } from './vm-ioctls.js';

type PageStatusCall = Pick<VmCall, 'vm' | 'context' | 'space' | 'argument'>;

/**
 * The ioctls of the postings of the series up to v10 that hand out the page status which KVM keeps. Their numbers collide with
 * later ones, so they come before all others. @returns undefined if the kernel's posting has no such request
 */
export function pageStatusIoctl(call: VmCall, request: number): number | undefined {
	const { series } = call.context.kernel;
	const numbers: PageStatusIoctls | undefined = PAGE_STATUS_IOCTLS[series];
	if (numbers === undefined) return undefined;
	const isList = numbers.form === 'list';
	switch (request) {
		case numbers.get:
			return isList ? getList(call) : getBitmap(call, series === 'v1');
		case numbers.set:
			return isList ? setList(call) : setBitmap(call);
		case numbers.reset:
			return call.vm.pageStatus.reset();
		default:
			return undefined;
	}
}

/** Frames and counts are u64s; none that counts has more than 52 bits. */
const count = (value: bigint): number => (value < 1n << 52n ? Number(value) : 2 ** 52);
const bitmapBytes = (pages: number): number => 8 * Math.ceil(pages / 64);

/** The caller's bits, as far as they are there: whole u64s, or just the bytes that hold them. What is not there is EFAULT in its turn. */
function readBitmap(space: UserSpace, address: bigint, pages: number): Uint8Array {
	return space.read(address, bitmapBytes(pages)) ?? space.read(address, Math.ceil(pages / 8)) ?? new Uint8Array(0);
}

function getBitmap({ vm, space, argument }: PageStatusCall, isBySlot: boolean): number {
	const input = readStructure(argument, kvmPageEncBitmap);
	if (input === undefined) return -Errno.EFAULT;
	const startGfn = count(input.startGfn);
	const numPages = count(input.numPages);
	const bitmap = readBitmap(space, input.encBitmap, numPages);
	const ret = vm.pageStatus.getBitmap({ ...(isBySlot ? { slot: startGfn } : { startGfn }), numPages, bitmap });
	if (ret !== 0) return ret;
	return space.write(input.encBitmap, bitmap) ? 0 : -Errno.EFAULT;
}

function setBitmap({ vm, space, argument }: PageStatusCall): number {
	const input = readStructure(argument, kvmPageEncBitmap);
	if (input === undefined) return -Errno.EFAULT;
	const numPages = count(input.numPages);
	const bitmap = input.encBitmap === 0n ? undefined : readBitmap(space, input.encBitmap, numPages);
	return vm.pageStatus.setBitmap({ startGfn: count(input.startGfn), numPages, bitmap });
}

const COUNT_BYTES = 4;

function getList({ vm, space, argument }: PageStatusCall): number {
	const input = readStructure(argument, kvmSharedPagesList);
	if (input === undefined) return -Errno.EFAULT;
	const { ret, entries } = vm.pageStatus.getSharedList({ size: input.size });
	if (ret !== 0) return ret;
	const number = new Uint8Array(COUNT_BYTES);
	new DataView(number.buffer).setInt32(0, entries.length, true);
	const bytes = new Uint8Array(entries.length * kvmSharedPagesEntry.size);
	for (const [i, { gfnStart, gfnEnd }] of entries.entries()) {
		const entry = { gfnStart: BigInt(gfnStart), gfnEnd: BigInt(gfnEnd) };
		kvmSharedPagesEntry.encodeInto(bytes.subarray(i * kvmSharedPagesEntry.size), entry);
	}
	return space.write(input.pnents, number) && space.write(input.buffer, bytes) ? 0 : -Errno.EFAULT;
}

/**
 * UNCERTAIN(kvm list, v10): whether KVM reads the count before it sees that there is no buffer; here it does not.
 */
function setList({ vm, context, space, argument }: PageStatusCall): number {
	const input = readStructure(argument, kvmSharedPagesList);
	if (input === undefined) return -Errno.EFAULT;
	if (!context.sev.active) return -Errno.ENOTTY;
	if (input.buffer === 0n) return vm.pageStatus.setSharedList(undefined);
	const number = readCount(space, input.pnents);
	if (number === undefined) return -Errno.EFAULT;
	if (number === 0) return vm.pageStatus.setSharedList(undefined);
	const { size } = kvmSharedPagesEntry;
	if (number * size > KMALLOC_LIMIT) return -Errno.ENOMEM;
	const bytes = space.read(input.buffer, number * size);
	if (bytes === undefined) return -Errno.EFAULT;
	const entry = (_: unknown, i: number) => kvmSharedPagesEntry.decode(bytes.slice(i * size, (i + 1) * size));
	const entries = Array.from({ length: number }, entry);
	return vm.pageStatus.setSharedList(
		entries.map(({ gfnStart, gfnEnd }) => ({ gfnStart: count(gfnStart), gfnEnd: count(gfnEnd) })),
	);
}

/** An int; one below 0 stands for more than any memory holds. */
function readCount(space: UserSpace, address: UserPointer['value']): number | undefined {
	const bytes = space.read(address, COUNT_BYTES);
	return bytes && new DataView(bytes.buffer).getUint32(0, true);
}
