import { type Layout, PAGE_SIZE } from '@cvm/layout';
import type { CpuidEntry } from '../abi/cpuid.js';
import { Errno } from '../abi/errno.js';
import { Ioctl } from '../abi/ioctl.js';
import { kvmEnableCap } from '../abi/memory.js';
import {
	kvmCpuid2,
	kvmCpuidEntry2,
	kvmDebugregs,
	kvmDtable,
	kvmFpu,
	kvmGuestDebug,
	kvmMpState,
	kvmMsrEntry,
	kvmMsrs,
	kvmRegs,
	kvmSegment,
	kvmSregs,
	kvmXcr,
	kvmXcrs,
	MAX_IOCTL_ENTRIES,
} from '../abi/registers.js';
import type { Vcpu } from '../vm/vcpu.js';
import { readStructure, type UserPointer } from './user-space.js';

/** One ioctl on a vCPU's descriptor. */
interface VcpuCall {
	readonly vcpu: Vcpu;
	readonly argument: UserPointer;
	/** KVM_RUN. */
	readonly run: () => number;
}

type VcpuIoctl = (call: VcpuCall) => number;

/** Bytes of LAPIC and vCPU event structures, which the model hands over as they are. */
const LAPIC_BYTES = 1024;
const VCPU_EVENTS_BYTES = 64;

/** The ioctls of a vCPU: kvm_vcpu_ioctl and kvm_arch_vcpu_ioctl of Linux 5.12 to 6.10. What is missing here is −EINVAL. */
export const VCPU_IOCTLS: ReadonlyMap<number, VcpuIoctl> = new Map<number, VcpuIoctl>([
	[Ioctl.KVM_RUN, ({ run, argument }) => (argument.value === 0n ? run() : -Errno.EINVAL)],
	[Ioctl.KVM_GET_REGS, (call) => put(call, kvmRegs.encode(call.vcpu.getRegs()))],
	[Ioctl.KVM_SET_REGS, (call) => take(call, kvmRegs, (regs) => call.vcpu.setRegs(regs))],
	[Ioctl.KVM_GET_SREGS, (call) => put(call, encodeSregs(call.vcpu.getSregs()))],
	[Ioctl.KVM_SET_SREGS, (call) => take(call, kvmSregs, (sregs) => call.vcpu.setSregs(decodeSregs(sregs)))],
	[Ioctl.KVM_GET_FPU, (call) => put(call, kvmFpu.encode(call.vcpu.getFpu()))],
	[Ioctl.KVM_SET_FPU, (call) => take(call, kvmFpu, (fpu) => call.vcpu.setFpu(fpu))],
	[Ioctl.KVM_GET_XSAVE, (call) => put(call, call.vcpu.getXsave())],
	[Ioctl.KVM_SET_XSAVE, (call) => takeBytes(call, PAGE_SIZE, (bytes) => call.vcpu.setXsave(bytes))],
	[Ioctl.KVM_GET_XCRS, getXcrs],
	[Ioctl.KVM_SET_XCRS, setXcrs],
	[Ioctl.KVM_GET_DEBUGREGS, getDebugRegs],
	[Ioctl.KVM_SET_DEBUGREGS, setDebugRegs],
	[Ioctl.KVM_SET_GUEST_DEBUG, (call) => take(call, kvmGuestDebug, ({ control }) => call.vcpu.setGuestDebug(control))],
	[Ioctl.KVM_GET_MP_STATE, (call) => put(call, kvmMpState.encode({ mpState: call.vcpu.getMpState() }))],
	[Ioctl.KVM_SET_MP_STATE, (call) => take(call, kvmMpState, ({ mpState }) => call.vcpu.setMpState(mpState))],
	[Ioctl.KVM_GET_LAPIC, (call) => put(call, call.vcpu.getLapic() ?? -Errno.EINVAL)],
	[Ioctl.KVM_SET_LAPIC, (call) => takeBytes(call, LAPIC_BYTES, (bytes) => call.vcpu.setLapic(bytes))],
	[Ioctl.KVM_GET_VCPU_EVENTS, (call) => put(call, call.vcpu.getVcpuEvents())],
	[Ioctl.KVM_SET_VCPU_EVENTS, (call) => takeBytes(call, VCPU_EVENTS_BYTES, (bytes) => call.vcpu.setVcpuEvents(bytes))],
	[Ioctl.KVM_GET_MSRS, getMsrs],
	[Ioctl.KVM_SET_MSRS, setMsrs],
	[Ioctl.KVM_SET_CPUID2, setCpuid2],
	[Ioctl.KVM_GET_CPUID2, (call) => putCpuid(call.argument, call.vcpu.share().cpuid)],
	[Ioctl.KVM_ENABLE_CAP, enableCap],
]);

