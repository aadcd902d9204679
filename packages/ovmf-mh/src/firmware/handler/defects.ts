import type { Behaviour } from '../../behaviour.js';

/**
 * What the handler of August 2021 does differently from what it was meant to do (edk2 branch sev-mirror2-patches), each with a
 * switch. All are there by default, but {@link HandlerDefects.virtualAddressMap}. The host's end has its own: `MailboxDefects`.
 */
export interface HandlerDefects {
	/** K1: the guard compares addresses with that of the page tables with bit 47 in it. Fixed: without. */
	readonly tableGuardAddress: Behaviour;
	/** K2: that guard covers 11 pages from the second page of the pool on. Fixed: the pool. */
	readonly tableGuardLength: Behaviour;
	/** K3: the guard of the stack covers 4 bytes. Fixed: 4 pages. */
	readonly stackGuardLength: Behaviour;
	/** K4: RSP starts at the lowest address of the stack, so that all pushes are below it. Fixed: at its end. */
	readonly stackPointer: Behaviour;
	/** K5: the guard of the mailbox covers two of its three pages. Fixed: all. */
	readonly mailboxGuardLength: Behaviour;
	/** K6: entry page and the driver's own data are not guarded. Fixed: they are. */
	readonly imageGuard: Behaviour;
	/** K7: a restore that was refused succeeds. Fixed: it returns `HelperStatus.address`. */
	readonly refusedRestore: Behaviour;
	/** K8: guards look at the first byte of the page only, which need not be aligned. Fixed: aligned, and all of it. */
	readonly guardRange: Behaviour;
	/** K9: nothing is refused when saving. Fixed: what a restore would be refused for. */
	readonly saveGuard: Behaviour;
	/** K10: the address is a virtual one like any other. Fixed: one of RAM, as the firmware knows it. */
	readonly addressCheck: Behaviour;
	/** K11: the address is read from shared memory for each comparison, and once more for the copy. Fixed: once, with the command. */
	readonly commandReads: Behaviour;
	/** K12: `go` is cleared at the start, `done` is not, and nobody knows when. Fixed: `done` too, and then `ready` is set. */
	readonly readyFlag: Behaviour;
	/** K13: a result does not say which command it belongs to. Fixed: `echo`. */
	readonly sequence: Behaviour;
	/** K15: the C-bit is bit 47. Fixed: what CPUID says. */
	readonly encryptionBit: Behaviour;
	/** K16: CR3 is a u32 in the entry page. Fixed: tables above 4 GiB are refused, as 32-bit code cannot load them. */
	readonly rootAddress: Behaviour;
	/** K17: the copy of the GDT is as long as its limit says, a byte too short. Fixed: with its last byte. */
	readonly gdtLength: Behaviour;
	/**
	 * K23: SetVirtualAddressMap changes addresses that the loop uses. `fixed` by default.
	 *
	 * UNCERTAIN(edk2 branch sev-mirror2-patches, ConfidentialMigrationDxe): whether any address of the loop is affected.
	 */
	readonly virtualAddressMap: Behaviour;
}

const names = [
	...(['tableGuardAddress', 'tableGuardLength', 'stackGuardLength', 'stackPointer', 'mailboxGuardLength'] as const),
	...(['imageGuard', 'refusedRestore', 'guardRange', 'saveGuard', 'addressCheck', 'commandReads'] as const),
	...(['readyFlag', 'sequence', 'encryptionBit', 'rootAddress', 'gdtLength', 'virtualAddressMap'] as const),
] satisfies readonly (keyof HandlerDefects)[];

const all = (behaviour: Behaviour): HandlerDefects =>
	Object.fromEntries(names.map((name) => [name, behaviour])) as Record<(typeof names)[number], Behaviour>;

/** As the patches were posted. */
export const AS_POSTED_HANDLER: HandlerDefects = { ...all('asPosted'), virtualAddressMap: 'fixed' };
/** Without any of its defects; it still encrypts nothing. */
export const FIXED_HANDLER: HandlerDefects = all('fixed');

/** The default with some changes. */
export const handlerDefects = (changes: Partial<HandlerDefects> = {}): HandlerDefects => ({
	...AS_POSTED_HANDLER,
	...changes,
});
