import { PAGE_SIZE } from '@cvm/layout';
import { ReturnMessage } from '../abi/return-path.js';
import { Command } from '../abi/stream.js';
import { encodeCommand, MAX_DISCARDS_PER_COMMAND } from '../command.js';
import type { DecodedReturn } from '../handover/return-message.js';
import type { ByteSink, DeviceSection, PageSource } from '../ports.js';
import type { Answers, PostcopyAnswers } from '../precopy/answers.js';
import { PrecopyError } from '../precopy/failure.js';
import type { MigrationStatus } from '../precopy/info.js';
import type { Output } from '../precopy/output.js';
import type { Pacer } from '../precopy/pacer.js';
import type { PrecopyParameters } from '../precopy/parameters.js';
import { DEFAULTS, MAX_WAIT, PAGES_PER_TIME_CHECK } from '../precopy/parameters.js';
import type { RamSender } from '../precopy/ram-sender.js';
import { PagesToRelease, wholeHostPages } from './dirty.js';
import { hostPageSize } from './host-page.js';
import { writePackage } from './package.js';
import { RequestQueue } from './requests.js';
import { SourceRecovery } from './source-recovery.js';
import { UrgentSender } from './urgent-sender.js';

/** What {@link PostcopySource} works with. */
export interface PostcopySourceOptions {
	readonly source: PageSource;
	readonly output: Output;
	readonly ram: RamSender;
	readonly answers: Answers;
	readonly pacer: Pacer;
	readonly parameters: PrecopyParameters;
	readonly release: boolean;
	/** The connection of `postcopy-preempt`. */
	readonly urgent?: ByteSink;
	status(status: MigrationStatus): void;
}

/** The connection is of no use any more; the guest is not lost. */
class Broken extends Error {
	override readonly name = 'Broken';
}

/**
 * The source's half of postcopy: tells what the target must forget, sends the devices and lets the guest run there, then
 * sends what is left, what the guest waits for first, or on a connection of its own.
 *
 * | Status | Event | Next |
 * | --- | --- | --- |
 * | postcopy-active | nothing left, SHUT 0 | (completed) |
 * | postcopy-active | SHUT other than 0 | (failed) |
 * | postcopy-active, postcopy-recover | the connection fails, in either direction | postcopy-paused |
 * | postcopy-paused | `recover` | postcopy-recover |
 * | postcopy-paused | `abandon` | (failed) |
 * | postcopy-recover | a bitmap of each block, RESUME_ACK | postcopy-active |
 *
 * QEMU 7.2 migration/migration.c `postcopy_start`, migration/ram.c `ram_postcopy_send_discard_bitmap`, `get_queued_page`.
 * DEVIATION(QEMU 7.2 migration/migration.c `mark_source_rp_bad`): an answer that cannot be understood pauses, too.
 */
export class PostcopySource implements PostcopyAnswers {
	readonly #o: PostcopySourceOptions;
	readonly #requests: RequestQueue;
	readonly #released: PagesToRelease;
	/** Of the present connection. */
	#urgent: UrgentSender | undefined;
	#recovery: SourceRecovery | undefined;
	#paused = false;
	#recovered: (what: 'recover' | 'abandon') => void = () => {};

	constructor(options: PostcopySourceOptions) {
		this.#o = options;
		this.#requests = new RequestQueue(options.source.blocks, options.output.statistics);
		this.#released = new PagesToRelease(options.source, options.ram.dirty, options.release);
		this.#urgent = this.#urgentSender(options.urgent);
	}

	/** Everything up to the point where the guest runs on the target. The guest is stopped and the log read. */
	async start(devices: readonly DeviceSection[]): Promise<void> {
		const { output, answers, source, ram } = this.#o;
		wholeHostPages(source.blocks, ram.dirty);
		output.statistics.remaining = ram.pending;
		this.#discard();
		ram.dirty.seek(0, 0);
		ram.stage = 'postcopy';
		this.#ping(2);
		await writePackage(output, devices);
		await output.flush();
		// From the next byte on the target may run.
		answers.postcopy = this;
		output.writer.command(Command.postcopyRun, new Uint8Array(0));
		this.#ping(4);
		this.#released.alreadySent();
	}

