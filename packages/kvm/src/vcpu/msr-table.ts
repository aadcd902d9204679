import type { CpuidEntry } from '../abi/cpuid.js';
import { Msr, PvFeature } from '../abi/msr.js';
import { liveMigrationFeature } from '../abi/page-status.js';
import type { Kernel } from '../kernel.js';
import { Register, VcpuWord } from '../vm/vcpu-state.js';
import { VmWord } from '../vm/words.js';
import { pvHas, requestUpdate, Update } from './pv-features.js';

/** What the MSRs of one vCPU are made of. */
export interface MsrContext {
	readonly kernel: Kernel;
	/** Words of the VM: `VmWord`. */
	readonly vmWords: Int32Array;
	readonly registers: BigUint64Array;
	/** Words of the vCPU: `VcpuWord`. */
	readonly words: Int32Array;
	readonly cpuid: readonly CpuidEntry[];
	/** Sets EFER; the caller's business, as cached translations may be wrong then. */
	setEfer(value: bigint): void;
}

/** `unknown`: KVM has no such MSR. `invalid`: it has, and refuses the access. */
export type MsrRefusal = 'unknown' | 'invalid';

interface Row {
	/** `undefined`: refused. */
	read?(c: MsrContext, fromHost: boolean): bigint | undefined;
	/** false: refused. */
	write?(c: MsrContext, value: bigint, fromHost: boolean): boolean;
}

/** SCE, LME, LMA, NXE, SVME, FFXSR. */
const EFER_VALID = 0x5d01n;
const EFER_LME = 1n << 8n;
const CR0_PG = 1n << 31n;
/** Bits of APIC_BASE that are none: all but BSP, x2APIC, enable and the address. */
const APIC_BASE_RESERVED = ~0x000ffffffffffd00n;
const X2APIC_ENABLE = 0x400n;
const APIC_ENABLE = 0x800n;
const STEAL_RESERVED = 0x3en;
const ASYNC_PF_RESERVED = 0x30n;
const ASYNC_PF_AS_VMEXIT = 4n;
const ASYNC_PF_AS_INT = 8n;

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
/** 48-bit linear addresses. */
const isCanonical = (value: bigint): boolean => u64(BigInt.asIntN(48, value)) === value;
const isPat = (value: bigint): boolean => {
	for (let at = 0n; at < 64n; at += 8n) if (![0n, 1n, 4n, 5n, 6n, 7n].includes((value >> at) & 0xffn)) return false;
	return true;
};

type CpuidRegister = 'eax' | 'ebx' | 'ecx' | 'edx';
const hasCpuid = (c: MsrContext, leaf: number, subleaf: number, register: CpuidRegister, bit: number): boolean => {
	const entry = c.cpuid.find((e) => e.function === leaf && (e.significantIndex !== true || (e.index ?? 0) === subleaf));
	return entry !== undefined && ((entry[register] >>> bit) & 1) === 1;
};
const hasXsaves = (c: MsrContext) => hasCpuid(c, 0xd, 1, 'eax', 3);
const hasL1Flush = (c: MsrContext) => hasCpuid(c, 7, 0, 'edx', 28);
const hasTscAux = (c: MsrContext) => hasCpuid(c, 0x80000001, 0, 'edx', 27) || hasCpuid(c, 7, 0, 'ecx', 22);
const hasIrqchip = (c: MsrContext) => Atomics.load(c.vmWords, VmWord.hasIrqchip) === 1;

/** A register of the file, with the values that it takes. */
const stored = (at: number, isValid: (value: bigint) => boolean = () => true): Row => ({
	read: ({ registers }) => registers[at],
	write: ({ registers }, value) => {
		if (!isValid(value)) return false;
		registers[at] = value;
		return true;
	},
});

/** An MSR of KVM's own behind a feature bit, if the VMM has those enforced. The host itself is not asked. */
const pv = (feature: PvFeature, row: Row): Row => {
	const isGranted = (c: MsrContext, fromHost: boolean) => fromHost || pvHas(c.words, feature);
	return {
		read: (c, fromHost) => (isGranted(c, fromHost) ? row.read?.(c, fromHost) : undefined),
		write: (c, value, fromHost) => isGranted(c, fromHost) && row.write?.(c, value, fromHost) === true,
	};
};

