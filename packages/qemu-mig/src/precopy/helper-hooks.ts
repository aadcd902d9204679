import { Command } from '../abi/stream.js';
import { encodeCommand } from '../command.js';
import type { HelperPeer, PageHelper } from '../ports.js';
import type { Answers } from './answers.js';
import { failureOf, PrecopyError } from './failure.js';
import type { HelperInbox } from './helper-inbox.js';
import type { Output } from './output.js';

type HookName = 'open' | 'commit' | 'another';

/** What {@link HelperHooks} works with. */
export interface HelperHooksOptions {
	readonly helper: PageHelper | undefined;
	readonly inbox: HelperInbox;
	readonly output: Output;
	readonly answers: Answers;
}

/**
 * The in-guest helper's part in a migration besides pages, and its line to the helper of the target. Hooks run one at a time,
 * and only between sections, where the stream can hold a command.
 *
 * | Hook | When | Rejected or cut short |
 * | --- | --- | --- |
 * | open | return path open, before START | the source goes on |
 * | epoch | after each pass of the dirty log but the first | the source goes on |
 * | freeze | VM stopped, after its epoch, before END | the source goes on |
 * | prove | after END, before the devices | the source goes on |
 * | commit | after SWITCHOVER_ACK and `options.commit` | the source goes on, unless something was sent |
 * | conclude | after COMMAND 0x4356 | the guest is given up, unless with `HelperRevived` |
 * | failed | at the end, if the source goes on | |
 */
export class HelperHooks {
	readonly #o: HelperHooksOptions;
	/** The hook that runs; only then messages may be sent. */
	#running: HookName | undefined;
	#givenUp = false;
	#revived = false;
	readonly #peer: HelperPeer = {
		send: (message) => this.#send(message),
		receive: () => this.#receive(),
	};

	constructor(options: HelperHooksOptions) {
		this.#o = options;
	}

	/** Whether the guest is given up, or was but came back: `undefined` if the helper has no say. */
	get mayResume(): boolean | undefined {
		if (this.#revived) return true;
		return this.#givenUp ? false : undefined;
	}

	open(): Promise<void> {
		return this.#run((helper) => helper.open?.(this.#peer), 'open');
	}

	epoch(): void {
		this.#now((helper) => helper.epoch?.(this.#peer));
	}

	freeze(): void {
		this.#now((helper) => helper.freeze?.());
	}

	prove(): Promise<void> {
		return this.#run((helper) => helper.prove?.(this.#peer));
	}

	commit(): Promise<void> {
		return this.#run((helper) => helper.commit?.(this.#peer), 'commit');
	}

	conclude(): Promise<void> {
		return this.#run((helper) => helper.conclude?.(this.#peer));
	}

	/** The migration has ended so; what the helper must know of it, it is told. */
	ended(sourceGoesOn: boolean): void {
		this.#o.inbox.end(new PrecopyError('helper', 'helper: expected a migration, got its end'));
		if (!sourceGoesOn || this.#revived) return;
		try {
			this.#o.helper?.failed?.();
		} catch {
			// The outcome is decided.
		}
	}

	/** What became of the guest belongs to the error: nobody else can tell. */
	describe(error: PrecopyError, mayResume: boolean): PrecopyError {
		if (mayResume || this.#o.helper?.open === undefined) return error;
		return new PrecopyError(error.code, `${error.message}; the guest was given up`, error);
	}

	#now(work: (helper: PageHelper) => void): void {
		const { helper, output } = this.#o;
		if (helper === undefined) return;
		output.waiter.check();
		this.#running = 'another';
		try {
			work(helper);
		} catch (cause) {
			// What it was refused because of an end is not its failure.
			output.waiter.check();
			throw failureOf('helper', cause);
		} finally {
			this.#running = undefined;
		}
	}

	async #run(work: (helper: PageHelper) => Promise<void> | undefined, as: HookName = 'another'): Promise<void> {
		const { helper, output, inbox } = this.#o;
		if (helper === undefined) return;
		output.waiter.check();
		this.#running = as;
		const done = settled(helper, work);
		try {
			await output.wait(done);
		} catch (reason) {
			// Whatever it waits for does not come any more, and nobody else must call the helper before it knows that.
			inbox.end(failureOf('helper', reason));
			let why = reason;
			await done.catch((cause: PrecopyError) => {
				if (isRevived(cause.cause)) this.#revived = true;
				// A target that refuses may have said why, right before its end.
				if (as === 'open' && reason instanceof PrecopyError) why = cause;
			});
			throw why;
		} finally {
			this.#running = undefined;
		}
	}

	#send(message: Uint8Array): void {
		const { helper, output, answers } = this.#o;
		const data = encodeCommand({ command: Command.helperMessage, message });
		if (helper?.open === undefined) throw new RangeError('helper message: expected a helper with a session, got none');
		if (this.#running === undefined) throw new RangeError('helper message: expected it inside a hook, got it outside');
		if (this.#running === 'commit' && !this.#givenUp) {
			// Even if it never arrives: the helper has given the guest away with it.
			this.#givenUp = true;
			output.waiter.check();
			answers.step({ type: 'committed' });
		}
		output.waiter.check();
		output.writer.command(Command.helperMessage, data);
	}

	#receive(): Promise<Uint8Array> {
		const { output, inbox } = this.#o;
		if (inbox.empty) output.writer.flush().catch((cause) => output.waiter.interrupt(failureOf('sink', cause)));
		return inbox.receive();
	}
}

/** A hook's work; also what it throws at once becomes a rejection, each with a {@link PrecopyError}. */
async function settled(helper: PageHelper, work: (helper: PageHelper) => Promise<void> | undefined): Promise<void> {
	try {
		await work(helper);
	} catch (cause) {
		throw failureOf('helper', cause);
	}
}

const isRevived = (cause: unknown): boolean => cause instanceof Error && cause.name === 'HelperRevived';