	/** Sends what is left, over as many connections as it takes. */
	async run(): Promise<void> {
		for (;;) {
			try {
				await this.#send();
				return;
			} catch (reason) {
				if (!pauses(reason)) throw reason;
			}
			do if ((await this.#pause()) === 'abandon') throw ABANDONED;
			while (!(await this.#recover()));
		}
	}

	/** False unless paused. */
	recover(sink: ByteSink, urgent?: ByteSink): boolean {
		if (!this.#paused) return false;
		this.#paused = false;
		const { output, answers } = this.#o;
		output.reconnect(sink);
		answers.reconnect();
		this.#urgent = this.#urgentSender(urgent);
		this.#recovery = new SourceRecovery(this.#o.source.blocks, this.#o.ram.dirty, output);
		this.#recovered('recover');
		return true;
	}

	/** False unless paused. */
	abandon(): boolean {
		if (!this.#paused) return false;
		this.#paused = false;
		this.#recovered('abandon');
		return true;
	}

	message(message: DecodedReturn): string | undefined {
		if (this.#paused) return undefined;
		switch (message.type) {
			case ReturnMessage.reqPagesId:
				return this.#asked(message.block, message.start, message.length);
			case ReturnMessage.reqPages:
				return this.#asked(undefined, message.start, message.length);
			default:
				return this.#recovery === undefined
					? `message type ${message.type}`
					: this.#recovery.message(message, (block, page) => this.#released.isGone(block, page));
		}
	}

	broken(message: string): void {
		if (!this.#paused) this.#o.output.waiter.interrupt(new Broken(message));
	}

	#asked(name: string | undefined, start: bigint, length: number): string | undefined {
		const fault = this.#requests.add(name, start, length);
		this.#urgent?.serve();
		return fault;
	}

	#urgentSender(sink: ByteSink | undefined): UrgentSender | undefined {
		if (sink === undefined) return undefined;
		const { output, source, ram } = this.#o;
		const { blocks } = source;
		return new UrgentSender({ sink, output, blocks, ram, requests: this.#requests, released: this.#released });
	}

	/** One command per 12 runs of pages that the target lacks, or has outdated. */
	#discard(): void {
		const { source, ram, output } = this.#o;
		for (const [index, { idstr }] of source.blocks.entries()) {
			const ranges = Array.from(ram.dirty.runs(index, true), ([first, end]) => ({
				start: BigInt(first) << 12n,
				length: BigInt(end - first) << 12n,
			}));
			for (let i = 0; i < ranges.length; i += MAX_DISCARDS_PER_COMMAND) {
				output.writer.ramDiscard(idstr, ranges.slice(i, i + MAX_DISCARDS_PER_COMMAND));
			}
		}
	}

	async #send(): Promise<void> {
		const { ram, output, pacer, parameters, answers } = this.#o;
		const limit = (): number => parameters.maxPostcopyBandwidth ?? DEFAULTS.maxPostcopyBandwidth;
		pacer.restart(output.clock.now(), output.position, limit);
		while (ram.pending > 0) {
			await this.#part();
			pacer.update(output.clock.now(), output.position);
			while (output.position > pacer.stopPosition && ram.pending > 0 && !this.#mustServe) {
				const rest = Math.max(1, pacer.remainingTime(output.clock.now()));
				await output.wait(Promise.race([output.clock.sleep(rest), this.#requests.arrival()]));
				pacer.update(output.clock.now(), output.position);
			}
		}
		if (this.#urgent !== undefined) await output.wait(this.#urgent.idle());
		output.begin('end');
		output.end();
		output.writer.eof();
		if (answers.state.at === 'streaming') answers.step({ type: 'sent' });
		await output.flush();
		if (this.#urgent !== undefined) await output.wait(this.#urgent.finish());
		this.#released.flushed();
		while (answers.state.at !== 'completed') await output.wait(answers.changed());
	}

	/** One PART: what is asked for, then, while the bandwidth allows, what comes next. */
	async #part(): Promise<void> {
		const { output, pacer } = this.#o;
		const start = output.clock.now();
		output.begin('part');
		const counted = output.writer.position;
		let pages = 0;
		while (this.#next(pages === 0 || output.position <= pacer.stopPosition)) {
			if (++pages % PAGES_PER_TIME_CHECK !== 0) continue;
			await output.room();
			if (output.clock.now() - start >= MAX_WAIT) break;
			await output.yield(false);
		}
		output.statistics.postcopyBytes += output.writer.position - counted;
		output.end();
		// Somebody waits for it. Without `release` the next section may be built meanwhile.
		if (this.#released.none) output.writer.flush().catch(() => {});
		else await output.flush();
		this.#released.flushed();
		await output.room();
		await output.yield(true);
	}

	/** Sends a host page. False if nobody asks and there is none, or background pages must wait. */
	#next(background: boolean): boolean {
		const { ram, source } = this.#o;
		const { dirty } = ram;
		while (this.#mustServe) {
			const asked = this.#requests.take();
			if (asked === undefined) break;
			if (!dirty.isDirty(asked.block, asked.page)) continue;
			this.#hostPage(asked.block, asked.page);
			return true;
		}
		if (!background || source.blocks.length === 0 || !dirty.take()) return false;
		const { block, page } = dirty;
		dirty.mark(block, page, true);
		this.#hostPage(block, page);
		return true;
	}

	/** The walk goes on behind it: the guest probably wants what comes next. */
	#hostPage(block: number, page: number): void {
		const { ram, source } = this.#o;
		const info = source.blocks[block];
		if (info === undefined) return;
		const size = hostPageSize(info);
		const first = ram.hostPage(block, page, size);
		ram.dirty.seek(block, first + size / PAGE_SIZE);
		this.#released.sent(block, first, size / PAGE_SIZE);
	}

	/** Whether somebody waits for a page on this connection. */
	get #mustServe(): boolean {
		return this.#urgent === undefined && !this.#requests.empty;
	}

	#ping(value: number): void {
		this.#o.output.writer.command(Command.ping, encodeCommand({ command: Command.ping, value }));
	}

	/** Until there is another connection. */
	#pause(): Promise<'recover' | 'abandon'> {
		this.#paused = true;
		this.#recovery = undefined;
		this.#urgent?.close();
		this.#urgent = undefined;
		this.#requests.clear();
		this.#released.paused();
		const recovered = new Promise<'recover' | 'abandon'>((resolve) => {
			this.#recovered = resolve;
		});
		this.#o.status('postcopy-paused');
		return recovered;
	}

	/** False if the new connection fails, too. */
	async #recover(): Promise<boolean> {
		const recovery = this.#recovery;
		if (recovery === undefined) return false;
		this.#o.status('postcopy-recover');
		try {
			await recovery.run();
		} catch (reason) {
			if (!pauses(reason)) throw reason;
			return false;
		}
		this.#recovery = undefined;
		this.#o.output.statistics.remaining = this.#o.ram.pending;
		this.#o.status('postcopy-active');
		return true;
	}
}

const ABANDONED = new PrecopyError(
	'target',
	'postcopy: expected another connection to the target, got an abandoned one',
);

/** Whether another connection helps. */
const pauses = (reason: unknown): boolean =>
	reason instanceof Broken || (reason instanceof PrecopyError && reason.code === 'sink');
