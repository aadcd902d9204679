import { Command } from '../abi/stream.js';
import { DIALECTS } from '../dialect.js';
import type { ReturnPathMode } from '../handover/source.js';
import type { ByteSink, DeviceSection } from '../ports.js';
import { PostcopySource } from '../postcopy/source.js';
import { describeSections } from '../write/description.js';
import { Answers } from './answers.js';
import type { PrecopyCapabilities } from './capabilities.js';
import { checkCapabilities, checkUrgent } from './capabilities.js';
import { attempt, failureOf, PrecopyError } from './failure.js';
import { HelperHooks } from './helper-hooks.js';
import { HelperInbox } from './helper-inbox.js';
import { HelperSender, helperOf } from './helper-sender.js';
import type { MigrationStatus } from './info.js';
import { MultifdSender } from './multifd-sender.js';
import { listedBlocks, writeHead, writeOpeningCommands } from './opening.js';
import type { Precopy, PrecopyOptions, PrecopyResult } from './options.js';
import { Output } from './output.js';
import { Pacer } from './pacer.js';
import type { PrecopyParameters } from './parameters.js';
import { defaultParameters, MAX_WAIT } from './parameters.js';
import { PlainSender } from './plain-sender.js';
import { RamSender } from './ram-sender.js';
import { PrecopyStatistics } from './statistics.js';
import { AutoConverge } from './throttle.js';

/**
 * Sends a running guest: everything once, then what it dirtied meanwhile, until the rest fits into the allowed downtime;
 * then the guest is stopped, the rest and the devices follow, and the target takes over. With postcopy the guest moves when
 * told, and what is left follows while it runs there. QEMU 7.2 migration/migration.c and migration/ram.c, of which limits,
 * order and arithmetic are kept.
 *
 * @throws RangeError if a RAM block is not whole pages, the uuid not 16 bytes, or options do not go together
 */
export const createPrecopy = (options: PrecopyOptions): Precopy => new PrecopyEngine(options);

class Cancelled extends Error {
	override readonly name = 'Cancelled';
}

