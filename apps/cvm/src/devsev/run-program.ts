import { spawn } from 'node:child_process';
import { constants } from 'node:os';

/** Signals that ask for something. Those of a terminal's keys reach the program by themselves when there is a terminal. */
const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH'] as const;
const FROM_KEYS = ['SIGINT', 'SIGQUIT'] as const;

/** What a shell exits with when it cannot run a program: POSIX.1-2017, Shell Command Language, 2.8.2. */
export const NOT_EXECUTABLE = 126;
/** What a shell reports for a program that a signal ended. */
const BY_SIGNAL = 128;

/**
 * Runs a program in our place: with our standard streams, and with the signals that we get.
 *
 * @returns its exit code, or 128 and the number of the signal that ended it, or 126 if the system does not run it
 */
export async function runProgram(program: string, argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
	const child = spawn(program, argv, { stdio: 'inherit', env });
	const forward = (signal: NodeJS.Signals) => child.kill(signal);
	const ignore = () => undefined;
	const handlers = new Map<NodeJS.Signals, (signal: NodeJS.Signals) => void>([
		...FORWARDED.map((signal) => [signal, forward] as const),
		...FROM_KEYS.map((signal) => [signal, process.stdin.isTTY ? ignore : forward] as const),
	]);
	for (const [signal, handler] of handlers) process.on(signal, handler);
	try {
		return await new Promise<number>((resolve) => {
			child.once('error', (error) => {
				process.stderr.write(`cvm: ${program}: ${error.message}\n`);
				resolve(NOT_EXECUTABLE);
			});
			child.once('close', (code, signal) => resolve(code ?? BY_SIGNAL + (signal ? constants.signals[signal] : 0)));
		});
	} finally {
		for (const [signal, handler] of handlers) process.off(signal, handler);
	}
}
