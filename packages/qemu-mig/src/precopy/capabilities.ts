import { DIALECTS } from '../dialect.js';
import type { ByteSink, PageHelper } from '../ports.js';
import { helperOf } from './helper-sender.js';
import type { PrecopyOptions } from './options.js';

/** QEMU's migration capabilities of the same names, as far as a source needs them; all off by default. */
export interface PrecopyCapabilities {
	/** `auto-converge`: throttles a guest that dirties faster than is worth sending; needs `vm.throttle`. */
	readonly autoConverge?: boolean;
	/** `xbzrle`: after the first walk over memory, pages go as what changed since they were last sent. Not with multifd. */
	readonly xbzrle?: boolean;
	/** `compress`: pages go as zlib streams, until `xbzrle` takes over. Not with multifd or postcopy. */
	readonly compress?: boolean;
	/** `postcopy-ram`: the guest may move before its memory does (`startPostcopy`). Not with multifd or a hand-over. */
	readonly postcopyRam?: boolean;
	/** `postcopy-preempt`: in postcopy, pages that the guest waits for go on a connection of their own, `urgent`. */
	readonly postcopyPreempt?: boolean;
	/** `release-ram`: in postcopy, pages that the target has are given back (`source.release`). */
	readonly releaseRam?: boolean;
	/** `pause-before-switchover`: waits, with the guest stopped, for `continue`. */
	readonly pauseBeforeSwitchover?: boolean;
}

/** Most pages asked of an in-guest helper at once: what a slice puts into the stream is kept in memory. */
const MAX_HELPER_BATCH = 1024;

/**
 * Refuses what does not go together, before anything has happened.
 *
 * @throws RangeError which says what and why. QEMU 7.2 migration/migration.c `migrate_caps_check`
 */
export function checkCapabilities({
	capabilities = {},
	multifd,
	urgent,
	source,
	vm,
	dialect,
	returnPath,
}: PrecopyOptions): void {
	const { autoConverge, xbzrle, compress, postcopyRam, postcopyPreempt, releaseRam } = capabilities;
	checkHelper(helperOf(source, dialect), { multifd: multifd !== undefined, 'postcopy-ram': postcopyRam, returnPath });
	if (autoConverge && vm.throttle === undefined) refuse('auto-converge: expected a VM with throttle, got none');
	if (multifd !== undefined) {
		if (multifd.sinks.length < 1 || multifd.sinks.length > 255) {
			refuse(`multifd: expected 1 to 255 channels, got ${multifd.sinks.length}`);
		}
		for (const [name, on] of Object.entries({ xbzrle, compress, 'postcopy-ram': postcopyRam })) {
			if (on) refuse(`multifd: expected it without ${name}, got both`);
		}
	}
	if (releaseRam && source.release === undefined) refuse('release-ram: expected a source with release, got none');
	if (postcopyPreempt && !postcopyRam) refuse('Postcopy preempt requires postcopy-ram');
	checkUrgent(capabilities, urgent);
	if (!postcopyRam) return;
	if (compress) refuse('Postcopy is not currently compatible with compression');
	if (returnPath !== 'return-path') refuse(`postcopy-ram: expected returnPath 'return-path', got '${returnPath}'`);
	if (source.sealer !== undefined && DIALECTS[dialect].pageStatus !== undefined && source.helper === undefined) {
		refuse(
			'postcopy-ram: expected pages that can be put into a running guest, got ones sealed by SEV firmware: ' +
				'RECEIVE_UPDATE_DATA is not allowed after RECEIVE_FINISH, and a guest runs only after that',
		);
	}
}

function checkHelper(
	helper: PageHelper | undefined,
	{ returnPath, ...others }: { multifd: boolean; 'postcopy-ram': boolean | undefined; returnPath: string | undefined },
): void {
	const { batchPages = 1 } = helper ?? {};
	if (!Number.isInteger(batchPages) || batchPages < 1 || batchPages > MAX_HELPER_BATCH) {
		refuse(`helper: expected batches of 1 to ${MAX_HELPER_BATCH} pages, got ${batchPages}`);
	}
	if (helper?.open === undefined) return;
	for (const [name, on] of Object.entries(others)) {
		if (on) refuse(`${name}: expected it without a session of in-guest helpers, got both`);
	}
	if (returnPath !== 'handover') {
		refuse(`helper session: expected returnPath 'handover', got '${returnPath ?? 'none'}'`);
	}
}

/** Whether there is a connection for urgent pages exactly if the capability wants one. @throws RangeError */
export function checkUrgent({ postcopyPreempt = false }: PrecopyCapabilities, urgent: ByteSink | undefined): void {
	if (postcopyPreempt === (urgent !== undefined)) return;
	const [expected, got] = postcopyPreempt ? ['one', 'none'] : ['none', 'one'];
	refuse(`postcopy-preempt: expected ${expected} as the connection of urgent pages, got ${got}`);
}

function refuse(message: string): never {
	throw new RangeError(message);
}
