import { answerHypercall, type HypercallOptions } from './hypercall.js';
import { createMigrationMsr, type MigrationMsr, type MigrationMsrOptions } from './migration-msr.js';
import { createSharedPages, type PageStatusTracker, type SharedPages } from './shared-pages.js';

/** Everything that a guest told its VMM for the sake of migration. */
export interface GuestStatus<P extends PageStatusTracker = SharedPages> {
	readonly pages: P;
	readonly msr: MigrationMsr;
	/** Answers page-status and MSR exits. @returns false, and nothing is written, if the exit is another one */
	answer(run: Uint8Array): boolean;
	/** The machine was reset: its memory is private again, and the guest has to give its consent anew. */
	reset(): void;
}

type StatusOptions = MigrationMsrOptions & Omit<HypercallOptions, 'pages'>;

/** A new guest's status, by guest frame. */
export function createGuestStatus(o: StatusOptions): GuestStatus;
/** A new guest's status in a tracker of the caller's. */
export function createGuestStatus<P extends PageStatusTracker>(o: StatusOptions, pages: P): GuestStatus<P>;
export function createGuestStatus(
	o: StatusOptions,
	pages: PageStatusTracker = createSharedPages(),
): GuestStatus<PageStatusTracker> {
	const msr = createMigrationMsr(o);
	const hypercalls: HypercallOptions = { ...o, pages };
	return {
		pages,
		msr,
		answer: (run) => answerHypercall(run, hypercalls) || msr.answer(run),
		reset: () => {
			pages.clear();
			msr.reset();
		},
	};
}
