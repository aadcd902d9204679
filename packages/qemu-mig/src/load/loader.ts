import { SectionType } from '../abi/stream.js';
import type { StreamErrorCode, StreamFault } from '../error.js';
import { isStreamError, StreamError } from '../error.js';
import type { Place, StreamHandler } from '../events.js';
import type { TargetInput, TargetState } from '../handover/target.js';
import { stepTarget } from '../handover/target.js';
import type { ByteSink } from '../ports.js';
import { PostcopyTarget } from '../postcopy/target.js';
import type { ReaderOptions } from '../read/options.js';
import { StreamReader } from '../read/reader.js';
import { LoadAnswers } from './answers.js';
import { LoadCommands } from './commands.js';
import { checkConfiguration } from './configuration-check.js';
import { loadDevice } from './device.js';
import { HelperLine } from './helper-line.js';
import { checkPostcopy, missingParts, pageSizeListed } from './limits.js';
import type { LoaderChannel } from './multifd.js';
import { MultifdInputs } from './multifd.js';
import type { Loader, LoaderOptions, LoadOutcome, LoadPart, LoadProgress, LoadStatus } from './options.js';
import { describe, RamLoader } from './ram.js';
import { ramRecords } from './records.js';
import { UrgentInput } from './urgent.js';

/**
 * Receives a migration: reads the stream, checks it against the local machine, puts pages and devices in place and, when
 * all is there, makes the guest run. Feed it from a transport with `push` and `end`; its work happens inside those
 * calls, so reading no further is back-pressure enough. With postcopy the guest runs when the devices are there, and asks for
 * the pages that are not.
 *
 * @throws RangeError if options do not go together
 */
export const createLoader = (options: LoaderOptions): Loader => new StreamLoader(options);

const EMPTY = new Uint8Array(0);

class StreamLoader implements Loader {
	readonly outcome: Promise<LoadOutcome>;
	readonly #options: LoaderOptions;
	#reader: StreamReader;
	readonly #ram: RamLoader;
	readonly #handover: boolean;
	readonly #postcopy: PostcopyTarget | undefined;
	readonly #multifd: MultifdInputs | undefined;
	readonly #barrier: 'section' | 'flush' | undefined;
	readonly #answers: LoadAnswers;
	readonly #commands: LoadCommands;
	readonly #helper: HelperLine;
	readonly #parts = new Map<LoadPart, number>();
	readonly #devices: string[] = [];
	readonly #warnings: string[] = [];
	#state: TargetState = 'loading';
	#status: LoadStatus = 'active';
	/** In postcopy: the guest being started. */
	#starting: Promise<void> | undefined;
	#eof = false;
	/** Connection of urgent pages, and what came on earlier ones. */
	#urgent: UrgentInput | undefined;
	readonly #urgentBefore: RamLoader[] = [];
	/** `end` was called while the stream waits for the channels. */
	#ending = false;
	#settle: (outcome: LoadOutcome) => void = () => {};

