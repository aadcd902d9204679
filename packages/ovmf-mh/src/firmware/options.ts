import type { CryptoProvider } from '@cvm/crypto';
import { type KvmAbi, KvmFeature } from '@cvm/kvm/abi';
import type { RfcHandlerOptions } from './handler/index.js';

/** As the patches were posted, or as they should have been. */
export type Position = 'asPosted' | 'fixed';

/** How the firmware tells the host of pages whose C-bit it changed; each is a switch of its own. */
export interface ReportOptions {
	/**
	 * `asPosted`: the hypercall's result replaces that of SetMemoryEncDec, which so reports UNSUPPORTED on a host without the feature
	 * although the page tables were changed. `fixed` (default): an absent feature is no error; a refused report still is.
	 */
	readonly status?: Position;
	/**
	 * `asPosted`: the original start, rounded down, with the pages of the size alone: an unaligned range loses its last page.
	 * `fixed` (default): every page that the range touches.
	 */
	readonly range?: Position;
	/** SEV-ES: which registers the #VC handler passes on. `upstream`: RAX and CPL, so that no report can work. Default `all`. */
	readonly esRegisters?: 'all' | 'upstream';
	/**
	 * The two GHCB pages of SEC. `bothShared` (default, PROJECT): both are shared and reported. `overReport`, as posted: the second is
	 * private, and reported all the same. `exact`: the second is private and not reported.
	 */
	readonly ghcb?: 'bothShared' | 'overReport' | 'exact';
	/** The call itself: {@link REPORT_CALLS}. Default `lm6`. */
	readonly call?: keyof typeof REPORT_CALLS;
}

/**
 * The page-status hypercall from its first form to its last: RAX, what RCX counts, RDX by mode, and whether the result is looked at.
 * UNCERTAIN(edk2-devel, March 2021): in the first library SetCBit is 0 and ClearCBit 1, while KVM's argument is 1 for encrypted;
 * whether something in between turned it round is not known.
 */
export const REPORT_CALLS = {
	/** edk2-devel live migration v6, August 2021, and KVM as merged. */
	lm6: { number: 12, unit: 'page', decrypted: 0, encrypted: 0x10, checksResult: true },
	/** MemEncryptHypercallLib of March 2021. */
	rfc1: { number: 12, unit: 'page', decrypted: 1, encrypted: 0, checksResult: false },
	/** Another stub of that time, with its number written out: KVM's 11 is something else. */
	rfc1Stub: { number: 11, unit: 'page', decrypted: 1, encrypted: 0, checksResult: false },
	/** A header before that speaks of a length. */
	rfc1Length: { number: 12, unit: 'byte', decrypted: 1, encrypted: 0, checksResult: false },
} as const;

/** What a {@link ovmfFirmware} may differ in. */
export interface FirmwareOptions {
	/**
	 * Which generation of the page-status hypercall the firmware was built for: `upstream` (default) goes by KVM feature bit 17,
	 * as the posted patches do; `v12` by bit 16 of that generation.
	 */
	readonly abi?: KvmAbi;
	/**
	 * How the firmware answers "did you report your shared pages?": `as-designed` (default) sets the variable to 1, `absent` is a
	 * firmware from before the variable, `zero` one that says no.
	 */
	readonly setVariable?: 'as-designed' | 'absent' | 'zero';
	/** Attributes of the variable: `non-volatile` (default, 0x7) as posted, `volatile` (0x6) as the review asked. */
	readonly variableAttributes?: 'non-volatile' | 'volatile';
	/**
	 * Who sets it: `AmdSevDxe` (default, live migration v6) at EndOfDxe; `PlatformDxe` (March 2021) when it is dispatched, before the
	 * migration handler is set up. UNCERTAIN(edk2-devel, March 2021): the order of the two drivers.
	 */
	readonly variableSetBy?: 'AmdSevDxe' | 'PlatformDxe';
	/**
	 * What a reset leaves of the variable store: `fresh` (default) nothing; `kept` the non-volatile variables, as OVMF's flash does. For a
	 * machine whose memory survives the reset.
	 */
	readonly variableStore?: 'fresh' | 'kept';
	/** false: firmware from before the reports, which shares its pages and tells nobody. */
	readonly reportsPages?: boolean;
	readonly reports?: ReportOptions;
	/**
	 * Which migration handler is built in. It is set up only if fw_cfg asks for it ({@link HANDLER_ITEMS}) and SEV is active. Default
	 * `none`.
	 */
	readonly helper?: 'none' | 'rfc-2021' | 'hardened';
	/**
	 * SEV-ES with the hardened helper: the helper carries the vCPUs' save areas, and those of a target rest where they find them
	 * ({@link resumeFragment}). The host has to map the save areas (`Vm.mapSaveArea`) and to ask for as many (`createPageHelper`). Default
	 * false: the host must have another way for them.
	 */
	readonly vcpuStates?: boolean;
	/** The cryptography of the hardened helper, which needs it. */
	readonly provider?: CryptoProvider;
	/** Of the handler of 2021. */
	readonly handler?: RfcHandlerOptions;
	/**
	 * Who runs the handler of 2021: `mirrorVcpu` (default), which the host starts at the entry page, or `applicationProcessor` (March 2021):
	 * the last one that the host counts, which the OS does not hear of. Not with SEV-ES, where there is none then.
	 */
	readonly handlerOn?: 'mirrorVcpu' | 'applicationProcessor';
	/**
	 * K19, whether the mailbox is shared in the page tables, reported to the host and recorded: `asPosted` never. Default `asPosted` for
	 * `rfc-2021`; the hardened helper's mailboxes and windows always are.
	 */
	readonly mailboxAnnouncement?: Position;
}

/** Whether {@link FirmwareOptions.mailboxAnnouncement} is in effect. */
export const announcesMailbox = ({ helper, mailboxAnnouncement }: FirmwareOptions): boolean =>
	helper === 'hardened' || mailboxAnnouncement === 'fixed';

/** Bit of leaf base+1, EAX, that allows the hypercall. */
export const featureBit = (abi: KvmAbi): number =>
	abi === 'v12' ? KvmFeature.SEV_LIVE_MIGRATION : KvmFeature.MIGRATION_CONTROL;
