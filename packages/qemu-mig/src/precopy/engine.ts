import { ReturnMessage } from '../abi/return-path.js';
import { Command, HANDOVER_CAPABILITY, RAM_SECTION_VERSION, SectionType } from '../abi/stream.js';
import { DIALECTS } from '../dialect.js';
import type { ConfigurationSubsection, SectionInfo } from '../events.js';
import { ReturnPathReader } from '../handover/return-path.js';
import type { ReturnPathMode, SourceInput, SourceState } from '../handover/source.js';
import { mayResume, stepSource } from '../handover/source.js';
import { nameToBytes } from '../latin1.js';
import { describeSections } from '../write/description.js';
import { StreamWriter } from '../write/writer.js';
import { attempt, failureOf, PrecopyError } from './failure.js';
import type { Precopy, PrecopyOptions, PrecopyResult, SectionWritten } from './options.js';
import { Pacer } from './pacer.js';
import type { PrecopyParameters } from './parameters.js';
import { defaultParameters, MAX_WAIT } from './parameters.js';
import { RamSender } from './ram-sender.js';
import type { MigrationStatus } from './statistics.js';
import { PrecopyStatistics } from './statistics.js';
import { Waiter } from './waiter.js';

/**
 * Sends a running guest: everything once, then what it dirtied meanwhile, until the rest fits into the allowed downtime;
 * then the guest is stopped, the rest and the devices follow, and the target takes over. QEMU 7.2 migration/migration.c
 * and migration/ram.c, of which limits, order and arithmetic are kept.
 *
 * @throws RangeError if a RAM block is not whole pages, or the uuid not 16 bytes
 */
export const createPrecopy = (options: PrecopyOptions): Precopy => new PrecopyEngine(options);

/** Section ids are the sender's choice; these are the ones QEMU 7.2 gives on a PC: ram 2, devices from 3 on. */
const RAM_SECTION_ID = 2;
const FIRST_DEVICE_ID = 3;
/** Longest time without letting others run, in ms. */
const YIELD_TIME = 2;

class Cancelled extends Error {
	override readonly name = 'Cancelled';
}

