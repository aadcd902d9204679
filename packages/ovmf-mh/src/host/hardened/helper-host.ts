import { HelperCommand, HelperStatus, MAX_HELPER_MESSAGE } from '../../mailbox/abi.js';
import { type Answer, type Channel, createChannel, type HelperPort } from './channel.js';
import { HelperError, statusError } from './error.js';

/** How a host works with the helpers of one machine. */
export interface HelperHostOptions {
	/** Helper 0 first: the control commands are its. */
	readonly helpers: readonly HelperPort[];
	/**
	 * Called between two looks at a result, with how often it was looked for: to spin, to sleep, or to run the helper. Default
	 * {@link spinThenSleep}.
	 */
	readonly wait?: (polls: number) => void;
	/** The same for what may take long: lets the host's other work go on. */
	readonly pause: (polls: number) => Promise<void>;
	/** Most milliseconds for a command. Default 10,000; the posted VMM waits 100. */
	readonly timeoutMs?: number;
	/** Most milliseconds for one that goes over all memory: digest, verify, retire. Default 600,000. */
	readonly longTimeoutMs?: number;
	/** Milliseconds that only grow. Default: the system's time. */
	readonly now?: () => number;
}

/** What a control command is given. */
export interface ControlInput {
	/** Default 0. */
	readonly helper?: number;
	/** `count` of the mailbox. Default 0. */
	readonly argument?: number;
	readonly input?: Uint8Array;
	/** Most milliseconds. Default: those of the host, by command. */
	readonly timeoutMs?: number;
}

/** The helpers of one machine, with their mailboxes. */
export interface HelperHost {
	readonly channels: readonly Channel[];
	readonly pause: (polls: number) => Promise<void>;
	/** Counts sessions and their ends: what still waits for one that is over comes to nothing. */
	readonly sessions: { count: number };
	/** Returns once all helpers take commands. @throws HelperError `not-ready` after the time-out */
	awaitReady(): Promise<void>;
	/**
	 * Posts a control command and waits for its output, which is a copy. While another helper is at work it is posted again.
	 *
	 * @throws HelperError
	 */
	control(nr: number, o?: ControlInput): Uint8Array;
	/** The same without keeping the thread. */
	controlLater(nr: number, o?: ControlInput): Promise<Uint8Array>;
	/** Waits for the answer to what was posted. @throws HelperError `timeout`, `bad-answer` */
	answerOf(channel: Channel, timeoutMs?: number): Answer;
	/** The digest of memory, by the helpers of the session's streams at once. Default: all helpers. */
	digest(streams?: number): void;
	digestLater(streams?: number): Promise<void>;
	/** Waits, without keeping the thread, until no helper has a command any more, whoever posted it. @throws HelperError `timeout` */
	idleLater(timeoutMs?: number): Promise<void>;
}

/** Looks at a result some thousand times in a row, then naps between two looks. */
export function spinThenSleep(spins = 4000, sleepMs = 0.05): (polls: number) => void {
	const never = new Int32Array(new SharedArrayBuffer(4));
	return (polls) => {
		if (polls > spins) Atomics.wait(never, 0, 0, sleepMs);
	};
}

const LONG: ReadonlySet<number> = new Set([HelperCommand.digest, HelperCommand.verify, HelperCommand.retire]);
/** The clock is read once in so many looks. */
const LOOKS_PER_CLOCK = 64;

