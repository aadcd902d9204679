import { createMigrationMsr, type MigrationMsr } from '@cvm/kvm/vmm';
import { createFwCfgDevice } from '@cvm/ovmf-mh/host';
import { createQmpServer, type JsonObject, type QmpHandlers, type QmpServer } from '@cvm/qmp';
import { type QmpListener, serveQmp, systemClock } from '@cvm/qmp/node';
import type { HostContext } from './context.js';
import { ExitAnswers } from './exits.js';
import { fwCfgItems } from './fw-cfg-items.js';
import { createHelperControl } from './helper/create.js';
import { MirrorVcpus } from './helper/mirror-vcpus.js';
import { MigrationSettings } from './migration/settings.js';
import { MigrationSource } from './migration/source.js';
import { MigrationTarget } from './migration/target.js';
import { strerror, TransportError } from './migration/uri.js';
import { type HostOptions, UsageError } from './options.js';
import { qmpCommands } from './qmp-commands.js';
import { hostSchema } from './qmp-schema.js';
import { RunStateMachine } from './run-state.js';
import { openSerial, type SerialOutput } from './serial.js';
import { readStreamImage } from './stream-image.js';
import { VcpuThreads } from './vcpu-threads.js';
import { createVirtualMachine, readNamedFile, type VirtualMachine } from './virtual-machine.js';

const VERSION = { qemu: { major: 7, minor: 2, micro: 22 }, package: 'cvm' };
/** The firmware's limit on anything that an owner gives: SEV_FW_BLOB_MAX_SIZE. */
const BLOB_LIMIT = 0x4000;
const POLICY_ES = 4;

/** How a host ended: the exit code, and a line for the person if something went wrong. */
export interface HostEnd {
	readonly code: number;
	readonly line?: string;
}

/**
 * One host process: a machine, a VM, its vCPU threads, migration both ways, and QMP. It composes the packages and decides
 * nothing that they own.
 */
export class Host {
	/** Resolves when the host has ended: by `quit`, by a failed incoming migration, or by `close`. */
	readonly ended: Promise<HostEnd>;
	readonly commands: QmpHandlers<typeof hostSchema>;
	readonly #context: HostContext;
	readonly #server: QmpServer;
	readonly #serial: SerialOutput;
	readonly #mirrors: MirrorVcpus | undefined;
	readonly #source: MigrationSource;
	readonly #target: MigrationTarget;
	#listeners: QmpListener[] = [];
	#onEvent: ((event: string, data: JsonObject) => void)[] = [];
	#end: (end: HostEnd) => void = () => undefined;
	#closing: Promise<void> | undefined;

	private constructor(
		options: HostOptions,
		image: Awaited<ReturnType<typeof readStreamImage>> | undefined,
		warn: (line: string) => void,
	) {
		this.ended = new Promise((resolve) => {
			this.#end = resolve;
		});
		const machine = createVirtualMachine(options, image);
		this.#serial = openSerial(options.serial);
		const exits = new ExitAnswers(() => this.#context, createFwCfgDevice(fwCfgItems(options)), this.#serial);
		const threads = new VcpuThreads(
			(vcpu) => exits.answer(vcpu),
			(reason, vcpu) => void this.#halted(reason, vcpu.index),
		);
		this.#mirrors =
			options.mirrors === 0
				? undefined
				: new MirrorVcpus({
						io: (port, isOut, data) => exits.io(port, isOut, data),
						reset: (reason) => void this.#resetAsked(reason),
						failed: (reason) => void this.#stopped(reason, 'internal-error'),
					});
		this.#context = {
			options,
			machine,
			threads,
			helper: this.#mirrors && createHelperControl(options.helper ?? 'hardened', () => this.#context, this.#mirrors),
			runState: new RunStateMachine(),
			settings: new MigrationSettings(this.#mirrors !== undefined),
			migrationMsr: migrationMsrOf(machine, image !== undefined),
			handedOver: false,
			autostart: !options.stopped,
			emit: (event, data = {}) => this.#emit(event, data),
			resume: () => this.#resume(),
			pause: (next) => this.#pause(next),
			warn,
			fail: (line) => void this.close({ code: 1, line }),
		};
		this.#source = new MigrationSource(this.#context);
		this.#target = new MigrationTarget(this.#context);
		this.commands = qmpCommands(this.#context, this.#source, this.#target, () => void this.close({ code: 0 }));
		this.#server = createQmpServer(hostSchema, {
			handlers: this.commands,
			version: VERSION,
			clock: systemClock,
		});
	}

	/** Builds the machine, launches the guest if there is one to launch, and serves QMP. @throws UsageError */
	static async start(options: HostOptions, warn: (line: string) => void = () => undefined): Promise<Host> {
		const image = options.fromStream === undefined ? undefined : await readStreamImage(options.fromStream);
		const host = new Host(options, image, warn);
		if (options.insecurePlaintext) {
			warn('warning: -insecure-plaintext: a migration helper that encrypts nothing may show the whole guest');
		}
		try {
			await host.#begin();
		} catch (error) {
			await host.close({ code: 1 });
			throw error;
		}
		return host;
	}

