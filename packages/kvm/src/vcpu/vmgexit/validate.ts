import { ExitCode, GhcbError, ghcb, IoInfo } from '../../abi/ghcb.js';
import { isSince, type Kernel } from '../../kernel.js';
import type { GhcbPage } from './page.js';

const AT = {
	cpl: ghcb.offsetOf('cpl'),
	rax: ghcb.offsetOf('rax'),
	rcx: ghcb.offsetOf('rcx'),
	rdx: ghcb.offsetOf('rdx'),
	xcr0: ghcb.offsetOf('xcr0'),
	scratch: ghcb.offsetOf('swScratch'),
	usage: ghcb.offsetOf('usage'),
	code: ghcb.offsetOf('swExitCode'),
	info1: ghcb.offsetOf('swExitInfo1'),
	info2: ghcb.offsetOf('swExitInfo2'),
} as const;

const XSTATE_LEAF = 0xdn;

/** Fields that an event wants besides its code and infos, whatever these are. */
const ALWAYS: ReadonlyMap<bigint, readonly number[]> = new Map<bigint, readonly number[]>([
	[BigInt(ExitCode.DR7_READ), []],
	[BigInt(ExitCode.DR7_WRITE), [AT.rax]],
	[BigInt(ExitCode.RDTSC), []],
	[BigInt(ExitCode.RDPMC), [AT.rcx]],
	[BigInt(ExitCode.INVD), []],
	[BigInt(ExitCode.VMMCALL), [AT.rax, AT.cpl]],
	[BigInt(ExitCode.RDTSCP), []],
	[BigInt(ExitCode.WBINVD), []],
	[BigInt(ExitCode.MONITOR), [AT.rax, AT.rcx, AT.rdx]],
	[BigInt(ExitCode.MWAIT), [AT.rax, AT.rcx]],
	[BigInt(ExitCode.MMIO_READ), [AT.scratch]],
	[BigInt(ExitCode.MMIO_WRITE), [AT.scratch]],
	[BigInt(ExitCode.NMI_COMPLETE), []],
	[BigInt(ExitCode.AP_RESET_HOLD), []],
	[BigInt(ExitCode.AP_JUMP_TABLE), []],
	[BigInt(ExitCode.UNSUPPORTED_EVENT), []],
]);

/** Events of GHCB version 2. */
const SINCE_6_10: ReadonlySet<bigint> = new Set([BigInt(ExitCode.HYPERVISOR_FEATURES), BigInt(ExitCode.TERMINATE)]);
/** Events that only a SEV-SNP guest may report. There is none in this model. */
const ONLY_SNP: ReadonlySet<bigint> = new Set([
	BigInt(ExitCode.PAGE_STATE_CHANGE),
	BigInt(ExitCode.GUEST_REQUEST),
	BigInt(ExitCode.EXTENDED_GUEST_REQUEST),
	BigInt(ExitCode.AP_CREATION),
]);

/** The fields that an event wants; a number: why there is no such event. */
function wanted(kernel: Kernel, page: GhcbPage, code: bigint): readonly number[] | GhcbError {
	const info1 = page.long(AT.info1);
	switch (code) {
		case BigInt(ExitCode.CPUID):
			return page.long(AT.rax) === XSTATE_LEAF ? [AT.rax, AT.rcx, AT.xcr0] : [AT.rax, AT.rcx];
		case BigInt(ExitCode.IOIO):
			if ((info1 & BigInt(IoInfo.string)) !== 0n) return [AT.scratch];
			return (info1 & BigInt(IoInfo.in)) !== 0n ? [] : [AT.rax];
		case BigInt(ExitCode.MSR):
			return info1 !== 0n ? [AT.rcx, AT.rax, AT.rdx] : [AT.rcx];
	}
	const fields = ALWAYS.get(code);
	if (fields !== undefined) return fields;
	if (isSince(kernel, '6.10')) {
		if (SINCE_6_10.has(code)) return [];
		if (ONLY_SNP.has(code)) return GhcbError.MISSING_INPUT;
	}
	return GhcbError.INVALID_EVENT;
}

/**
 * What KVM checks of a GHCB before it looks at the event (Linux arch/x86/kvm/svm/sev.c sev_es_validate_vmgexit): 0, or the
 * first of usage, code and infos, and the event's own fields that is not as it should be.
 */
export function validateGhcb(kernel: Kernel, page: GhcbPage): GhcbError | 0 {
	if (page.long(AT.usage - 4) >> 32n !== 0n) return GhcbError.INVALID_USAGE;
	if (![AT.code, AT.info1, AT.info2].every(page.isValid)) return GhcbError.MISSING_INPUT;
	const fields = wanted(kernel, page, page.long(AT.code));
	if (typeof fields === 'number') return fields;
	return fields.every(page.isValid) ? 0 : GhcbError.MISSING_INPUT;
}
