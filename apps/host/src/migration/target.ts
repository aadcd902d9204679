import type { PageHelperTarget, PageOpener, SharedRegion } from '@cvm/qemu-mig';
import { isStreamError } from '@cvm/qemu-mig';
import { type MigrationInfo, QmpError, QmpErrorClass, type RunState } from '@cvm/qmp';
import type { HostContext } from '../context.js';
import { type PageTransport, pageSink } from '../pages.js';
import { HANDOVER, HELPER } from '../qmp-schema.js';
import { IncomingMigration, type IncomingResult } from './incoming.js';
import { narrowed, parseUri } from './uri.js';
import { ArrivedSections } from './vm-sections.js';

const generic = (desc: string) => new QmpError(QmpErrorClass.genericError, desc);

/** Run states that a target takes over as they arrive (qemu 7.2 migration/migration.c, process_incoming_migration_bh). */
const ADOPTED: readonly string[] = [
	'paused',
	'prelaunch',
	'shutdown',
	'postmigrate',
	'internal-error',
	'finish-migrate',
];

/**
 * The receiving half of a host: `migrate-incoming` of a VM that waits for its guest, `start-migrate-incoming` of one whose
 * firmware runs and waits with a migration helper; and what `query-migrate` says of it.
 */
export class MigrationTarget {
	readonly #host: HostContext;
	#incoming: IncomingMigration | undefined;
	#status: MigrationInfo['status'];
	#error: string | undefined;
	#finished: Promise<void> = Promise.resolve();

	constructor(host: HostContext) {
		this.#host = host;
	}

	/** Resolves when the incoming migration has ended, however. */
	get finished(): Promise<void> {
		return this.#finished;
	}

	/** Whether there is or was an incoming migration. */
	get used(): boolean {
		return this.#host.options.incoming !== undefined || this.#incoming !== undefined || this.#status !== undefined;
	}

