import { Cap } from '../abi/capabilities.js';
import { Errno } from '../abi/errno.js';
import { Ioctl } from '../abi/ioctl.js';
import {
	kvmClearDirtyLog,
	kvmDirtyLog,
	kvmEnableCap,
	kvmMsrFilter,
	kvmMsrFilterRange,
	kvmUserspaceMemoryRegion,
} from '../abi/memory.js';
import { kvmEncRegion, SevIoctl } from '../abi/sev.js';
import { MAX_BITMAP_BYTES, MAX_RANGES } from '../msr/filter-state.js';
import { copyEncContextFrom } from '../sev/copy.js';
import { entryErrno } from '../sev/guard.js';
import { rangeOf } from '../sev/handlers/argument.js';
import { moveEncContextFrom } from '../sev/move.js';
import type { VmContext } from '../vm/context.js';
import type { Vm } from '../vm/vm.js';
import { memoryEncryptOp } from './sev-op.js';
import { readStructure, type UserPointer, type UserSpace } from './user-space.js';

/** One ioctl on a VM's descriptor. */
export interface VmCall {
	readonly vm: Vm;
	readonly context: VmContext;
	readonly space: UserSpace;
	readonly argument: UserPointer;
	/** Whether a descriptor of the process is an open /dev/sev. */
	readonly isDevice: (fd: number) => boolean;
	/** The VM behind a descriptor of the process. */
	readonly vmOf: (fd: number) => VmContext | undefined;
	/** KVM_CREATE_VCPU: a descriptor or −errno. */
	readonly createVcpu: (id: bigint) => number;
}

type VmIoctl = (call: VmCall) => number;

/** The ioctls of a VM: kvm_vm_ioctl and kvm_arch_vm_ioctl of Linux 5.12 to 6.10. Each copies its structure in first. */
export const VM_IOCTLS: ReadonlyMap<number, VmIoctl> = new Map<number, VmIoctl>([
	[Ioctl.KVM_CREATE_VCPU, ({ createVcpu, argument }) => createVcpu(argument.value)],
	[Ioctl.KVM_CHECK_EXTENSION, ({ vm, argument }) => vm.checkExtension(capOf(argument.value))],
	[Ioctl.KVM_ENABLE_CAP, enableCap],
	[Ioctl.KVM_SET_USER_MEMORY_REGION, setUserMemoryRegion],
	[Ioctl.KVM_GET_DIRTY_LOG, getDirtyLog],
	[Ioctl.KVM_CLEAR_DIRTY_LOG, clearDirtyLog],
	[Ioctl.KVM_RESET_DIRTY_RINGS, ({ vm }) => vm.resetDirtyRings()],
	[Ioctl.KVM_CREATE_IRQCHIP, ({ vm }) => vm.createIrqchip()],
	[Ioctl.KVM_X86_SET_MSR_FILTER, setMsrFilter],
	[
		SevIoctl.KVM_MEMORY_ENCRYPT_OP,
		({ context, space, argument, isDevice }) => memoryEncryptOp(context, space, argument, isDevice),
	],
	[SevIoctl.KVM_MEMORY_ENCRYPT_REG_REGION, (call) => region(call, 'memoryEncryptRegisterRegion')],
	[SevIoctl.KVM_MEMORY_ENCRYPT_UNREG_REGION, (call) => region(call, 'memoryEncryptUnregisterRegion')],
]);

/** A capability's number; no capability has one above 32 bits. */
export const capOf = (value: bigint): number => (value < 2n ** 31n ? Number(value) : -1);

const FROM_ANOTHER_VM: ReadonlyMap<number, (vm: VmContext, source: VmContext | undefined) => number> = new Map([
	[Cap.VM_COPY_ENC_CONTEXT_FROM, copyEncContextFrom],
	[Cap.VM_MOVE_ENC_CONTEXT_FROM, moveEncContextFrom],
]);

/** KVM_ENABLE_CAP. Where `args[0]` is a descriptor its low 32 bits count. */
function enableCap({ vm, context, argument, vmOf }: VmCall): number {
	const input = readStructure(argument, kvmEnableCap);
	if (input === undefined) return -Errno.EFAULT;
	const { cap, flags, arg0, arg1, arg2, arg3 } = input;
	const takeContext = FROM_ANOTHER_VM.get(cap);
	if (takeContext === undefined) return vm.enableCap(cap, [arg0, arg1, arg2, arg3], flags);
	if (flags !== 0 || !context.isSupported()) return -Errno.EINVAL;
	return takeContext(context, vmOf(Number(BigInt.asUintN(32, arg0))));
}