/** The wall clock is one per VM: KVM writes it when the MSR is, and keeps the address. */
const wallClock: Row = {
	read: ({ vmWords }) =>
		BigInt(Atomics.load(vmWords, VmWord.wallClock) >>> 0) |
		(BigInt(Atomics.load(vmWords, VmWord.wallClock + 1) >>> 0) << 32n),
	write: ({ vmWords, words }, value) => {
		Atomics.store(vmWords, VmWord.wallClock, Number(BigInt.asIntN(32, value)));
		Atomics.store(vmWords, VmWord.wallClock + 1, Number(BigInt.asIntN(32, value >> 32n)));
		requestUpdate(words, Update.wallClock);
		return true;
	},
};
const systemTime: Row = {
	read: ({ registers }) => registers[Register.systemTime],
	write: ({ registers, words }, value) => {
		registers[Register.systemTime] = value;
		requestUpdate(words, Update.systemTime);
		return true;
	},
};
const stealTime: Row = {
	read: ({ registers }) => registers[Register.stealTime],
	write: ({ registers, words }, value) => {
		if ((value & STEAL_RESERVED) !== 0n) return false;
		registers[Register.stealTime] = value;
		if ((value & 1n) !== 0n) requestUpdate(words, Update.stealTime);
		return true;
	},
};
/** kvm_pv_enable_async_pf. Without an in-kernel APIC it takes 0 only. */
const asyncPf: Row = {
	read: ({ registers }) => registers[Register.asyncPfEnable],
	write: (c, value) => {
		if ((value & ASYNC_PF_RESERVED) !== 0n) return false;
		if ((value & ASYNC_PF_AS_VMEXIT) !== 0n && !pvHas(c.words, PvFeature.ASYNC_PF_VMEXIT)) return false;
		if ((value & ASYNC_PF_AS_INT) !== 0n && !pvHas(c.words, PvFeature.ASYNC_PF_INT)) return false;
		if (!hasIrqchip(c)) return value === 0n;
		c.registers[Register.asyncPfEnable] = value;
		return true;
	},
};
const asyncPfInt: Row = {
	read: ({ registers }) => registers[Register.asyncPfInt],
	write: (c, value) => {
		if (value >> 8n !== 0n || !hasIrqchip(c)) return false;
		c.registers[Register.asyncPfInt] = value;
		return true;
	},
};
const efer: Row = {
	read: ({ registers }) => registers[Register.efer],
	write: (c, value, fromHost) => {
		const changesMode = ((value ^ (c.registers[Register.efer] ?? 0n)) & EFER_LME) !== 0n;
		const isPaging = ((c.registers[Register.cr0] ?? 0n) & CR0_PG) !== 0n;
		if (!fromHost && ((value & ~EFER_VALID) !== 0n || (changesMode && isPaging))) return false;
		c.setEfer(value);
		return true;
	},
};
/** kvm_set_apic_base: x2APIC mode only of an enabled APIC. */
const apicBase: Row = {
	read: ({ registers }) => registers[Register.apicBase],
	write: ({ registers }, value, fromHost) => {
		const isX2apicOff = (value & (X2APIC_ENABLE | APIC_ENABLE)) === X2APIC_ENABLE;
		if ((value & u64(APIC_BASE_RESERVED)) !== 0n || (!fromHost && isX2apicOff)) return false;
		registers[Register.apicBase] = value;
		return true;
	},
};
const xss: Row = {
	read: (c, fromHost) => (fromHost || hasXsaves(c) ? c.registers[Register.xss] : undefined),
	// KVM supports no supervisor state on these processors.
	write: (c, value, fromHost) => (fromHost || hasXsaves(c)) && value === 0n,
};
const tscAux: Row = {
	read: (c, fromHost) => (fromHost || hasTscAux(c) ? c.registers[Register.tscAux] : undefined),
	write: (c, value, fromHost) => {
		if (!fromHost && !hasTscAux(c)) return false;
		c.registers[Register.tscAux] = BigInt.asUintN(32, value);
		return true;
	},
};
/** Write-only: flushes the first-level data cache. */
const flushCmd: Row = { write: (c, value, fromHost) => (fromHost || hasL1Flush(c)) && (value & ~1n) === 0n };
/** APIC registers outside of x2APIC mode. */
const refused: Row = { read: () => undefined, write: () => false };

