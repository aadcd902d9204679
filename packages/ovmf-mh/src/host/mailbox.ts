import { isAligned, PAGE_SIZE } from '@cvm/layout';
import type { Behaviour } from '../behaviour.js';
import { PublishedGeometry } from '../geometry.js';
import {
	commandBlock,
	commandExtension,
	EXTENSION_OFFSET,
	HelperCommand,
	IO_HEADER_OFFSET,
	MAX_IO_HEADER,
	READY_MAGIC,
	RET_NONE,
	RET_PRELOAD,
} from '../mailbox/abi.js';
import type { MailboxMemory } from './mailbox-memory.js';

/** What QEMU's end of the mailbox does differently from what it was meant to do (QEMU v2 patches 1/12 and 2/12), by switches. */
export interface MailboxDefects {
	/** K12: a command is posted whether or not the handler has started. Fixed: not before it says so. */
	readonly readyFlag: Behaviour;
	/** K13: any completion is that of the last command. Fixed: only one with its sequence number; another means that the command was lost. */
	readonly sequence: Behaviour;
	/** K14: the result is pre-loaded with −1, which is MH_INVALID_FUNC too. Fixed: {@link RET_NONE}. */
	readonly resultPreload: Behaviour;
	/** K20: INIT is sent once in the life of the process. Fixed: once per migration. */
	readonly init: Behaviour;
	/** K21: the length of the header is read three times: to check it, to send it, to send so many bytes. Fixed: once. */
	readonly headerLength: Behaviour;
}

const all = (behaviour: Behaviour): MailboxDefects => ({
	readyFlag: behaviour,
	sequence: behaviour,
	resultPreload: behaviour,
	init: behaviour,
	headerLength: behaviour,
});
export const AS_POSTED_MAILBOX: MailboxDefects = all('asPosted');
/** For a handler with `readyFlag` and `sequence` fixed too. */
export const FIXED_MAILBOX: MailboxDefects = all('fixed');

/** MH_REQUEST_TIMEOUT_MS of QEMU. */
export const REQUEST_TIMEOUT_MS = 100;
/** How often QEMU looks at `done` between two looks at the clock. */
export const POSTED_POLLS = 100_000_000;
/** PROJECT: how often we do. A look takes some nanoseconds. */
const POLLS = 2_000;
/** PROJECT: how long a host sleeps between such rounds. */
const PAUSE_MS = 0.05;

/**
 * What went wrong with a command. `timeout`: −EIO, no completion in time. `refused`: the handler returned something else than 0.
 * `length`: −EINVAL, a header or page of another size. `range`: the guest had the host read beyond its mapping (K21).
 */
export class MailboxError extends Error {
	override readonly name = 'MailboxError';
	readonly code: 'timeout' | 'refused' | 'length' | 'range';
	/** What QEMU's function returns. */
	readonly ret: number;

	constructor(code: MailboxError['code'], message: string) {
		super(message);
		this.code = code;
		this.ret = { timeout: -5, refused: -1, length: -22, range: -14 }[code];
	}
}

/** What all migrations of one VMM process share. */
export interface MailboxProcess {
	initialised: boolean;
}
export const createMailboxProcess = (): MailboxProcess => ({ initialised: false });

export interface MailboxHostOptions {
	readonly memory: MailboxMemory;
	/** Milliseconds, {@link REQUEST_TIMEOUT_MS} by default. */
	readonly timeoutMs?: number;
	/** Looks at `done` between two looks at the clock: the time-out is noticed at the first boundary after it. */
	readonly polls?: number;
	/** Milliseconds of a clock that goes on while nothing runs: `Date.now` by default. */
	readonly now?: () => number;
	/** Called after each round without an answer: lets the vCPU run. By default sleeps for a short time where that is possible. */
	readonly relax?: () => void;
	/** By default each host is a process of its own. */
	readonly process?: MailboxProcess;
	/** As posted, but for what is given here. */
	readonly defects?: Partial<MailboxDefects>;
}