class PrecopyEngine implements Precopy {
	readonly parameters: PrecopyParameters;
	readonly statistics: PrecopyStatistics;
	readonly returnPath = {
		push: (chunk: Uint8Array): void => {
			if (this.#phase !== 'ended') this.#answers.push(chunk);
		},
		end: (): void => {
			if (this.#phase !== 'ended') this.#answers.end();
		},
	};
	readonly #options: PrecopyOptions;
	readonly #capabilities: PrecopyCapabilities;
	readonly #mode: ReturnPathMode;
	readonly #output: Output;
	readonly #ram: RamSender;
	readonly #pacer: Pacer;
	readonly #answers: Answers;
	readonly #throttle: AutoConverge | undefined;
	readonly #helper: HelperHooks;
	#phase: 'new' | 'running' | 'ended' = 'new';
	#logging = false;
	#stopped = false;
	#stoppedAt = 0;
	#postcopyAsked = false;
	#postcopy: PostcopySource | undefined;
	#goOn: (() => void) | undefined;

	constructor(options: PrecopyOptions) {
		const { clock, source, dialect, vm, uuid, returnPath: mode = 'none' } = options;
		if (uuid !== undefined && uuid.length !== 16) throw new RangeError(`uuid: expected 16 bytes, got ${uuid.length}`);
		checkCapabilities(options);
		this.#options = options;
		this.#capabilities = options.capabilities ?? {};
		this.#mode = mode;
		this.parameters = options.parameters ?? defaultParameters();
		this.statistics = new PrecopyStatistics(() => clock.now());
		const output = new Output(options, this.statistics);
		this.#output = output;
		this.#throttle = this.#capabilities.autoConverge
			? new AutoConverge(vm, this.parameters, this.statistics)
			: undefined;
		const rules = DIALECTS[dialect];
		const plain = new PlainSender(source, output, this.parameters, this.#capabilities);
		const helper = helperOf(source, dialect);
		const sender = helper && new HelperSender(helper, source, output, dialect);
		this.#ram = new RamSender({ source, output, rules, plain, helper: sender, throttle: this.#throttle });
		const bump = options.downtimeBump ?? (rules.pageStatus === 'regions' && source.sealer !== undefined);
		this.#pacer = new Pacer(this.parameters, this.statistics, bump);
		const inbox = new HelperInbox();
		const session = helper?.open === undefined ? undefined : inbox;
		const answers = new Answers(mode, output, this.#capabilities.postcopyRam ?? false, session);
		this.#answers = answers;
		this.#helper = new HelperHooks({ helper, inbox, output, answers });
	}

	async run(): Promise<PrecopyResult> {
		if (this.#phase !== 'new') {
			const error = new PrecopyError('source', 'precopy: expected one run, got a second');
			return { status: 'failed', error, stopped: false, mayResume: false };
		}
		this.#phase = 'running';
		const result = await this.#attempt();
		this.#phase = 'ended';
		this.#helper.ended(result.status === 'cancelled' || (result.status === 'failed' && result.mayResume));
		try {
			this.#throttle?.stop();
			if (this.#logging) this.#options.source.stopDirtyLog();
		} catch {
			// The outcome is decided; a log that goes on costs time, not correctness.
		}
		this.statistics.endedAt = this.#options.clock.now();
		this.#status(result.status);
		return result;
	}

	cancel(): boolean {
		const { state, mayResume } = this.#answers;
		if (this.#phase === 'ended' || this.#postcopy !== undefined) return false;
		if (state.at === 'committing' || !mayResume) return false;
		if (this.#phase === 'running') this.#status('cancelling');
		this.#output.waiter.interrupt(new Cancelled());
		return true;
	}

	startPostcopy(): boolean {
		if (!this.#capabilities.postcopyRam || this.#phase !== 'running' || this.#stopped) return false;
		this.#postcopyAsked = true;
		return true;
	}

	recover(sink: ByteSink, urgent?: ByteSink): boolean {
		checkUrgent(this.#capabilities, urgent);
		return this.#postcopy?.recover(sink, urgent) ?? false;
	}

	abandon(): boolean {
		return this.#postcopy?.abandon() ?? false;
	}

	continue(): boolean {
		const goOn = this.#goOn;
		this.#goOn = undefined;
		goOn?.();
		return goOn !== undefined;
	}

	async #attempt(): Promise<PrecopyResult> {
		try {
			this.#output.waiter.check();
			await this.#setup();
			if ((await this.#iterate()) === 'postcopy') await this.#runPostcopy();
			else {
				await this.#complete();
				await this.#handOver();
				this.statistics.downtime = this.#options.clock.now() - this.#stoppedAt;
			}
			return { status: 'completed' };
		} catch (reason) {
			if (reason instanceof Cancelled) return { status: 'cancelled', stopped: this.#stopped };
			const mayResume = this.#helper.mayResume ?? this.#answers.mayResume;
			const error = this.#helper.describe(failureOf('source', reason), mayResume);
			this.statistics.error = error.message;
			return { status: 'failed', error, stopped: this.#stopped, mayResume };
		}
	}

	async #setup(): Promise<void> {
		const { clock, source, multifd, uuid } = this.#options;
		const output = this.#output;
		this.statistics.startedAt = clock.now();
		this.#status('setup');
		source.startDirtyLog();
		this.#logging = true;
		this.#synchronise();
		const { writer } = output;
		writeHead(writer, this.#options);
		if (multifd !== undefined) {
			// The main connection's first bytes go before the channels': QEMU 7.2 takes the first to arrive for it.
			await output.flush();
			output.multifd = new MultifdSender(multifd, uuid, this.statistics);
		}
		writeOpeningCommands(writer, this.#options);
		await this.#helper.open();
		output.begin('start');
		writer.blockList(listedBlocks(this.#options));
		output.end();
		await output.flush();
		this.statistics.setupEndedAt = clock.now();
		this.#status('active');
		this.#pacer.begin(clock.now(), output.position);
	}

	/** QEMU 7.2 migration/migration.c `migration_iteration_run`. */
	async #iterate(): Promise<'complete' | 'postcopy'> {
		const { clock } = this.#options;
		const pacer = this.#pacer;
		for (;;) {
			if (this.#ram.pending < pacer.threshold) this.#synchronise();
			if (this.#ram.pending === 0 || this.#ram.pending < pacer.threshold) return 'complete';
			if (this.#postcopyAsked) return 'postcopy';
			await this.#part();
			pacer.update(clock.now(), this.#output.position);
			while (this.#output.position > pacer.stopPosition) {
				await this.#output.wait(clock.sleep(Math.max(1, pacer.remainingTime(clock.now()))));
				pacer.update(clock.now(), this.#output.position);
			}
		}
	}

	/** One PART: until the quota is used, 50 ms have passed, or nothing is dirty. QEMU 7.2 migration/ram.c `ram_save_iterate`. */
	async #part(): Promise<void> {
		const { clock } = this.#options;
		const output = this.#output;
		output.begin('part');
		const start = clock.now();
		const counted = output.writer.position;
		// However small the quota, a section carries a page: the section's own header must not use it up.
		const stop = Math.max(output.position, this.#pacer.stopPosition);
		while (output.position <= stop) {
			await this.#room();
			const more = this.#ram.slice(stop);
			if (!more || clock.now() - start >= MAX_WAIT) break;
			await output.yield(false);
		}
		this.statistics.precopyBytes += output.writer.position - counted;
		output.end();
		await output.yield(true);
	}

	async #stop(): Promise<void> {
		this.#output.waiter.check();
		this.#stoppedAt = this.#options.clock.now();
		this.#stopped = true;
		try {
			await this.#options.vm.stop();
		} catch (cause) {
			throw failureOf('vm', cause);
		}
		this.#output.waiter.check();
	}

	/** QEMU 7.2 migration/migration.c `migration_maybe_pause`. */
	async #pause(next: MigrationStatus): Promise<void> {
		if (!this.#capabilities.pauseBeforeSwitchover) return;
		const told = new Promise<void>((resolve) => {
			this.#goOn = resolve;
		});
		this.#status('pre-switchover');
		await this.#output.wait(told);
		this.#status(next);
	}

	/** Stop-and-copy. */
	async #complete(): Promise<void> {
		const output = this.#output;
		await this.#stop();
		await this.#pause('device');
		this.#synchronise();
		this.#helper.freeze();
		output.begin('end');
		this.#ram.stage = 'last';
		const counted = output.writer.position;
		for (let more = this.#ram.pending > 0; more; ) {
			await this.#room();
			more = this.#ram.slice(Number.POSITIVE_INFINITY);
			await output.yield(false);
		}
		this.#ram.flush();
		this.#ram.sharedRegions();
		this.statistics.downtimeBytes += output.writer.position - counted;
		output.end();
		await this.#room();
		await this.#helper.prove();
		await this.#finishStream();
	}

	async #finishStream(): Promise<void> {
		const { writer } = this.#output;
		const devices = this.#devices();
		for (const [index, device] of devices.entries()) {
			this.#output.device(device, index);
			await this.#room();
		}
		writer.eof();
		// With hand-over it is what tells the target that everything is there.
		if (this.#options.vmDescription === false && this.#mode !== 'handover') return;
		writer.vmDescription(describeSections(devices.map(({ body, ...device }) => ({ ...device, size: body.length }))));
	}

	#devices(): DeviceSection[] {
		return attempt('vm', () => this.#options.vm.devices());
	}

	/** From here on it is the state machine's word whether the source may run again. */
	async #handOver(): Promise<void> {
		this.#output.waiter.check();
		this.#answers.step({ type: 'sent' });
		await this.#output.flush();
		for (;;) {
			switch (this.#answers.state.at) {
				case 'completed':
					return;
				case 'committing':
					await this.#commit();
					break;
				default:
					await this.#output.wait(this.#answers.changed());
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
		this.#output.waiter.check();
		await this.#helper.commit();
		if (this.#answers.state.at === 'committing') this.#answers.step({ type: 'committed' });
		this.#output.writer.command(Command.handoverCommit, new Uint8Array(0));
		await this.#output.flush();
		await this.#helper.conclude();
	}

	async #runPostcopy(): Promise<void> {
		const { source } = this.#options;
		const postcopy = new PostcopySource({
			source,
			output: this.#output,
			ram: this.#ram,
			answers: this.#answers,
			pacer: this.#pacer,
			parameters: this.parameters,
			release: this.#capabilities.releaseRam ?? false,
			...(this.#options.urgent && { urgent: this.#options.urgent }),
			status: (status) => this.#status(status),
		});
		this.#status('postcopy-active');
		await this.#stop();
		await this.#pause('postcopy-active');
		this.#synchronise();
		const devices = this.#devices();
		this.#output.waiter.check();
		this.#postcopy = postcopy;
		await postcopy.start(devices);
		this.statistics.downtime = this.#options.clock.now() - this.#stoppedAt;
		await postcopy.run();
	}

	/** Between sections. */
	#synchronise(): void {
		// What was read before the log is read again must be told apart from what is read after it.
		if (this.#ram.outstanding) {
			this.#output.begin('part');
			this.#ram.flush();
			this.#output.end();
		}
		this.#ram.synchronise();
		this.#options.events?.pass?.(this.statistics.passes);
		if (this.statistics.passes > 1) this.#helper.epoch();
	}

	#status(status: MigrationStatus): void {
		this.statistics.status = status;
		this.#options.events?.status?.(status);
	}

	#room(): Promise<void> {
		return this.#output.room(() => this.#ram.ready());
	}
}