	async #begin(): Promise<void> {
		const { options, machine, threads, runState } = this.#context;
		const { ticks, helper, insecureSeed: seed } = options;
		await threads.start(machine.vcpus, { abi: machine.kvm.abi, ticks, helper, seed, isMirror: false });
		if (options.incoming !== undefined) runState.to('inmigrate');
		else if (machine.sev) this.#launch();
		// The mirror takes the guest's key over: there is one only now.
		await this.#mirrors?.create(machine, options);
		for (const where of options.qmp) this.#listeners.push(await serveOn(this.#server, where));
		if (options.incoming !== undefined) {
			if (options.incoming !== 'defer') await this.#target.listen(options.incoming);
		} else if (!options.stopped) this.#resume();
	}

	#launch(): void {
		const { machine, options } = this.#context;
		const { dhCertFile, sessionFile, policy } = options.sev ?? {};
		if (((policy ?? 0) & POLICY_ES) !== 0) {
			throw new UsageError('sev_guest_init: guest policy requires SEV-ES, but host SEV-ES support unavailable');
		}
		if ((dhCertFile === undefined) !== (sessionFile === undefined)) {
			throw new UsageError(`-object sev-guest: dh-cert-file and session-file belong together`);
		}
		const read = (option: string, path: string) =>
			decodeOwnerFile(readNamedFile(`-object sev-guest,${option}`, path, 2 * BLOB_LIMIT));
		const owner =
			dhCertFile === undefined || sessionFile === undefined
				? undefined
				: { dhCert: read('dh-cert-file', dhCertFile), session: read('session-file', sessionFile) };
		machine.sev?.launch(owner, machine.measured);
	}

	/** Calls `listener` for every QMP event, whether or not a client is connected. */
	onEvent(listener: (event: string, data: JsonObject) => void): void {
		this.#onEvent.push(listener);
	}

	/** DRAM as this host sees it. */
	get dram(): Uint8Array {
		return this.#context.machine.machine.dram;
	}

	/** Ends everything; resolves when nothing of the host is left. */
	close(end: HostEnd = { code: 0 }): Promise<void> {
		this.#closing ??= this.#close(end);
		return this.#closing;
	}

	async #close(end: HostEnd): Promise<void> {
		this.#source.drop();
		this.#target.close();
		await this.#source.finished;
		await Promise.all([this.#context.threads.stop(), this.#mirrors?.stop()]);
		// The answer to `quit` and the last events are on their way to the clients.
		await new Promise((resolve) => setImmediate(resolve));
		for (const listener of this.#listeners) await listener.close();
		this.#serial.close();
		this.#context.machine.mirror?.destroy();
		this.#context.machine.vm.destroy();
		this.#end(end);
	}

	#emit(event: string, data: JsonObject): void {
		this.#server.emit(event, data);
		for (const listener of this.#onEvent) listener(event, data);
	}

	#resume(): void {
		const { machine, runState, threads, handedOver } = this.#context;
		if (handedOver) throw new Error('a guest that was handed over must not run here');
		machine.sev?.beforeRun();
		runState.to('running');
		this.#emit('RESUME', {});
		threads.resume();
	}

	async #pause(next: 'paused' | 'finish-migrate' | 'inmigrate'): Promise<void> {
		const { runState, threads } = this.#context;
		const wasRunning = runState.running;
		await threads.pause();
		runState.to(next);
		if (wasRunning) this.#emit('STOP', {});
	}

	/** A vCPU can not go on: the guest stops, the process stays for whoever wants to look. */
	async #halted(reason: string, vcpu: number): Promise<void> {
		if (await this.#stopped(`vCPU ${vcpu}: ${reason}`, 'internal-error')) {
			this.#emit('GUEST_PANICKED', { action: 'pause', info: { type: 'cvm', vcpu, reason } });
		}
	}

	/**
	 * A helper shut down, at which QEMU resets the whole machine: the guest with it. This model has no resets and does what QEMU does
	 * with `-no-reboot`.
	 */
	async #resetAsked(reason: string): Promise<void> {
		const { runState } = this.#context;
		const before = runState.state;
		await this.#stopped(`${reason}: the machine was to be reset`, 'shutdown');
		if (before !== 'shutdown') this.#emit('SHUTDOWN', { guest: true, reason: 'guest-reset' });
	}

	/** @returns whether the guest ran until now */
	async #stopped(line: string, state: 'internal-error' | 'shutdown'): Promise<boolean> {
		const { threads, runState, warn } = this.#context;
		warn(line);
		await threads.pause();
		const wasRunning = runState.running;
		if (wasRunning || state === 'shutdown') runState.to(state);
		if (wasRunning) this.#emit('STOP', {});
		return wasRunning;
	}
}

function migrationMsrOf({ sev }: VirtualMachine, isCaptured: boolean): MigrationMsr {
	// A plain guest is not offered the MSR: it stays 0, and nobody asks for it.
	const msr = createMigrationMsr({ isExposed: sev !== undefined, isEncrypted: true });
	// A captured machine has no kernel of ours that would say it; all its pages are private, which is complete.
	if (isCaptured) msr.load(1n);
	return msr;
}

/** @throws TransportError if the place is taken or can not be used */
async function serveOn(server: QmpServer, where: string): Promise<QmpListener> {
	try {
		return await serveQmp(server, where);
	} catch (error) {
		throw new TransportError(`-qmp: Failed to bind '${where.replace(/,.*/, '')}': ${strerror(error)}`, {
			cause: error,
		});
	}
}

/** Owners' tools write base64 (sevctl's session files) or the bytes themselves (sev-tool's). */
function decodeOwnerFile(data: Uint8Array): Uint8Array {
	const text = Buffer.from(data).toString('latin1').trim();
	return /^[A-Za-z0-9+/\s]+={0,2}$/.test(text) ? Uint8Array.from(Buffer.from(text, 'base64')) : data;
}