/** A refusal as it is, else the structure to the caller. */
function put({ argument }: VcpuCall, data: Uint8Array | number): number {
	if (typeof data === 'number') return data;
	return argument.write(0, data) ? 0 : -Errno.EFAULT;
}

function take<T>(
	{ argument }: VcpuCall,
	shape: Pick<Layout<never>, 'size'> & { decode(data: Uint8Array): T },
	set: (value: T) => number,
): number {
	const bytes = argument.read(0, shape.size);
	return bytes === undefined ? -Errno.EFAULT : set(shape.decode(bytes));
}

function takeBytes({ argument }: VcpuCall, length: number, set: (bytes: Uint8Array) => number): number {
	const bytes = argument.read(0, length);
	return bytes === undefined ? -Errno.EFAULT : set(bytes);
}

function enableCap({ vcpu, argument }: VcpuCall): number {
	const input = readStructure(argument, kvmEnableCap);
	if (input === undefined) return -Errno.EFAULT;
	return vcpu.enableCap(input.cap, [input.arg0, input.arg1, input.arg2, input.arg3], input.flags);
}

const SEGMENTS = ['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'] as const;

function encodeSregs(sregs: ReturnType<Vcpu['getSregs']>): Uint8Array {
	const { cr0, cr2, cr3, cr4, cr8, efer, apicBase } = sregs;
	const segments = Object.fromEntries(SEGMENTS.map((name) => [name, kvmSegment.encode(sregs[name])]));
	return kvmSregs.encode({
		...segments,
		gdt: kvmDtable.encode(sregs.gdt),
		idt: kvmDtable.encode(sregs.idt),
		cr0,
		cr2,
		cr3,
		cr4,
		cr8,
		efer,
		apicBase,
		interruptBitmap: words(sregs.interruptBitmap),
	});
}

function decodeSregs(sregs: ReturnType<typeof kvmSregs.decode>): Parameters<Vcpu['setSregs']>[0] {
	const { cr0, cr2, cr3, cr4, cr8, efer, apicBase } = sregs;
	return {
		cs: kvmSegment.decode(sregs.cs),
		ds: kvmSegment.decode(sregs.ds),
		es: kvmSegment.decode(sregs.es),
		fs: kvmSegment.decode(sregs.fs),
		gs: kvmSegment.decode(sregs.gs),
		ss: kvmSegment.decode(sregs.ss),
		tr: kvmSegment.decode(sregs.tr),
		ldt: kvmSegment.decode(sregs.ldt),
		gdt: kvmDtable.decode(sregs.gdt),
		idt: kvmDtable.decode(sregs.idt),
		cr0,
		cr2,
		cr3,
		cr4,
		cr8,
		efer,
		apicBase,
		interruptBitmap: fromWords(sregs.interruptBitmap),
	};
}

/** u64[4]. */
function words(values: readonly bigint[]): Uint8Array {
	const bytes = new Uint8Array(32);
	const view = new DataView(bytes.buffer);
	for (let i = 0; i < 4; i++) view.setBigUint64(8 * i, values[i] ?? 0n, true);
	return bytes;
}

function fromWords(bytes: Uint8Array): [bigint, bigint, bigint, bigint] {
	const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
	const word = (i: number): bigint => view.getBigUint64(8 * i, true);
	return [word(0), word(1), word(2), word(3)];
}

function getDebugRegs(call: VcpuCall): number {
	const { db, dr6, dr7, flags } = call.vcpu.getDebugRegs();
	return put(call, kvmDebugregs.encode({ db: words(db), dr6, dr7, flags }));
}

function setDebugRegs(call: VcpuCall): number {
	return take(call, kvmDebugregs, ({ db, ...rest }) => call.vcpu.setDebugRegs({ db: fromWords(db), ...rest }));
}

const MAX_XCRS = 16;

function getXcrs(call: VcpuCall): number {
	const entries = call.vcpu.getXcrs();
	const xcrs = new Uint8Array(MAX_XCRS * kvmXcr.size);
	for (const [i, entry] of entries.entries()) kvmXcr.encodeInto(xcrs.subarray(i * kvmXcr.size), entry);
	return put(call, kvmXcrs.encode({ nrXcrs: entries.length, xcrs }));
}