/** A page as the handler gave it. Both arrays are overwritten by the next call. */
export interface SavedPage {
	/** At most 1024 bytes; more if the guest tricks a host as posted (K21). */
	readonly header: Uint8Array;
	/** What the posted host sends as the header's length. */
	readonly headerLength: number;
	readonly body: Uint8Array;
}

/** The VMM's end of the mailbox (QEMU v2, `migration/confidential-ram.c`). Calls wait for the handler; the thread does nothing else. */
export interface MailboxHost {
	/** cgs_mh_init: at RAM save set-up and RAM load set-up. */
	setup(): void;
	/** Issues a command and returns what the handler stored, as i32. @throws MailboxError `timeout` */
	command(nr: number, gpa: number): number;
	/** cgs_mh_save_encrypted_page, with INIT before it if there was none. @throws MailboxError `timeout`, `refused`, `length`, `range` */
	save(gpa: number): SavedPage;
	/**
	 * cgs_mh_load_encrypted_page, with INIT before it if there was none. Returns what the handler stored: it is the caller's to look at.
	 *
	 * UNCERTAIN(QEMU v2 patch 2/12): that its two messages about lengths end in `(len=…)`, as the one of saving does.
	 *
	 * @throws MailboxError `timeout`, `length`
	 * @throws RangeError for an address that is not a multiple of 4096: QEMU's assertion
	 */
	load(gpa: number, header: Uint8Array, body: Uint8Array): number;
	/** cgs_mh_cleanup: RESET, whatever comes of it, at the end of RAM save and at RAM load clean-up. */
	cleanup(): void;
}

const { offsetOf } = commandBlock;
const Field = {
	nr: offsetOf('nr'),
	gpa: offsetOf('gpa'),
	doPrefetch: offsetOf('doPrefetch'),
	ret: offsetOf('ret'),
	go: offsetOf('go'),
	done: offsetOf('done'),
	sequence: EXTENSION_OFFSET + commandExtension.offsetOf('sequence'),
	echo: EXTENSION_OFFSET + commandExtension.offsetOf('echo'),
	ready: EXTENSION_OFFSET + commandExtension.offsetOf('ready'),
} as const;
const HEADER_DATA = IO_HEADER_OFFSET + 4;
const PAGE_OFFSET = PublishedGeometry.ioPage - PublishedGeometry.mailbox;
/** More than this a host as posted would read before it is stopped by the end of its own memory. */
const MAX_OVERREAD = 2 ** 30;
const overread = (length: number): MailboxError =>
	new MailboxError('range', `confidential-ram: header: expected at most ${MAX_IO_HEADER} bytes, read ${length}`);

/**
 * Opens the mailbox. Nothing that the guest stored is believed but for what it claims to have done: lengths are checked, and
 * with K21 fixed read once.
 */
