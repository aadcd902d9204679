/** Hosts for tests: as many as a test wants in its own process, all closed at its end, and everything that they say kept. */
import { setTimeout as delay } from 'node:timers/promises';
import type { CommandArguments, CommandResult, HandlerContext, JsonObject, MigrationInfo } from '@cvm/qmp';
import type { GuestDigest, Host as HostOfSource, hostSchema } from '../src/index.js';

// vCPUs are worker threads, which run JavaScript only: hosts come from the bundle that the global set-up built.
const bundle = (await import(new URL('../.cache/index.js', import.meta.url).href)) as typeof import('../src/index.js');

type Schema = typeof hostSchema;
type Command = keyof HostOfSource['commands'];

export const base64 = (data: Uint8Array): string => Buffer.from(data).toString('base64');
export const fromBase64 = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64'));

/** One event of one host. */
export interface Occurrence {
	readonly host: string;
	readonly event: string;
	readonly data: JsonObject;
	/** How many hosts of the fleet had a running guest just then. */
	readonly running: number;
}

const POLL_MS = 2;
const ENDED: readonly unknown[] = ['completed', 'failed', 'cancelled'];

/** A host of a test. */
export class TestHost {
	readonly name: string;
	readonly host: HostOfSource;
	/** Lines for the person at the terminal. */
	readonly warnings: string[];
	readonly events: Occurrence[] = [];
	#waiting: (() => void)[] = [];
	#seen = 0;

	constructor(name: string, host: HostOfSource, warnings: string[]) {
		this.name = name;
		this.host = host;
		this.warnings = warnings;
	}

	/** Takes part in the host's events. */
	record(occurrence: Occurrence): void {
		this.events.push(occurrence);
		for (const wake of this.#waiting.splice(0)) wake();
	}

	/** Runs a command as a QMP client would. */
	async call<K extends Command>(command: K, args?: CommandArguments<Schema[K]>): Promise<CommandResult<Schema[K]>> {
		const handler = this.host.commands[command] as (args: unknown, context: HandlerContext) => unknown;
		return (await handler(args ?? {}, { emit: () => undefined })) as CommandResult<Schema[K]>;
	}

	/** The words with which a command is refused. Fails if it is not. */
	async refusal<K extends Command>(command: K, args?: CommandArguments<Schema[K]>): Promise<string> {
		try {
			await this.call(command, args);
		} catch (error) {
			return (error as Error).message;
		}
		throw new Error(`${this.name}: expected '${command}' to be refused`);
	}

	/** Whether the guest runs here, at this very moment. */
	get running(): boolean {
		const status = this.host.commands['query-status']({}, { emit: () => undefined });
		return 'running' in status && status.running;
	}

	/** Resolves with the first event that is wanted, among those to come and those that no earlier call has passed. */
	async event(wanted: (event: string, data: JsonObject) => boolean): Promise<Occurrence> {
		for (;;) {
			for (; this.#seen < this.events.length; this.#seen++) {
				const occurrence = this.events[this.#seen];
				if (occurrence && wanted(occurrence.event, occurrence.data)) {
					this.#seen++;
					return occurrence;
				}
			}
			await new Promise<void>((resolve) => this.#waiting.push(resolve));
		}
	}

	/** Lets later waiting begin with events to come. */
	forgetEvents(): void {
		this.#seen = this.events.length;
	}

	/** Resolves when the outgoing migration has ended, however, with what `query-migrate` then says. */
	async migrationEnd(): Promise<MigrationInfo> {
		await this.event((event, { status }) => event === 'MIGRATION' && ENDED.includes(status));
		return this.call('query-migrate');
	}

	/** Resolves when the migration has this status. */
	async migration(status: string): Promise<void> {
		await this.event((event, { status: now }) => event === 'MIGRATION' && now === status);
	}

	async state(): Promise<string> {
		return (await this.call('query-status')).status;
	}

	async steps(): Promise<readonly number[]> {
		return (await this.call('x-guest-progress')).steps;
	}

	/** Resolves when every vCPU has done so many steps; fails if the guest stops before. A guest's progress is no event: asks again and again. */
	async reached(steps: number): Promise<void> {
		while (Math.min(...(await this.steps())) < steps) {
			const { running, status } = await this.call('query-status');
			if (!running)
				throw new Error(`${this.name}: expected a running guest, got '${status}' (${this.warnings.join('; ')})`);
			await delay(POLL_MS);
		}
	}

	/** Lets the guest finish, stops it and reads it. */
	async finalDigest(steps: number): Promise<GuestDigest> {
		await this.reached(steps);
		await this.call('stop');
		return this.call('x-guest-digest');
	}
}

/**
 * Two passes over a guest at work before it may be stopped, however fast the machine: with a fixed limit to the downtime, a guest
 * as small as these would be sent while it stands.
 */
function keepLive(host: HostOfSource, { status, pass = 0 }: JsonObject): void {
	const limit = status === 'setup' ? 1n : Number(pass) >= 3 ? 2000n : undefined;
	if (limit !== undefined)
		host.commands['migrate-set-parameters']({ 'downtime-limit': limit }, { emit: () => undefined });
}

/** The hosts of one test. */
export class Fleet {
	readonly hosts: TestHost[] = [];
	/** Every event of every host, in the order in which they happened. */
	readonly journal: Occurrence[] = [];

	async start(name: string, argv: readonly string[]): Promise<TestHost> {
		const options = bundle.parseHostOptions(argv);
		if (options === 'help') throw new Error('expected options of a host');
		const warnings: string[] = [];
		// Events of the start itself are missed: nothing runs yet, as tests start hosts with -S or -incoming.
		const host = await bundle.Host.start(options, (line) => warnings.push(line));
		const test = new TestHost(name, host, warnings);
		this.hosts.push(test);
		host.onEvent((event, data) => {
			const running = this.hosts.filter((h) => h.running).length;
			const occurrence = { host: name, event, data, running };
			this.journal.push(occurrence);
			if (event.startsWith('MIGRATION')) keepLive(host, data);
			test.record(occurrence);
		});
		await test.call('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] });
		await test.call('migrate-set-parameters', { 'max-bandwidth': 0n });
		return test;
	}

	/** Ends every host. */
	async close(): Promise<void> {
		await Promise.all(this.hosts.splice(0).map((h) => h.host.close()));
	}
}
