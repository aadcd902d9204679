import { Host } from './host.js';
import { parseHostOptions, USAGE } from './options.js';

/** Exit codes: 0 ended in good order, 1 failed, 2 misused. */
const FAILED = 1;
const MISUSED = 2;

/** Errors that are somebody's mistake or the world's, not ours: one line is enough. */
const EXPECTED: readonly string[] = [
	'UsageError',
	'StreamImageError',
	'TransportError',
	'SevCommandError',
	'QmpError',
	'QmpAddressError',
];

/** Time between two looks at whether the parent still lives. */
const PARENT_MS = 500;

/** Calls `orphaned` once the process that started this one has ended: the system then gives it another parent. */
function watchParent(orphaned: () => void): void {
	const parent = process.ppid;
	setInterval(() => {
		if (process.ppid !== parent) orphaned();
	}, PARENT_MS).unref();
}

/** Runs one host process to its end. @returns the exit code */
export async function runHost(argv: readonly string[], program: string): Promise<number> {
	const complain = (line: string) => process.stderr.write(`${program}: ${line}\n`);
	let host: Host | undefined;
	const quit = () => void host?.close({ code: 0 });
	process.on('SIGINT', quit);
	process.on('SIGTERM', quit);
	try {
		const options = parseHostOptions(argv);
		if (options === 'help') {
			process.stdout.write(USAGE);
			return 0;
		}
		if (options.insecureSeed !== undefined) {
			complain('warning: -insecure-seed makes every key of this host predictable');
		}
		// Nobody may be left to read what this process has to say; that is no reason to lose a guest.
		process.stderr.on('error', () => undefined);
		if (options.exitWithParent) watchParent(quit);
		// An idle host waits for commands; its sockets alone would keep it, but a stopped VM has none.
		const alive = setInterval(() => undefined, 2 ** 30);
		try {
			host = await Host.start(options, complain);
			const { code, line } = await host.ended;
			if (line) complain(line);
			return code;
		} finally {
			clearInterval(alive);
		}
	} catch (error) {
		const { name, message } = error as Error;
		complain(EXPECTED.includes(name) ? message : `internal error: ${(error as Error).stack}`);
		return name === 'UsageError' ? MISUSED : FAILED;
	} finally {
		process.off('SIGINT', quit);
		process.off('SIGTERM', quit);
	}
}