	get info(): MigrationInfo {
		const listening = this.#incoming?.socketAddress;
		return {
			...(this.#status && { status: this.#status }),
			...(this.#error !== undefined && { 'error-desc': this.#error }),
			...(listening && this.#status !== 'completed' && { 'socket-address': [listening] }),
		};
	}

	/** Starts to listen. @throws QmpError with QEMU's text */
	async listen(uri: string): Promise<void> {
		const { options, machine } = this.#host;
		if (options.incoming === undefined) throw generic(`'-incoming' was not specified on the command line`);
		const arrived = new ArrivedSections();
		await this.#open(uri, arrived, { crypt: machine.sev?.opener(machine, (list) => replaceShared(this.#host, list)) });
	}

	/** The same for a guest that runs up to where its firmware waits, with a migration helper. @throws QmpError, HelperError */
	async listenRunning(uri: string): Promise<void> {
		const { helper, settings, runState } = this.#host;
		if (!helper || !settings.has(HELPER)) {
			throw generic('start-migrate-incoming needs a migration helper: -smp N,mirrorvcpus=M and the capability for it');
		}
		if (!runState.running) {
			throw generic(`The guest must run up to where its firmware waits for another, got '${runState.state}'`);
		}
		this.#checkFree();
		await helper.start();
		this.#checkFree();
		await helper.prepare?.('target');
		const blocker = helper.blocker('target');
		if (blocker) throw generic(blocker);
		const arrived = new ArrivedSections();
		await this.#open(uri, arrived, { crypt: listOnly(arrived), helper: guarded(helper.target(), arrived, this.#host) });
	}

	#checkFree(): void {
		if (this.#incoming) throw generic('The incoming migration has already been started');
	}

	async #open(
		uri: string,
		arrived: ArrivedSections,
		transport: PageTransport<PageOpener, PageHelperTarget>,
	): Promise<void> {
		const { options, settings, machine, warn } = this.#host;
		this.#checkFree();
		const asked = parseUri(uri);
		if (!asked) throw generic(`unknown migration protocol: ${uri}`);
		const address = narrowed(asked);
		if (transport.helper && (address.kind === 'file' || address.kind === 'exec')) {
			throw generic(`A helper has to answer its peer: '${address.kind}:' has no way back`);
		}
		this.#host.emit('MIGRATION', { status: 'setup' });
		const incoming = await IncomingMigration.listen(address, {
			sink: pageSink(machine, transport),
			dialect: transport.helper ? options.helperDialect : machine.sev ? 'sev-v4' : 'qemu-7.2',
			machineType: options.machine,
			handover: machine.sev !== undefined || settings.has(HANDOVER),
			device: (section, body) => (arrived.take(section, body) ? 'loaded' : 'unknown'),
			finish: () => this.#run(arrived),
		});
		this.#incoming = incoming;
		this.#status = undefined;
		this.#error = undefined;
		if (address !== asked && address.kind === 'tcp') {
			warn(`warning: ${uri}: this model listens on the loopback interface only: ${address.host}`);
		}
		this.#finished = incoming
			.run(() => this.#connected(transport.helper !== undefined))
			.then((result) => this.#conclude(result, transport.helper !== undefined));
	}

	async #connected(isRunning: boolean): Promise<void> {
		// From here on the machine is what arrives; the helper alone goes on.
		if (isRunning) {
			this.#host.autostart = true;
			await this.#host.pause('inmigrate');
		}
		this.#status = 'active';
		if (this.#host.settings.has('events')) this.#host.emit('MIGRATION', { status: 'active' });
	}

	/** Stops waiting; the stream that is arriving, if any, is dropped. */
	close(): void {
		this.#incoming?.close();
	}

	/** All is here, and nobody else runs the guest: run it. */
	#run(arrived: ArrivedSections): void {
		const host = this.#host;
		arrived.apply(host);
		if (host.runState.state === 'inmigrate') host.helper?.arrived?.();
		const state = arrived.runState;
		if (state === 'running') {
			if (host.autostart) host.resume();
			else {
				host.machine.sev?.beforeRun();
				host.runState.to('paused');
			}
			return;
		}
		if (!ADOPTED.includes(state)) throw new Error(`invalid parameter value: ${state}`);
		host.machine.sev?.beforeRun();
		host.runState.to(state as RunState);
	}

	#conclude(result: IncomingResult, isRunning: boolean): void {
		const host = this.#host;
		this.#incoming = isRunning ? undefined : this.#incoming;
		if (result.status === 'running') {
			this.#status = 'completed';
			if (host.settings.has('events')) host.emit('MIGRATION', { status: 'completed' });
			return;
		}
		const reason = isStreamError(result.error) ? result.error.strerror : 'Input/output error';
		const line = `load of migration failed: ${reason}: ${result.error.message}`;
		this.#status = 'failed';
		if (isRunning) {
			// The helper is still there, and so is the place where the firmware waits: another guest may come, or this one again.
			this.#error = line;
			host.warn(line);
			if (host.runState.state === 'inmigrate' && host.autostart) host.resume();
			else if (host.runState.state === 'inmigrate') host.runState.to('paused');
		}
		if (host.settings.has('events')) host.emit('MIGRATION', { status: 'failed' });
		if (!isRunning) host.fail(line);
	}
}

function replaceShared({ machine }: HostContext, list: readonly SharedRegion[]): void {
	if (!machine.shared.replace(list)) throw new Error(`${list.length} ranges of shared pages are more than fit`);
}

/** With a helper, firmware opens nothing; the source's list of shared ranges becomes this host's when the guest does. */
const listOnly = (arrived: ArrivedSections): PageOpener => ({
	start: unused,
	open: unused,
	allocate: (bytes) => new Uint8Array(bytes),
	sharedRegions: (list) => arrived.takeShared(list),
});

function unused(): never {
	throw new Error('page: expected one for the helper, got one for the firmware');
}

/** A helper whose word makes the guest run here is told so only when the rest of the guest fits this machine. */
const guarded = (helper: PageHelperTarget, arrived: ArrivedSections, host: HostContext): PageHelperTarget => ({
	...helper,
	...(helper.message && {
		message: (data: Uint8Array, reply: (message: Uint8Array) => void) => {
			if (arrived.any) arrived.check(host);
			return helper.message?.(data, reply);
		},
	}),
});
