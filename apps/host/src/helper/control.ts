import type { PageHelper, PageHelperTarget } from '@cvm/qemu-mig';
import type { HelperProfile } from '../options.js';

/** The machine's migration helper can not do what was asked, for a reason that the host knows. One line. */
export class HelperUnavailable extends Error {
	override readonly name = 'HelperUnavailable';
	readonly code = 'helper';
}

/** Whether an error is a helper's, or is about one: its message is for whoever asked. */
export const isHelperError = (error: unknown): error is Error =>
	error instanceof Error && ['HelperUnavailable', 'HelperError', 'MailboxError'].includes(error.name);

/** What a host does with its guest's migration helpers, whichever the firmware has. */
export interface HelperControl {
	readonly profile: HelperProfile;
	/** QEMU's start-migration-handler: lets the mirror vCPUs run and waits until they take commands. Again: no effect. @throws HelperUnavailable, HelperError */
	start(): Promise<void>;
	/** Before a migration, and only then: ends what is left of an earlier one, and asks how the helper stands. @throws HelperError */
	prepare?(role: 'source' | 'target'): Promise<void>;
	/** Why the guest can not leave, or arrive, by its helper; asks it, if it runs and was not just asked. None: `undefined`. */
	blocker(role: 'source' | 'target'): string | undefined;
	/** The helper's half of one outgoing migration. */
	source(): PageHelper;
	/** Pages that do not leave, by their guest-physical address and their offset in their block. */
	omits(gpa: number, offset: number): boolean;
	/** The helper's half of one incoming migration. */
	target(): PageHelperTarget;
	/** The guest has arrived and is about to run. */
	arrived?(): void;
	/** Proof that the guest that arrived last will not run here. @throws HelperError if it does, or none arrived */
	abortToken(): Uint8Array;
	/** Whether the helper has given its guest up, whatever came of its word. A helper that does not answer may have. */
	gaveUp?(): boolean;
	/** Takes the guest back that was given up by this helper, on such a proof, or as it finds that it was not. @throws HelperError */
	revive(token: Uint8Array): void;
}