/** KVM_SET_XCRS: a count above 16 or a flag is −EINVAL. */
function setXcrs(call: VcpuCall): number {
	return take(call, kvmXcrs, ({ nrXcrs, flags, xcrs }) => {
		if (nrXcrs > MAX_XCRS || flags !== 0) return -Errno.EINVAL;
		const entry = (_: unknown, i: number) => kvmXcr.decode(xcrs.slice(i * kvmXcr.size, (i + 1) * kvmXcr.size));
		return call.vcpu.setXcrs(Array.from({ length: nrXcrs }, entry));
	});
}

/** The entries behind a count, or −errno: −EFAULT, −E2BIG above `max`. Nothing is read before the count is in bounds. */
function entriesOf<T>(
	argument: UserPointer,
	countOf: (header: Uint8Array) => number,
	shape: { readonly size: number; decode(data: Uint8Array): T },
): readonly T[] | number {
	const header = argument.read(0, HEADER_BYTES);
	if (header === undefined) return -Errno.EFAULT;
	const count = countOf(header);
	if (count > MAX_IOCTL_ENTRIES) return -Errno.E2BIG;
	const bytes = argument.read(HEADER_BYTES, count * shape.size);
	if (bytes === undefined) return -Errno.EFAULT;
	return Array.from({ length: count }, (_, i) => shape.decode(bytes.slice(i * shape.size, (i + 1) * shape.size)));
}

/** kvm_cpuid2 and kvm_msrs begin with a count and a padding word. */
const HEADER_BYTES = 8;
const msrCount = (header: Uint8Array): number => kvmMsrs.decode(header).nmsrs;

/** KVM_GET_MSRS: values up to the first MSR that KVM does not have. Returns how many. */
function getMsrs({ vcpu, argument }: VcpuCall): number {
	const entries = entriesOf(argument, msrCount, kvmMsrEntry);
	if (typeof entries === 'number') return entries;
	const out = argument.read(HEADER_BYTES, entries.length * kvmMsrEntry.size) ?? new Uint8Array(0);
	let done = 0;
	for (const { index } of entries) {
		const data = vcpu.getMsr(index);
		if (data === undefined) break;
		kvmMsrEntry.patch(out.subarray(done * kvmMsrEntry.size), { data });
		done++;
	}
	return argument.write(HEADER_BYTES, out) ? done : -Errno.EFAULT;
}

/** KVM_SET_MSRS: up to the first that is refused. Returns how many. */
function setMsrs({ vcpu, argument }: VcpuCall): number {
	const entries = entriesOf(argument, msrCount, kvmMsrEntry);
	if (typeof entries === 'number') return entries;
	const refused = entries.findIndex(({ index, data }) => vcpu.setMsr(index, data) !== 0);
	return refused < 0 ? entries.length : refused;
}

const SIGNIFICANT_INDEX = 1;

function setCpuid2({ vcpu, argument }: VcpuCall): number {
	const entries = entriesOf(argument, (header) => kvmCpuid2.decode(header).nent, kvmCpuidEntry2);
	if (typeof entries === 'number') return entries;
	return vcpu.setCpuid(
		entries.map(({ flags, ...entry }) => ({ ...entry, significantIndex: (flags & SIGNIFICANT_INDEX) !== 0 })),
	);
}

/**
 * Hands CPUID entries out. −E2BIG if there is room for fewer; the count says how many there are then, as KVM_GET_CPUID2 does.
 */
export function putCpuid(argument: UserPointer, entries: readonly CpuidEntry[]): number {
	const header = argument.read(0, HEADER_BYTES);
	if (header === undefined) return -Errno.EFAULT;
	const { nent } = kvmCpuid2.decode(header);
	kvmCpuid2.patch(header, { nent: entries.length });
	if (nent < entries.length) return argument.write(0, header) ? -Errno.E2BIG : -Errno.EFAULT;
	const bytes = new Uint8Array(entries.length * kvmCpuidEntry2.size);
	for (const [i, { significantIndex, ...entry }] of entries.entries()) {
		const flags = significantIndex ? SIGNIFICANT_INDEX : 0;
		kvmCpuidEntry2.encodeInto(bytes.subarray(i * kvmCpuidEntry2.size), { ...entry, flags });
	}
	return argument.write(HEADER_BYTES, bytes) && argument.write(0, header) ? 0 : -Errno.EFAULT;
}
