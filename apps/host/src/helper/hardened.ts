import { PAGE_SIZE } from '@cvm/layout';
import {
	BATCH_PAGES,
	bodiesOf,
	createHelperHost,
	createPageHelper,
	createPageHelperTarget,
	HelperCommand,
	HelperPhase,
	helperReport,
	mailboxOf,
	ReportFlag,
} from '@cvm/ovmf-mh/host';
import type { HostContext } from '../context.js';
import { isHelperMemory, touch } from '../pages.js';
import { type HelperControl, HelperUnavailable } from './control.js';
import { guestMemory } from './guest-memory.js';
import type { MirrorVcpus } from './mirror-vcpus.js';
import { awaitSetup } from './setup.js';

/** Most milliseconds for which a helper that does not answer keeps the host from its monitor. */
const QUERY_MS = 1000;
/** The same for commands that somebody gives, once. */
const CONTROL_MS = 10_000;
/** Most milliseconds that `start` waits for what a helper still has to do for the session before. */
const IDLE_MS = 10_000;
/** A target that can not have proved anything: nobody depends on it. */
const UNPROVEN: ReadonlySet<number> = new Set([HelperPhase.answered, HelperPhase.receiving, HelperPhase.proving]);
/** A source that has not given its guest up. */
const UNCOMMITTED: ReadonlySet<number> = new Set([
	HelperPhase.offered,
	HelperPhase.sending,
	HelperPhase.frozen,
	HelperPhase.proven,
]);

/** Looks in a row before the host lets others run. */
const LOOKS = 200;

/** Lets the host's other work go on: at first at the next turn of its loop, then a millisecond later. */
const pause = (polls: number): Promise<void> =>
	new Promise((resolve) => {
		if (polls < LOOKS) setImmediate(resolve);
		else setTimeout(resolve, 1);
	});

/** The hardened helpers of one machine, one on each mirror vCPU. */
export function hardenedControl(context: () => HostContext, mirrors: MirrorVcpus): HelperControl {
	let helpers: ReturnType<typeof createHelperHost> | undefined;
	const host = () => {
		if (mirrors.dead !== undefined) throw new HelperUnavailable(`The migration helper is gone: ${mirrors.dead}`);
		if (!helpers) throw new HelperUnavailable('The migration helper was not started (start-migration-handler)');
		return helpers;
	};
	const gpaOf = (block: number, page: number) => (context().machine.blocks[block]?.gpa ?? 0) + page * PAGE_SIZE;
	const report = (timeoutMs = QUERY_MS) =>
		helperReport.decodePrefix(host().control(HelperCommand.query, { timeoutMs }));
	const reportLater = async () => helperReport.decodePrefix(await host().controlLater(HelperCommand.query));
	const phase = () => report(CONTROL_MS).phase;
	/** What `prepare` heard, until it was looked at. */
	let last: ReturnType<typeof report> | undefined;
	const lastOr = (ask: () => ReturnType<typeof report>) => {
		host();
		const known = last ?? ask();
		last = undefined;
		return known;
	};
	let starting: Promise<void> | undefined;

	const start = async (): Promise<void> => {
		await awaitSetup(context());
		mirrors.start();
		const made = createHelperHost({
			helpers: Array.from({ length: mirrors.count }, (_, helper) => ({
				mailbox: guestMemory(context().machine, mailboxOf(helper), PAGE_SIZE),
				bodies: guestMemory(context().machine, bodiesOf(helper), BATCH_PAGES * PAGE_SIZE),
				kick: () => mirrors.kick(helper),
			})),
			pause,
		});
		await made.awaitReady();
		helpers = made;
	};

	return {
		profile: 'hardened',
		start: async () => {
			if (helpers) {
				host();
				return;
			}
			starting ??= start().finally(() => {
				starting = undefined;
			});
			await starting;
		},
		prepare: async (role) => {
			// The last session may have ended while a helper was at work, and one may not have heard of its end.
			await host().idleLater(IDLE_MS);
			last = await reportLater();
			if (!(role === 'target' ? UNPROVEN : UNCOMMITTED).has(last.phase)) return;
			await host().controlLater(HelperCommand.reset);
			last = await reportLater();
		},
		blocker: (role) => {
			try {
				const { phase: now, flags } = lastOr(report);
				if (role === 'target') {
					if (now === HelperPhase.verified) {
						return 'The guest that arrived here last may be given up by its source: x-migration-token first';
					}
					const waits = now === HelperPhase.empty || now === HelperPhase.aborted;
					return waits ? undefined : 'The guest here is no migration target: it runs, or ran';
				}
				if (now !== HelperPhase.idle) return `The migration helper can not send its guest: it is in phase ${now}`;
				return (flags & ReportFlag.hasSecret) === 0
					? `The guest's owner gave it no migration secret (sev-inject-launch-secret before the guest runs)`
					: undefined;
			} catch (error) {
				return (error as Error).message;
			}
		},
		source: () =>
			createPageHelper(host(), {
				gpaOf,
				// In this moment the guest changes its status; that it did so ends in a page to send again.
				onShared: (block, page) => touch(context().machine, gpaOf(block, page) / PAGE_SIZE),
			}),
		omits: (gpa) => isHelperMemory(gpa),
		target: () => createPageHelperTarget(host(), { gpaOf }),
		abortToken: () => {
			const now = phase();
			if (now !== HelperPhase.verified && now !== HelperPhase.aborted) {
				throw new HelperUnavailable('No guest arrived here of which it is certain that it will not run');
			}
			return host().control(HelperCommand.abort);
		},
		gaveUp: () => {
			try {
				// Asked in earnest: who does not answer is held to have given its guest up.
				const now = phase();
				return now === HelperPhase.committed || now === HelperPhase.retired;
			} catch {
				return true;
			}
		},
		revive: (token) => {
			const now = phase();
			// The host took a helper that did not answer for one that has given its guest up: this one has not, and never will.
			if (now === HelperPhase.idle) return;
			if (UNCOMMITTED.has(now)) host().control(HelperCommand.reset);
			else host().control(HelperCommand.revive, { input: token });
		},
	};
}