const ROWS: ReadonlyMap<number, Row> = new Map<number, Row>([
	[Msr.APIC_BASE, apicBase],
	[Msr.FLUSH_CMD, flushCmd],
	[Msr.SYSENTER_CS, stored(Register.sysenterCs)],
	[Msr.SYSENTER_ESP, stored(Register.sysenterEsp, isCanonical)],
	[Msr.SYSENTER_EIP, stored(Register.sysenterEip, isCanonical)],
	[Msr.POWER_CTL, stored(Register.powerControl)],
	[Msr.PAT, stored(Register.pat, isPat)],
	[Msr.XSS, xss],
	[Msr.EFER, efer],
	[Msr.STAR, stored(Register.star)],
	[Msr.LSTAR, stored(Register.lstar, isCanonical)],
	[Msr.CSTAR, stored(Register.cstar, isCanonical)],
	[Msr.SYSCALL_MASK, stored(Register.sfmask)],
	[Msr.FS_BASE, stored(Register.fsBase, isCanonical)],
	[Msr.GS_BASE, stored(Register.gsBase, isCanonical)],
	[Msr.KERNEL_GS_BASE, stored(Register.kernelGsBase, isCanonical)],
	[Msr.TSC_AUX, tscAux],
	[Msr.KVM_WALL_CLOCK, pv(PvFeature.CLOCKSOURCE, wallClock)],
	[Msr.KVM_SYSTEM_TIME, pv(PvFeature.CLOCKSOURCE, systemTime)],
	[Msr.KVM_WALL_CLOCK_NEW, pv(PvFeature.CLOCKSOURCE2, wallClock)],
	[Msr.KVM_SYSTEM_TIME_NEW, pv(PvFeature.CLOCKSOURCE2, systemTime)],
	[Msr.KVM_ASYNC_PF_EN, pv(PvFeature.ASYNC_PF, asyncPf)],
	[Msr.KVM_STEAL_TIME, pv(PvFeature.STEAL_TIME, stealTime)],
	[
		Msr.KVM_PV_EOI_EN,
		pv(
			PvFeature.PV_EOI,
			stored(Register.pvEoi, (value) => (value & 2n) === 0n),
		),
	],
	[
		Msr.KVM_POLL_CONTROL,
		pv(
			PvFeature.POLL_CONTROL,
			stored(Register.pollControl, (value) => value <= 1n),
		),
	],
	[Msr.KVM_ASYNC_PF_INT, pv(PvFeature.ASYNC_PF_INT, asyncPfInt)],
	[Msr.KVM_ASYNC_PF_ACK, pv(PvFeature.ASYNC_PF_INT, { read: () => 0n, write: () => true })],
]);

/**
 * MSR_KVM_SEV_LIVE_MIG_EN of the postings v5 to v10, which nobody can read. Up to v9 a guest can say that it is
 * ready and not take it back; v10 stores bit 0. Ignored if the guest is not a SEV guest.
 */
const liveMigration: Row = {
	write: ({ kernel, vmWords }, value) => {
		if (Atomics.load(vmWords, VmWord.sevActive) === 0) return true;
		if ((value & 1n) !== 0n) Atomics.store(vmWords, VmWord.liveMigration, 1);
		else if (kernel.series === 'v10') Atomics.store(vmWords, VmWord.liveMigration, 0);
		return true;
	},
};

const find = ({ kernel }: MsrContext, index: number): Row | undefined => {
	const feature = liveMigrationFeature(kernel.series);
	if (feature?.inKvm === true && feature.msr === index) return liveMigration;
	// Bit 14 and this MSR were free when v5 to v8 took them; with them its partner was not there either.
	if (feature?.msr === Msr.KVM_ASYNC_PF_INT && index === Msr.KVM_ASYNC_PF_ACK) return undefined;
	if (index >= 0x800 && index <= 0x8ff) return refused;
	return ROWS.get(index);
};

/** KVM_GET_MSRS of one MSR, or RDMSR behind the filter. */
export function readMsr(c: MsrContext, index: number, fromHost: boolean): bigint | MsrRefusal {
	const row = find(c, index);
	if (row?.read === undefined) return 'unknown';
	return row.read(c, fromHost) ?? 'invalid';
}

/** KVM_SET_MSRS of one MSR, or WRMSR behind the filter. */
export function writeMsr(c: MsrContext, index: number, value: bigint, fromHost: boolean): 'done' | MsrRefusal {
	const row = find(c, index);
	if (row?.write === undefined) return 'unknown';
	return row.write(c, value, fromHost) ? 'done' : 'invalid';
}

/** Values that MSRs have when a vCPU is made. */
export function resetMsrs(registers: BigUint64Array, words: Int32Array): void {
	registers[Register.pollControl] = 1n;
	Atomics.store(words, VcpuWord.requests, 0);
}
