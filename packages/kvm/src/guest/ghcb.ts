import { type Ghcb, ghcbValidBit, ghcb as layoutOf, MSR_GHCB } from '../abi/ghcb.js';
import type { GuestCpu, Next } from '../vcpu/program.js';

/**
 * The guest's use of its GHCB (AMD 56421 rev. 2 §2.3 and §4.1). `at` is the virtual address of a GHCB page that is mapped
 * shared; GS base holds it once the vCPU has one.
 */
export type GhcbField = 'rax' | 'rbx' | 'rcx' | 'rdx' | 'rsi' | 'cpl' | 'xcr0' | ExitField;
type ExitField = 'swExitCode' | 'swExitInfo1' | 'swExitInfo2' | 'swScratch';

const offsetOf = (field: keyof Ghcb): number => layoutOf.offsetOf(field);
const VALID_BITMAP = offsetOf('validBitmap');

/** Sets a field and says that it is valid. */
export function setGhcb(cpu: GuestCpu, at: number, field: GhcbField, value: bigint): void {
	if (field === 'cpl') cpu.storeU8(at + offsetOf(field), Number(value));
	else cpu.storeU64(at + offsetOf(field), value);
	const bit = ghcbValidBit(field);
	const byte = at + VALID_BITMAP + (bit >>> 3);
	cpu.storeU8(byte, cpu.loadU8(byte) | (1 << (bit & 7)));
}

/** A field that the host must have set, or `undefined`. */
export function ghcbAnswer(cpu: GuestCpu, at: number, field: GhcbField): bigint | undefined {
	const bit = ghcbValidBit(field);
	const isValid = (cpu.loadU8(at + VALID_BITMAP + (bit >>> 3)) >>> (bit & 7)) & 1;
	return isValid === 1 ? cpu.loadU64(at + offsetOf(field)) : undefined;
}

/** Makes an empty GHCB for a version of the protocol. */
export function initGhcb(cpu: GuestCpu, at: number, version: number): void {
	cpu.fill(at, layoutOf.size, 0);
	cpu.storeU8(at + offsetOf('protocolVersion'), version);
}

/** Forgets the last exchange. */
export function clearGhcb(cpu: GuestCpu, at: number): void {
	cpu.storeU64(at + offsetOf('swExitCode'), 0n);
	cpu.fill(at + VALID_BITMAP, 16, 0);
	cpu.storeU32(at + offsetOf('usage'), 0);
}

/** Asks the host for what an exit code says. The other fields are set. */
export function ghcbExit(cpu: GuestCpu, at: number, code: number, info1: bigint, info2: bigint, next: string): Next {
	setGhcb(cpu, at, 'swExitCode', BigInt(code));
	setGhcb(cpu, at, 'swExitInfo1', info1);
	setGhcb(cpu, at, 'swExitInfo2', info2);
	return cpu.vmgexit(next);
}

/** The host's verdict: one of `GhcbResult`. */
export const ghcbVerdict = (cpu: GuestCpu, at: number): number => cpu.loadU32(at + offsetOf('swExitInfo1'));
/** What an event gave. */
export const ghcbResult = (cpu: GuestCpu, at: number): number => cpu.loadNum(at + offsetOf('swExitInfo2'));

/** WRMSR of the GHCB MSR: a message, or the address of a GHCB. Clobbers RAX, RCX, RDX. */
export function writeGhcbMsr(cpu: GuestCpu, low: number, high: number, next: string): Next {
	cpu.setNum('rcx', MSR_GHCB);
	cpu.setNum('rax', low >>> 0);
	cpu.setNum('rdx', high);
	return cpu.wrmsr(next);
}
