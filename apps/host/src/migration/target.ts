import { isStreamError } from '@cvm/qemu-mig';
import { type MigrationInfo, QmpError, QmpErrorClass, type RunState } from '@cvm/qmp';
import type { HostContext } from '../context.js';
import { pageSink } from '../pages.js';
import { HANDOVER } from '../qmp-schema.js';
import { IncomingMigration, type IncomingResult } from './incoming.js';
import { parseUri } from './uri.js';
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

/** The receiving half of a host: `migrate-incoming`, and what `query-migrate` says of it. */
export class MigrationTarget {
	readonly #host: HostContext;
	#incoming: IncomingMigration | undefined;
	#status: MigrationInfo['status'];
	#finished: Promise<void> = Promise.resolve();

	constructor(host: HostContext) {
		this.#host = host;
	}

	/** Resolves when the incoming migration has ended, however. */
	get finished(): Promise<void> {
		return this.#finished;
	}

	get info(): MigrationInfo {
		const listening = this.#incoming?.socketAddress;
		return {
			...(this.#status && { status: this.#status }),
			...(listening && this.#status !== 'completed' && { 'socket-address': [listening] }),
		};
	}

	/** Starts to listen. @throws QmpError with QEMU's text */
	async listen(uri: string): Promise<void> {
		const { options, settings, machine } = this.#host;
		if (options.incoming === undefined) throw generic(`'-incoming' was not specified on the command line`);
		if (this.#incoming) throw generic('The incoming migration has already been started');
		const address = parseUri(uri);
		if (!address) throw generic(`unknown migration protocol: ${uri}`);
		const arrived = new ArrivedSections();
		const opener = machine.sev?.opener(machine, (list) => {
			if (!machine.shared.replace(list)) throw new Error(`${list.length} ranges of shared pages are more than fit`);
		});
		this.#host.emit('MIGRATION', { status: 'setup' });
		this.#incoming = await IncomingMigration.listen(address, {
			sink: pageSink(machine, opener),
			dialect: machine.sev ? 'sev-v4' : 'qemu-7.2',
			machineType: options.machine,
			handover: machine.sev !== undefined || settings.has(HANDOVER),
			device: (section, body) => (arrived.take(section, body) ? 'loaded' : 'unknown'),
			finish: () => this.#run(arrived),
		});
		this.#finished = this.#incoming
			.run(() => {
				this.#status = 'active';
				if (settings.has('events')) this.#host.emit('MIGRATION', { status: 'active' });
			})
			.then((result) => this.#conclude(result));
	}

	/** Stops waiting; the stream that is arriving, if any, is dropped. */
	close(): void {
		this.#incoming?.close();
	}

	/** All is here, and nobody else runs the guest: run it. */
	#run(arrived: ArrivedSections): void {
		const host = this.#host;
		arrived.apply(host);
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

	#conclude(result: IncomingResult): void {
		if (result.status === 'running') {
			this.#status = 'completed';
			if (this.#host.settings.has('events')) this.#host.emit('MIGRATION', { status: 'completed' });
			return;
		}
		this.#status = 'failed';
		if (this.#host.settings.has('events')) this.#host.emit('MIGRATION', { status: 'failed' });
		const reason = isStreamError(result.error) ? result.error.strerror : 'Input/output error';
		this.#host.fail(`load of migration failed: ${reason}: ${result.error.message}`);
	}
}
