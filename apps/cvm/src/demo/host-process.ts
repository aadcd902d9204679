import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { hostSchema } from '@cvm/host';
import type { QmpClient } from '@cvm/qmp';
import { connectQmpSocket } from '@cvm/qmp/node';
import { DemoFailure } from '../exit.js';

/** A QMP connection to one of our hosts. */
export type Monitor = QmpClient<typeof hostSchema>;

/** Longest that a host may take to open its QMP socket. */
const START_MS = 30_000;
/** Longest that it may take to end. */
const QUIT_MS = 10_000;

/** A host in a process of its own, driven over QMP. */
export class HostProcess {
	readonly label: string;
	readonly monitor: Monitor;
	readonly #child: ChildProcess;
	/** Resolves when the process has ended, with its exit code or the signal that ended it. */
	readonly ended: Promise<number | string>;
	readonly #complaints: () => string;

	private constructor(
		label: string,
		child: ChildProcess,
		monitor: Monitor,
		ended: Promise<number | string>,
		complaints: () => string,
	) {
		this.label = label;
		this.#child = child;
		this.monitor = monitor;
		this.ended = ended;
		this.#complaints = complaints;
	}

	/** What the process said on standard error, without its own name. */
	get complaints(): string {
		return this.#complaints()
			.trim()
			.replace(/^cvm host: /gm, '');
	}

	get pid(): number {
		return this.#child.pid ?? -1;
	}

	/** Starts this very program as `cvm host …` and connects to its QMP socket. @throws DemoFailure with what it said if it ends before that */
	static async start(label: string, socket: string, options: readonly string[]): Promise<HostProcess> {
		let complaints = '';
		const argv = [
			process.argv[1] ?? '',
			'host',
			...options,
			'-run-with',
			'exit-with-parent=on',
			'-qmp',
			`unix:${socket},server,nowait`,
		];
		const child = spawn(process.execPath, argv, { stdio: ['ignore', 'ignore', 'pipe'] });
		child.stderr?.on('data', (data) => {
			complaints = (complaints + data).slice(-4096);
		});
		let gone = false;
		const ended = new Promise<number | string>((resolve) => {
			const end = (how: number | string) => {
				gone = true;
				resolve(how);
			};
			child.once('close', (code, signal) => end(code ?? signal ?? -1));
			child.once('error', (error) => end(error.message));
		});
		for (const until = Date.now() + START_MS; ; ) {
			try {
				const monitor = await connectQmpSocket<typeof hostSchema>(`unix:${socket}`);
				return new HostProcess(label, child, monitor, ended, () => complaints);
			} catch {
				if (gone) {
					const said = complaints.trim().replace(/^cvm host: /, '');
					throw new DemoFailure(`${label}: ${said || `the host process ended: ${await ended}`}`);
				}
				if (Date.now() > until) {
					child.kill('SIGKILL');
					throw new DemoFailure(`${label}: the host process did not open its QMP socket`);
				}
				await delay(10);
			}
		}
	}

	/** The most memory that the process ever had resident, in bytes, where the system tells (Linux). */
	peakMemory(): number | undefined {
		try {
			const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${this.#child.pid}/status`, 'utf8'))?.[1];
			return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
		} catch {
			return undefined;
		}
	}

	/** Ends the process, in good order if it still answers. */
	async quit(): Promise<void> {
		// Set before it is asked: a host that is busy for good does not answer either.
		const killer = setTimeout(() => this.#child.kill('SIGKILL'), QUIT_MS);
		await this.monitor.execute('quit').catch(() => undefined);
		this.monitor.close();
		await this.ended;
		clearTimeout(killer);
	}

	/** Ends the process at once. */
	kill(): void {
		this.#child.kill('SIGKILL');
	}
}