/** @throws RangeError without helpers, and for views that are not theirs */
export function createHelperHost(o: HelperHostOptions): HelperHost {
	const { timeoutMs = 10_000, longTimeoutMs = 600_000, now = Date.now, pause, wait = spinThenSleep() } = o;
	if (o.helpers.length === 0) throw new RangeError('helpers: expected at least one, got none');
	const channels = o.helpers.map(createChannel);
	const channelOf = (helper: number): Channel => {
		const channel = channels[helper];
		if (channel === undefined) throw new RangeError(`helper: expected one below ${channels.length}, got ${helper}`);
		return channel;
	};

	const limitOf = (nr: number): number => (LONG.has(nr) ? longTimeoutMs : timeoutMs);
	const timedOut = (channel: Channel, nr: number | undefined): HelperError => {
		channel.giveUp();
		const details = { helper: channel.index, ...(nr !== undefined && { nr }) };
		return new HelperError('timeout', { ...details, expected: 'a result in time', got: 'none' });
	};
	const awaitAnswer = (channel: Channel, limit: number, nr?: number): Answer => {
		const deadline = now() + limit;
		for (let polls = 1; !channel.isDone(); polls++) {
			if (polls % LOOKS_PER_CLOCK === 0 && now() > deadline) throw timedOut(channel, nr);
			wait(polls);
		}
		return channel.collect();
	};
	const answerLater = async (channel: Channel, limit: number, nr: number): Promise<Answer> => {
		const deadline = now() + limit;
		const { ticket } = channel;
		for (let polls = 1; ; polls++) {
			if (channel.ticket !== ticket || !channel.isPosted) {
				throw new HelperError('aborted', {
					helper: channel.index,
					nr,
					expected: 'its result',
					got: 'the end of the session',
				});
			}
			if (channel.isDone()) return channel.collect();
			if (now() > deadline) throw timedOut(channel, nr);
			await pause(polls);
		}
	};

	const post = (nr: number, { helper = 0, argument = 0, input }: ControlInput): Channel => {
		if (input !== undefined && input.length > MAX_HELPER_MESSAGE) {
			const got = `${input.length}`;
			throw new HelperError('length', { helper, nr, expected: `at most ${MAX_HELPER_MESSAGE} bytes`, got });
		}
		const channel = channelOf(helper);
		channel.post({ nr, count: argument, ...(input !== undefined && { input }) });
		return channel;
	};
	/** The output; `undefined` if the command is to be posted again. */
	const outputOf = (channel: Channel, nr: number, answer: Answer, deadline: number): Uint8Array | undefined => {
		const details = { helper: channel.index, nr };
		if (answer.status === HelperStatus.busy && now() <= deadline) return undefined;
		if (answer.status !== HelperStatus.success) throw statusError(answer.status, details);
		if (answer.outputLength > MAX_HELPER_MESSAGE) {
			const got = `${answer.outputLength}`;
			throw new HelperError('bad-answer', { ...details, expected: `at most ${MAX_HELPER_MESSAGE} bytes`, got });
		}
		const output = new Uint8Array(answer.outputLength);
		channel.copyBodies(output);
		return output;
	};
	const control: HelperHost['control'] = (nr, input = {}) => {
		const limit = input.timeoutMs ?? limitOf(nr);
		const deadline = now() + limit;
		for (;;) {
			const channel = post(nr, input);
			const output = outputOf(channel, nr, awaitAnswer(channel, limit, nr), deadline);
			if (output !== undefined) return output;
			wait(1);
		}
	};
	const controlLater: HelperHost['controlLater'] = async (nr, input = {}) => {
		const limit = input.timeoutMs ?? limitOf(nr);
		const deadline = now() + limit;
		for (;;) {
			const channel = post(nr, input);
			const output = outputOf(channel, nr, await answerLater(channel, limit, nr), deadline);
			if (output !== undefined) return output;
			await pause(1);
		}
	};

	return {
		channels,
		pause,
		sessions: { count: 0 },
		awaitReady: async () => {
			const deadline = now() + timeoutMs;
			for (let polls = 1; ; polls++) {
				const channel = channels.find((one) => !one.isReady());
				if (channel === undefined) return;
				if (now() > deadline) {
					const details = { helper: channel.index, expected: 'a helper that is ready', got: 'none' };
					throw new HelperError('not-ready', details);
				}
				await pause(polls);
			}
		},
		control,
		controlLater,
		answerOf: (channel, limit = timeoutMs) => awaitAnswer(channel, limit),
		digest: (streams = channels.length) => {
			const nr = HelperCommand.digest;
			const used = channels.slice(0, streams);
			for (const { index } of used) post(nr, { helper: index });
			const answers = used.map((channel) => awaitAnswer(channel, longTimeoutMs, nr));
			for (const { index } of used) {
				if (answers[index]?.status === HelperStatus.busy) control(nr, { helper: index });
				else if (answers[index]?.status !== HelperStatus.success) {
					throw statusError(answers[index]?.status ?? 1, { helper: index, nr });
				}
			}
		},
		digestLater: async (streams = channels.length) => {
			const nr = HelperCommand.digest;
			await Promise.all(channels.slice(0, streams).map(({ index }) => controlLater(nr, { helper: index })));
		},
		idleLater: async (limit = longTimeoutMs) => {
			const deadline = now() + limit;
			for (let polls = 1; ; polls++) {
				const channel = channels.find((one) => one.isAtWork());
				if (channel === undefined) return;
				if (now() > deadline) throw timedOut(channel, undefined);
				await pause(polls);
			}
		},
	};
}