function setUserMemoryRegion({ context, argument }: VmCall): number {
	const input = readStructure(argument, kvmUserspaceMemoryRegion);
	return input === undefined ? -Errno.EFAULT : context.memslots.set(input);
}

/**
 * KVM_GET_DIRTY_LOG. DEVIATION(Linux virt/kvm/kvm_main.c): Linux clears the bits before it finds that it cannot hand them out, and
 * they are lost; here nothing is cleared then.
 */
function getDirtyLog({ vm, context, space, argument }: VmCall): number {
	const input = readStructure(argument, kvmDirtyLog);
	if (input === undefined) return -Errno.EFAULT;
	const { slot, dirtyBitmap } = input;
	const words = context.memslots.dirtyLogWords(slot);
	if (words < 0) return words;
	if (space.read(dirtyBitmap, 4 * words) === undefined) return -Errno.EFAULT;
	const bitmap = new Uint32Array(words);
	const ret = vm.getDirtyLog(slot, bitmap);
	if (ret === 0) space.write(dirtyBitmap, littleEndian(bitmap));
	return ret;
}

function clearDirtyLog({ vm, context, space, argument }: VmCall): number {
	const input = readStructure(argument, kvmClearDirtyLog);
	if (input === undefined) return -Errno.EFAULT;
	const { slot, numPages, firstPage, dirtyBitmap } = input;
	// No slot is larger than its log, so no longer bitmap is wanted; a shorter one is EFAULT where its turn comes.
	const words = 2 * Math.ceil(numPages / 64);
	const bytes =
		words <= Math.max(0, context.memslots.dirtyLogWords(slot)) ? space.read(dirtyBitmap, 4 * words) : undefined;
	return vm.clearDirtyLog({ slot, firstPage, numPages, bitmap: wordsOf(bytes ?? new Uint8Array(0)) });
}

function littleEndian(words: Uint32Array): Uint8Array {
	const bytes = new Uint8Array(4 * words.length);
	const view = new DataView(bytes.buffer);
	for (const [i, word] of words.entries()) view.setUint32(4 * i, word, true);
	return bytes;
}

function wordsOf(bytes: Uint8Array): Uint32Array {
	const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
	return Uint32Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(4 * i, true));
}

/** KVM_X86_SET_MSR_FILTER: bitmaps that are too long or unreadable come as empty ones, which are refused in their turn. */
function setMsrFilter({ vm, space, argument }: VmCall): number {
	const input = readStructure(argument, kvmMsrFilter);
	if (input === undefined) return -Errno.EFAULT;
	const ranges = Array.from({ length: MAX_RANGES }, (_, i) => {
		const at = i * kvmMsrFilterRange.size;
		const range = kvmMsrFilterRange.decode(input.ranges.slice(at, at + kvmMsrFilterRange.size));
		const { flags, nmsrs, base } = range;
		const size = 8 * Math.ceil(nmsrs / 64);
		const bitmap = (size <= MAX_BITMAP_BYTES && space.read(range.bitmap, size)) || new Uint8Array(0);
		return { flags, nmsrs, base, bitmap };
	});
	return vm.setMsrFilter({ flags: input.flags, ranges });
}

/** KVM_MEMORY_ENCRYPT_REG_REGION, KVM_MEMORY_ENCRYPT_UNREG_REGION: the structure is read before anything is asked. */
function region(
	{ vm, context, argument }: VmCall,
	call: 'memoryEncryptRegisterRegion' | 'memoryEncryptUnregisterRegion',
): number {
	const input = readStructure(argument, kvmEncRegion);
	if (input === undefined) return -Errno.EFAULT;
	const refused = entryErrno(context);
	if (refused !== 0) return -refused;
	const { address, length, wraps } = rangeOf(input.addr, input.size);
	// What wraps has no exact number: 2^64 bytes wrap from wherever they start.
	return vm[call]({ addr: address as never, size: wraps ? 2 ** 64 : length });
}
