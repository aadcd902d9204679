import { RAM_SECTION_VERSION, SectionType } from '../abi/stream.js';
import { DIALECTS } from '../dialect.js';
import type { SectionInfo } from '../events.js';
import type { ByteSink, Clock, DeviceSection } from '../ports.js';
import { StreamWriter } from '../write/writer.js';
import { attempt, failureOf } from './failure.js';
import type { MultifdSender } from './multifd-sender.js';
import type { PrecopyEvents, PrecopyOptions, SectionWritten } from './options.js';
import type { PrecopyStatistics } from './statistics.js';
import { Waiter } from './waiter.js';

/** Section ids are the sender's choice; these are the ones QEMU 7.2 gives on a PC: ram 2, devices from 3 on. */
const RAM_SECTION_ID = 2;
const FIRST_DEVICE_ID = 3;
/** Longest time without letting others run, in ms. */
const YIELD_TIME = 2;

/** What an engine writes to: stream and channels, sections and their events, back-pressure, and waits that can be cut short. */
export class Output {
	readonly clock: Clock;
	readonly statistics: PrecopyStatistics;
	waiter = new Waiter();
	writer: StreamWriter;
	multifd: MultifdSender | undefined;
	/** Whether barriers are told in the main stream, as QEMU does from 8.1 on; before, the end of a section is one. */
	readonly multifdFlush: boolean;
	readonly #events: PrecopyEvents | undefined;
	#lastYield: number;
	/** The `ram` section being written. */
	#section: Pick<SectionWritten, 'offset' | 'pages'> & { type: 'start' | 'part' | 'end' } = {
		type: 'start',
		offset: 0,
		pages: 0,
	};

	constructor(options: PrecopyOptions, statistics: PrecopyStatistics) {
		const { sink, clock, events, dialect } = options;
		this.clock = clock;
		this.statistics = statistics;
		this.multifdFlush = DIALECTS[dialect].flag200 === 'multifd-flush';
		this.#events = events;
		this.#lastYield = clock.now();
		this.writer = new StreamWriter(sink);
	}

	/** Goes on with another connection: nothing of the old one counts there, nor what interrupted it. */
	reconnect(sink: ByteSink): void {
		this.writer = new StreamWriter(sink);
		this.waiter = new Waiter();
	}

	/** Runs work whose records go to another writer than the main one. It must not wait. */
	through<T>(writer: StreamWriter, work: () => T): T {
		const main = this.writer;
		this.writer = writer;
		try {
			return work();
		} finally {
			this.writer = main;
		}
	}

	/** Bytes sent or about to be, on all connections: what the bandwidth is spent on. */
	get position(): number {
		return this.writer.position + this.statistics.multifdBytes + (this.multifd?.queued ?? 0);
	}

	begin(type: 'start' | 'part' | 'end'): void {
		this.#section = { type, offset: this.writer.position, pages: this.statistics.pages };
		this.writer.sectionBegin({ ...RAM_SECTION, type: SectionType[type] });
	}

	end(): void {
		const { type, offset, pages } = this.#section;
		if (this.multifd !== undefined) {
			this.multifd.barrier();
			if (this.multifdFlush) this.writer.multifdFlush();
		}
		this.writer.endOfRecords();
		this.writer.sectionEnd({ ...RAM_SECTION, type: SectionType[type] });
		// The channels' receivers wait at the barrier for what was just written. Failures show in `room` and `flush`.
		if (this.multifd !== undefined) this.writer.flush().catch(() => {});
		const bytes = this.writer.position - offset;
		this.#events?.section?.({ type, idstr: 'ram', offset, bytes, pages: this.statistics.pages - pages });
	}

	/** A device's section, the `index`th, into the stream or a package whose contents begin at stream offset `base`. */
	device({ idstr, instanceId, version, body }: DeviceSection, index: number, writer = this.writer, base = 0): void {
		const section: SectionInfo = { type: SectionType.full, id: FIRST_DEVICE_ID + index, idstr, instanceId, version };
		const offset = base + writer.position;
		writer.sectionBegin(section);
		writer.opaqueBody(body);
		writer.sectionEnd(section);
		this.#events?.section?.({ type: 'full', idstr, offset, bytes: base + writer.position - offset, pages: 0 });
	}

	/** Lets the sinks catch up until at most a few buffers are on their way; `busy` is one more thing to wait for. */
	async room(busy: () => Promise<void> | undefined = () => undefined): Promise<void> {
		for (;;) {
			const waiting = attempt('sink', () => busy() ?? this.writer.ready() ?? this.multifd?.ready());
			if (waiting === undefined) return;
			await this.#toSink(waiting);
		}
	}

	async flush(): Promise<void> {
		await this.#toSink(this.writer.flush());
		if (this.multifd !== undefined) await this.#toSink(this.multifd.flush());
	}

	async #toSink(promise: Promise<void>): Promise<void> {
		await this.wait(
			promise.catch((cause) => {
				throw failureOf('sink', cause);
			}),
		);
	}

	/** Lets others run if it has been a while, or in any case. */
	async yield(inAnyCase: boolean): Promise<void> {
		if (!inAnyCase && this.clock.now() - this.#lastYield < YIELD_TIME) return;
		await this.wait(this.clock.yield());
		this.#lastYield = this.clock.now();
	}

	wait<T>(promise: Promise<T>): Promise<T> {
		return this.waiter.wait(promise);
	}
}

const RAM_SECTION = {
	id: RAM_SECTION_ID,
	idstr: 'ram',
	instanceId: 0,
	version: RAM_SECTION_VERSION,
} as const satisfies Omit<SectionInfo, 'type'>;