class PrecopyEngine implements Precopy {
	readonly parameters: PrecopyParameters;
	readonly statistics: PrecopyStatistics;
	readonly returnPath = {
		push: (chunk: Uint8Array): void => this.#receive(() => this.#answers.push(chunk)),
		end: (): void =>
			this.#receive(() => {
				this.#answers.end();
				this.#step({ type: 'closed' });
			}),
	};
	readonly #options: PrecopyOptions;
	readonly #mode: ReturnPathMode;
	readonly #writer: StreamWriter;
	readonly #ram: RamSender;
	readonly #pacer: Pacer;
	readonly #waiter = new Waiter();
	readonly #answers: ReturnPathReader;
	#state: SourceState = { at: 'streaming' };
	#stateChanged: () => void = () => {};
	#phase: 'new' | 'running' | 'ended' = 'new';
	#logging = false;
	#stopped = false;
	#stoppedAt = 0;
	#lastYield = 0;
	/** The `ram` section being written. */
	#section: Pick<SectionWritten, 'offset' | 'pages'> & { type: 'start' | 'part' | 'end' } = {
		type: 'start',
		offset: 0,
		pages: 0,
	};

	constructor(options: PrecopyOptions) {
		const { clock, source, sink, dialect } = options;
		const { uuid } = options;
		if (uuid !== undefined && uuid.length !== 16) throw new RangeError(`uuid: expected 16 bytes, got ${uuid.length}`);
		this.#options = options;
		this.#mode = options.returnPath ?? 'none';
		this.parameters = options.parameters ?? defaultParameters();
		this.statistics = new PrecopyStatistics(() => clock.now());
		this.#writer = new StreamWriter(sink);
		const sealsPages = DIALECTS[dialect].encryptedData;
		this.#ram = new RamSender({ source, clock, sealsPages, writer: this.#writer, statistics: this.statistics });
		const bump = options.downtimeBump ?? (sealsPages && source.sealer !== undefined);
		this.#pacer = new Pacer(this.parameters, this.statistics, bump);
		this.#answers = new ReturnPathReader((type, data) => this.#answer(type, data));
	}

	async run(): Promise<PrecopyResult> {
		if (this.#phase !== 'new') {
			const error = new PrecopyError('source', 'precopy: expected one run, got a second');
			return { status: 'failed', error, stopped: false, mayResume: false };
		}
		this.#phase = 'running';
		const result = await this.#attempt();
		this.#phase = 'ended';
		try {
			if (this.#logging) this.#options.source.stopDirtyLog();
		} catch {
			// The outcome is decided; a log that goes on costs time, not correctness.
		}
		this.statistics.endedAt = this.#options.clock.now();
		this.#status(result.status);
		return result;
	}

	cancel(): boolean {
		if (this.#phase === 'ended' || this.#state.at === 'committing' || !mayResume(this.#state)) return false;
		if (this.#phase === 'running') this.#status('cancelling');
		this.#waiter.interrupt(new Cancelled());
		return true;
	}

	async #attempt(): Promise<PrecopyResult> {
		try {
			this.#waiter.check();
			await this.#setup();
			await this.#iterate();
			await this.#complete();
			await this.#handOver();
			this.statistics.downtime = this.#options.clock.now() - this.#stoppedAt;
			return { status: 'completed' };
		} catch (reason) {
			if (reason instanceof Cancelled) return { status: 'cancelled', stopped: this.#stopped };
			const error = failureOf('source', reason);
			this.statistics.error = error.message;
			return { status: 'failed', error, stopped: this.#stopped, mayResume: mayResume(this.#state) };
		}
	}

	async #setup(): Promise<void> {
		const { clock, source, machineType } = this.#options;
		this.statistics.startedAt = clock.now();
		this.#lastYield = clock.now();
		this.#status('setup');
		source.startDirtyLog();
		this.#logging = true;
		this.#synchronise();
		const writer = this.#writer;
		writer.header();
		writer.configuration({ machineType, subsections: this.#subsections() });
		if (this.#mode !== 'none') {
			writer.command(Command.openReturnPath, new Uint8Array(0));
			writer.command(Command.ping, Uint8Array.of(0, 0, 0, 1));
		}
		this.#begin('start');
		writer.blockList(source.blocks);
		this.#end();
		await this.#flush();
		this.statistics.setupEndedAt = clock.now();
		this.#status('active');
		this.#pacer.begin(clock.now(), writer.position);
	}

	#subsections(): ConfigurationSubsection[] {
		const { uuid, subsections } = this.#options;
		const all: ConfigurationSubsection[] = [];
		if (this.#mode === 'handover') {
			const name = nameToBytes(HANDOVER_CAPABILITY);
			const data = Uint8Array.of(0, 0, 0, 1, name.length, ...name);
			all.push({ name: 'configuration/capabilities', version: 1, data });
		}
		if (uuid !== undefined) all.push({ name: 'configuration/uuid', version: 1, data: uuid });
		return subsections === undefined ? all : [...all, ...subsections];
	}

	/** QEMU 7.2 migration/migration.c `migration_iteration_run`. */
	async #iterate(): Promise<void> {
		const { clock } = this.#options;
		const pacer = this.#pacer;
		for (;;) {
			if (this.#ram.pending < pacer.threshold) this.#synchronise();
			if (this.#ram.pending === 0 || this.#ram.pending < pacer.threshold) return;
			await this.#part();
			pacer.update(clock.now(), this.#writer.position);
			while (this.#writer.position > pacer.stopPosition) {
				await this.#wait(clock.sleep(Math.max(1, pacer.remainingTime(clock.now()))));
				pacer.update(clock.now(), this.#writer.position);
			}
		}
	}

	/** One PART: until the quota is used, 50 ms have passed, or nothing is dirty. QEMU 7.2 migration/ram.c `ram_save_iterate`. */
	async #part(): Promise<void> {
		const { clock } = this.#options;
		this.#begin('part');
		const start = clock.now();
		const counted = this.#writer.position;
		// However small the quota, a section carries a page: the section's own header must not use it up.
		while (this.#writer.position <= Math.max(counted, this.#pacer.stopPosition)) {
			await this.#room();
			const more = this.#ram.slice(Math.max(counted, this.#pacer.stopPosition));
			if (!more || clock.now() - start >= MAX_WAIT) break;
			if (clock.now() - this.#lastYield >= YIELD_TIME) await this.#yield();
		}
		this.statistics.precopyBytes += this.#writer.position - counted;
		this.#end();
		await this.#yield();
	}

	/** Stop-and-copy. */
	async #complete(): Promise<void> {
		const { clock, vm } = this.#options;
		this.#waiter.check();
		this.#stoppedAt = clock.now();
		this.#stopped = true;
		try {
			await vm.stop();
		} catch (cause) {
			throw failureOf('vm', cause);
		}
		this.#waiter.check();
		this.#synchronise();
		this.#begin('end');
		const counted = this.#writer.position;
		for (let more = this.#ram.pending > 0; more; ) {
			await this.#room();
			more = this.#ram.slice(Number.POSITIVE_INFINITY);
			if (clock.now() - this.#lastYield >= YIELD_TIME) await this.#yield();
		}
		this.#ram.sharedRegions();
		this.statistics.downtimeBytes += this.#writer.position - counted;
		this.#end();
		await this.#room();
		await this.#devices();
	}

	async #devices(): Promise<void> {
		const writer = this.#writer;
		const devices = attempt('vm', () => this.#options.vm.devices());
		for (const [index, { idstr, instanceId, version, body }] of devices.entries()) {
			const section: SectionInfo = { type: SectionType.full, id: FIRST_DEVICE_ID + index, idstr, instanceId, version };
			const offset = writer.position;
			writer.sectionBegin(section);
			writer.opaqueBody(body);
			writer.sectionEnd(section);
			this.#options.events?.section?.({ type: 'full', idstr, offset, bytes: writer.position - offset, pages: 0 });
			await this.#room();
		}
		writer.eof();
		// With hand-over it is what tells the target that everything is there.
		if (this.#options.vmDescription === false && this.#mode !== 'handover') return;
		writer.vmDescription(describeSections(devices.map(({ body, ...device }) => ({ ...device, size: body.length }))));
	}

	/** From here on it is the state machine's word whether the source may run again. */
	async #handOver(): Promise<void> {
		this.#waiter.check();
		this.#step({ type: 'sent' });
		await this.#flush();
		for (;;) {
			switch (this.#state.at) {
				case 'completed':
					return;
				case 'committing':
					await this.#commit();
					break;
				default:
					await this.#wait(
						new Promise<void>((resolve) => {
							this.#stateChanged = resolve;
						}),
					);
			}
		}
	}

	async #commit(): Promise<void> {
		try {
			await this.#options.commit?.();
		} catch (cause) {
			throw failureOf('commit', cause);
		}
		// The connection may have ended meanwhile: then nobody will run the guest but us.
		this.#waiter.check();
		this.#step({ type: 'committed' });
		this.#writer.command(Command.handoverCommit, new Uint8Array(0));
		await this.#flush();
	}

	#answer(type: number, data: Uint8Array): void {
		switch (type) {
			case ReturnMessage.pong:
				this.#step({ type: 'pong' });
				break;
			case ReturnMessage.switchoverAck:
				this.#step({ type: 'ack' });
				break;
			case ReturnMessage.shut:
				this.#step({ type: 'shut', value: new DataView(data.buffer, data.byteOffset, 4).getUint32(0) });
				break;
			default:
				this.#step({ type: 'malformed', message: `message type ${type}` });
		}
	}

	#receive(work: () => void): void {
		if (this.#mode === 'none' || this.#phase === 'ended') return;
		try {
			work();
		} catch (error) {
			this.#step({ type: 'malformed', message: error instanceof Error ? error.message : 'an error' });
		}
	}

	#step(input: SourceInput): void {
		this.#state = stepSource(this.#mode, this.#state, input);
		if (this.#state.at === 'failed') this.#waiter.interrupt(new PrecopyError(this.#state.code, this.#state.message));
		this.#stateChanged();
	}

	#begin(type: 'start' | 'part' | 'end'): void {
		this.#section = { type, offset: this.#writer.position, pages: this.statistics.pages };
		this.#writer.sectionBegin({ ...RAM_SECTION, type: SectionType[type] });
	}

	#end(): void {
		const { type, offset, pages } = this.#section;
		this.#writer.endOfRecords();
		this.#writer.sectionEnd({ ...RAM_SECTION, type: SectionType[type] });
		const bytes = this.#writer.position - offset;
		this.#options.events?.section?.({ type, idstr: 'ram', offset, bytes, pages: this.statistics.pages - pages });
	}

	#synchronise(): void {
		this.#ram.synchronise();
		this.#options.events?.pass?.(this.statistics.passes);
	}

	#status(status: MigrationStatus): void {
		this.statistics.status = status;
		this.#options.events?.status?.(status);
	}

	/** Lets the sink catch up until at most a few buffers are on their way. */
	async #room(): Promise<void> {
		for (;;) {
			const busy = attempt('sink', () => this.#ram.ready());
			if (busy === undefined) return;
			await this.#toSink(busy);
		}
	}

	#flush(): Promise<void> {
		return this.#toSink(this.#writer.flush());
	}

	async #toSink(promise: Promise<void>): Promise<void> {
		await this.#wait(
			promise.catch((cause) => {
				throw failureOf('sink', cause);
			}),
		);
	}

	async #yield(): Promise<void> {
		await this.#wait(this.#options.clock.yield());
		this.#lastYield = this.#options.clock.now();
	}

	#wait<T>(promise: Promise<T>): Promise<T> {
		return this.#waiter.wait(promise);
	}
}

const RAM_SECTION = {
	id: RAM_SECTION_ID,
	idstr: 'ram',
	instanceId: 0,
	version: RAM_SECTION_VERSION,
} as const satisfies Omit<SectionInfo, 'type'>;