	constructor(options: LoaderOptions) {
		const { sink, postcopy, multifd, reply, dialect } = options;
		this.#options = options;
		this.#handover = options.handover ?? false;
		this.#answers = new LoadAnswers(reply, this.#warnings);
		checkPostcopy(options);
		if (postcopy !== undefined) {
			this.#postcopy = new PostcopyTarget(sink.blocks, postcopy, (message) => this.#answers.send(message));
		}
		this.#ram = new RamLoader(sink, this.#postcopy);
		this.outcome = new Promise((resolve) => {
			this.#settle = resolve;
		});
		this.#helper = new HelperLine(sink.helper, this.#answers, this.#ram);
		this.#commands = new LoadCommands(
			this.#answers,
			this.#postcopy,
			{
				commit: (at) => this.#commit(at),
				message: (data, at) => this.#message(data, at),
				run: () => this.#run(),
				resume: () => this.#resume(),
			},
			this.#warnings,
		);
		this.#reader = this.#newReader({});
		if (multifd === undefined) return;
		this.#barrier = multifd.barrier ?? (dialect === 'qemu-9' ? 'flush' : 'section');
		this.#multifd = new MultifdInputs(multifd, this.#ram, options.uuid, {
			reader: this.#reader,
			goOn: () => this.#goOn(),
		});
	}

	get progress(): LoadProgress {
		const rams = [this.#ram, ...this.#urgentRams];
		const sum = (count: (ram: RamLoader) => number): number => rams.reduce((total, ram) => total + count(ram), 0);
		return {
			parts: this.#parts,
			bytes: this.#reader.offset,
			plainPages: sum((ram) => ram.plainPages),
			zeroPages: sum((ram) => ram.zeroPages),
			privatePages: sum((ram) => ram.privatePages),
			encodedPages: sum((ram) => ram.encodedPages),
			devices: this.#devices,
			warnings: this.#warnings,
		};
	}

	get status(): LoadStatus {
		return this.#status;
	}

	get waiting(): boolean {
		return this.#reader.paused;
	}

	push(chunk: Uint8Array): void {
		if (this.#status === 'postcopy-paused') return;
		this.#guard(() => {
			this.#reader.push(chunk);
			this.#multifd?.pump();
		});
	}

	end(): void {
		if (this.#status === 'postcopy-paused') return;
		this.#guard(() => {
			if (this.#reader.paused) this.#ending = true;
			else this.#ended();
		});
	}

	channel(): LoaderChannel {
		if (this.#multifd === undefined) throw new RangeError('channel: expected option multifd, got none');
		return this.#multifd.open((work) => this.#guard(work));
	}

	fault(block: number, page: number): boolean {
		return this.#postcopy?.fault(block, page) ?? false;
	}

	urgent(): LoaderChannel {
		const { preempt } = this.#options;
		const postcopy = this.#postcopy;
		if (!preempt || postcopy === undefined) throw new RangeError('urgent: expected option preempt, got none');
		if (this.#urgent !== undefined) throw new RangeError('urgent: expected one connection at a time, got another');
		const input = new UrgentInput(this.#options, postcopy.connection(), () => this.#reader.resumeState);
		this.#urgent = input;
		const step = (work: () => void): void => {
			if (this.#urgent !== input || this.#status === 'postcopy-paused') return;
			this.#guard(() => {
				work();
				this.#postcopyEnded();
			});
		};
		return { push: (chunk) => step(() => input.push(chunk)), end: () => step(() => input.end()), waiting: false };
	}

	recover(reply: ByteSink): boolean {
		if (this.#status !== 'postcopy-paused') return false;
		if (this.#urgent !== undefined) this.#urgentBefore.push(this.#urgent.ram);
		this.#urgent = undefined;
		this.#eof = false;
		this.#reader = this.#newReader({ stream: 'recovery', resume: this.#reader.resumeState });
		this.#answers.reconnect(reply);
		this.#setStatus('postcopy-recover');
		return true;
	}

	#newReader(o: Pick<ReaderOptions, 'stream' | 'resume'>): StreamReader {
		const { dialect, deviceLength, limits, compress, postcopy, sink } = this.#options;
		return new StreamReader({
			dialect,
			handler: this.#handler(),
			check: 'target',
			compress: compress ?? false,
			...(postcopy === undefined ? {} : { pageSizeListed: pageSizeListed(sink.blocks) }),
			...(deviceLength === undefined ? {} : { deviceLength }),
			...(limits === undefined ? {} : { limits }),
			...o,
		});
	}

	/** Reads what was kept while the channels were behind. */
	#goOn(): void {
		this.#reader.push(EMPTY);
		if (this.#ending && !this.#reader.paused) this.#ended();
	}

	#ended(): void {
		this.#reader.end();
		if (this.#starting !== undefined) {
			// What is missing still comes on the other connection, if there is one.
			if (this.#options.preempt && this.#urgent === undefined) {
				throw this.#fault('incomplete', 'postcopy-preempt: expected a connection of urgent pages, got none');
			}
			return;
		}
		// EOF was read, or the line above would have thrown: a missing description is only worth a warning.
		if (this.#state === 'loading') this.#withoutDescription();
		if (this.#state === 'awaiting-commit') {
			throw this.#fault('incomplete', 'hand-over: expected the commit command, got the end of the stream');
		}
	}

	#guard(work: () => void): void {
		try {
			work();
		} catch (error) {
			const fault = isStreamError(error)
				? error
				: this.#fault('device', `host: expected its callbacks to succeed, got ${describe(error)}`, error);
			if (this.#pause(fault)) return;
			this.#fail(fault);
			throw fault;
		}
	}

	#handler(): StreamHandler {
		const ram = this.#ram;
		return {
			header: (_version, at) => this.#arrived('header', at),
			configuration: (configuration, at) => {
				const { machineType, uuid, mappedRam, dialect } = this.#options;
				const local = {
					...{ machineType, handover: this.#handover, ...(uuid === undefined ? {} : { uuid }) },
					...(dialect === 'qemu-9' && { mappedRam: mappedRam ?? false }),
				};
				this.#warnings.push(...checkConfiguration(configuration, local, at));
				this.#arrived('configuration', at);
			},
			...ramRecords(ram, this.#options, (part, at) => this.#arrived(part, at)),
			multifdFlush: () => this.#reachedBarrier('flush'),
			endOfRecords: (_address, at) => {
				ram.flush(at);
				ram.flushHelper(at);
				this.#reachedBarrier('section');
			},
			opaqueBody: (section, body, at) => this.#devices.push(loadDevice(this.#options, section, body, at)),
			sectionEnd: (section, at) => {
				if (section.idstr === 'ram' && section.type === SectionType.end) this.#arrived('ram-end', at);
				if (section.idstr !== 'ram') this.#arrived('devices', at);
			},
			command: (command, data, at) => this.#commands.carryOut(command, data, at),
			eof: (at) => this.#reachedEof(at),
			vmDescription: (_json, at) => {
				this.#arrived('description', at);
				if (this.#state === 'loading' && this.#starting === undefined) this.#loaded();
			},
			trailing: () => {
				if (this.#state === 'loading' && this.#starting === undefined) this.#withoutDescription();
			},
		};
	}

	#reachedBarrier(barrier: 'section' | 'flush'): void {
		if (barrier === this.#barrier) this.#reader.paused = true;
	}

	#reachedEof(at: Place): void {
		if (at.packaged) return;
		this.#eof = true;
		this.#arrived('eof', at);
		if (this.#starting !== undefined) this.#postcopyEnded();
		else if (this.#options.vmDescription === false && !this.#handover) this.#loaded();
	}

	/** In postcopy: whether nothing more can come. */
	get #whole(): boolean {
		return this.#eof && (!this.#options.preempt || this.#urgent?.complete === true);
	}

	#postcopyEnded(): void {
		if (this.#starting === undefined || this.#state !== 'loading' || !this.#whole) return;
		this.#step('loaded');
		this.#finish();
	}

	get #urgentRams(): RamLoader[] {
		return this.#urgent === undefined ? this.#urgentBefore : [...this.#urgentBefore, this.#urgent.ram];
	}

	#commit(at: Place): void {
		if (this.#state !== 'awaiting-commit') {
			const message = `HANDOVER_COMMIT: expected it after the acknowledgement, got it ${this.#state}`;
			throw new StreamError({ code: 'command', message }, at);
		}
		this.#step('commit');
		this.#finish();
	}

	#message(data: Uint8Array, at: Place): void {
		if (this.#state !== 'loading' && this.#state !== 'awaiting-commit') {
			const message = `HELPER_MESSAGE: expected it before the commit, got it ${this.#state}`;
			throw new StreamError({ code: 'command', message }, at);
		}
		this.#helper.message(data, at);
		this.#step('message');
	}

	/** The guest runs from here on; what is missing of its memory follows. */
	#run(): void {
		this.#setStatus('postcopy-active');
		this.#starting = start(this.#options, this.progress);
		// A guest that cannot be started needs no more pages.
		this.#starting.catch((cause: unknown) => this.#cannotStart(cause));
	}

	#resume(): boolean {
		if (this.#status !== 'postcopy-recover') return false;
		this.#setStatus('postcopy-active');
		return true;
	}

	/** Whether a failure only means that another connection is needed. QEMU 7.2 migration/savevm.c `postcopy_pause_incoming`. */
	#pause(fault: StreamError): boolean {
		if (this.#status !== 'postcopy-active' && this.#status !== 'postcopy-recover') return false;
		if (this.#whole) return false;
		this.#warnings.push(fault.message, 'Detected IO failure for postcopy. Migration paused.');
		this.#answers.reconnect(undefined);
		this.#postcopy?.paused();
		this.#setStatus('postcopy-paused');
		return true;
	}

	#withoutDescription(): void {
		if (!this.#eof) return;
		this.#warnings.push('Expected vmdescription section');
		this.#loaded();
	}

	#loaded(): void {
		const missing = this.#missing();
		if (this.#handover && !this.#answers.open) {
			throw this.#fault('incomplete', 'hand-over: expected OPEN_RETURN_PATH in the stream, got none');
		}
		if (this.#handover && missing.length > 0) {
			throw this.#fault('incomplete', `hand-over: expected every part, got a stream without ${missing.join(', ')}`);
		}
		this.#step('loaded');
		if (!this.#handover) this.#finish();
	}

	#missing(): LoadPart[] {
		const { vmDescription } = this.#options;
		const description = vmDescription !== false && this.#starting === undefined;
		return missingParts(this.#parts, { description, sharedRegions: this.#ram.sealedPages > 0 });
	}

	/** Runs detached: every way it can end is caught here. */
	async #finish(): Promise<void> {
		const missing = this.#missing();
		try {
			await (this.#starting ?? start(this.#options, this.progress));
		} catch (cause) {
			this.#cannotStart(cause);
			return;
		}
		this.#step('finished');
		this.#setStatus('completed');
		this.#settle({ status: 'running', complete: missing.length === 0, missing });
	}

	#cannotStart(cause: unknown): void {
		if (this.#status === 'failed') return;
		this.#fail(this.#fault('finish', `host: expected the guest to start, got ${describe(cause)}`, cause));
	}

	#step(input: TargetInput): void {
		const { state, reply } = stepTarget(this.#handover, this.#state, input);
		this.#state = state;
		if (reply !== undefined) this.#answers.reply(reply);
	}

	/** A guest that is starting or runs stays: what arrives afterwards cannot undo it. */
	#fail(error: StreamError): void {
		if (this.#state === 'running' || (this.#state === 'finishing' && error.code !== 'finish')) return;
		this.#helper.failed();
		this.#step('failed');
		this.#setStatus('failed');
		this.#settle({ status: 'failed', error });
	}

	#setStatus(status: LoadStatus): void {
		this.#status = status;
		this.#options.status?.(status);
	}

	#arrived(part: LoadPart, at: Place): void {
		this.#parts.set(part, at.offset);
		this.#options.arrived?.(part, this.progress);
	}

	#fault(code: StreamErrorCode, message: string, cause?: unknown): StreamError {
		const fault: StreamFault = cause === undefined ? { code, message } : { code, message, cause };
		return new StreamError(fault, { offset: this.#reader.offset, section: undefined, inBody: false });
	}
}

/** Also what it throws at once becomes a rejection. */
async function start(options: LoaderOptions, progress: LoadProgress): Promise<void> {
	await options.finish(progress);
}