export function createMailboxHost(o: MailboxHostOptions): MailboxHost {
	const { memory, timeoutMs = REQUEST_TIMEOUT_MS, polls = POLLS, now = Date.now } = o;
	const { process = createMailboxProcess(), relax = () => memory.pause(PAUSE_MS) } = o;
	const defects: MailboxDefects = { ...AS_POSTED_MAILBOX, ...o.defects };
	const body = new Uint8Array(PAGE_SIZE);
	const header = new Uint8Array(MAX_IO_HEADER);
	let sequence = 0;

	/** Looks until `isThere`, by the clock at most until `deadline`. */
	const poll = (isThere: () => boolean, deadline: number): boolean => {
		for (;;) {
			for (let i = 0; i < polls; i++) if (isThere()) return true;
			if (now() >= deadline) return false;
			relax();
		}
	};
	const isDone = (): boolean => memory.load(Field.done) !== 0;
	const isReady = (): boolean => memory.load(Field.ready) === READY_MAGIC;

	const post = (nr: number, gpa: number): void => {
		memory.store(Field.nr, nr);
		memory.store(Field.nr + 4, 0);
		memory.store(Field.gpa, gpa % 2 ** 32);
		memory.store(Field.gpa + 4, Math.floor(gpa / 2 ** 32));
		memory.store(Field.doPrefetch, 0);
		memory.store(Field.ret, defects.resultPreload === 'asPosted' ? RET_PRELOAD : RET_NONE);
		memory.store(Field.done, 0);
		// Behind the fields: a handler that reads it first finds fields that are at least as new.
		if (defects.sequence === 'fixed') memory.store(Field.sequence, sequence);
		memory.store(Field.go, 1);
	};

	/** @param fill puts the command's input into the mailbox, before each attempt */
	const issue = (nr: number, gpa: number, fill: () => void = () => undefined): number => {
		const timeout = (): MailboxError =>
			new MailboxError('timeout', `Migration helper command ${nr} timed-out for gpa 0x${gpa.toString(16)}`);
		sequence = (sequence + 1) >>> 0 || 1;
		if (defects.readyFlag === 'fixed' && !isReady() && !poll(isReady, now() + timeoutMs)) throw timeout();
		fill();
		post(nr, gpa);
		const deadline = now() + timeoutMs;
		for (;;) {
			if (!poll(isDone, deadline)) throw timeout();
			if (defects.sequence === 'asPosted' || memory.load(Field.echo) === sequence) return memory.load(Field.ret) | 0;
			// The end of a command that was given up; it has taken `go` away from this one. A guest may claim that for ever.
			if (now() >= deadline) throw timeout();
			fill();
			post(nr, gpa);
		}
	};

	const initialise = (): void => {
		if (process.initialised) return;
		try {
			process.initialised = issue(HelperCommand.init, 0) === 0;
		} catch (error) {
			// QEMU goes on with the page.
			if (!(error instanceof MailboxError)) throw error;
		}
	};

	const readLength = (): number => memory.load(IO_HEADER_OFFSET);
	const tooLarge = (length: number): MailboxError =>
		new MailboxError('length', `confidential-ram: migration helper response is too large (len=${length})`);

	const readHeader = (): Pick<SavedPage, 'header' | 'headerLength'> => {
		const checked = readLength();
		if (checked > MAX_IO_HEADER) throw tooLarge(checked);
		const isPosted = defects.headerLength === 'asPosted';
		const headerLength = isPosted ? readLength() : checked;
		const length = isPosted ? readLength() : checked;
		if (length <= MAX_IO_HEADER) {
			const out = header.subarray(0, length);
			memory.read(HEADER_DATA, out);
			return { header: out, headerLength };
		}
		if (HEADER_DATA + length > MAX_OVERREAD) throw overread(length);
		const out = new Uint8Array(length);
		try {
			memory.read(HEADER_DATA, out);
		} catch {
			throw overread(length);
		}
		return { header: out, headerLength };
	};

	return {
		setup: () => {
			if (defects.init === 'fixed') process.initialised = false;
		},
		command: (nr, gpa) => issue(nr, gpa),
		save: (gpa) => {
			initialise();
			const ret = issue(HelperCommand.save, gpa);
			if (ret !== 0) {
				const what = `Migration helper command ${HelperCommand.save} for gpa 0x${gpa.toString(16)}`;
				throw new MailboxError('refused', `${what}: expected ret 0, got ${ret}`);
			}
			const answer = readHeader();
			memory.read(PAGE_OFFSET, body);
			return { ...answer, body };
		},
		load: (gpa, given, page) => {
			if (!isAligned(gpa, PAGE_SIZE))
				throw new RangeError(`gpa: expected a multiple of 4096, got 0x${gpa.toString(16)}`);
			const what = 'confidential-ram: migration helper';
			if (given.length > MAX_IO_HEADER) {
				throw new MailboxError('length', `${what} page header is too large (len=${given.length})`);
			}
			if (page.length !== PAGE_SIZE) {
				throw new MailboxError('length', `${what} encrypted page is too large (len=${page.length})`);
			}
			initialise();
			return issue(HelperCommand.restore, gpa, () => {
				memory.store(IO_HEADER_OFFSET, given.length);
				memory.write(HEADER_DATA, given);
				memory.write(PAGE_OFFSET, page);
			});
		},
		cleanup: () => {
			try {
				issue(HelperCommand.reset, 0);
			} catch (error) {
				if (!(error instanceof MailboxError)) throw error;
			}
		},
	};
}
