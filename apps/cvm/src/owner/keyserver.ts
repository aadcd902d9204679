import { constants } from 'node:os';
import { nodeProvider } from '@cvm/crypto/node';
import { startKeyServer } from '@cvm/sev-hw/key-server';
import { Command } from 'commander';
import { whole } from '../demo/options.js';
import { Failure } from '../exit.js';
import { print } from './print.js';
import { reasonOf } from './read.js';

interface ServerOptions {
	readonly port: string;
	readonly for?: string;
	readonly json?: boolean;
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const DAY = 86_400;

/** `cvm owner keyserver`. */
export function keyServerCommand(exit: (code: number) => void): Command {
	return new Command('keyserver')
		.description(
			'stand in for the manufacturer’s key server: CEK by chip id, ASK and ARK, over HTTP on this machine only',
		)
		.option('--port <n>', 'port of 127.0.0.1, 0 for any', '0')
		.option('--for <seconds>', 'end after this time (default: when interrupted)')
		.option('--json', 'print one JSON document')
		.addHelpText(
			'after',
			`
Its certificates are of this model's chips and its fake root: they prove nothing about a real machine.
  GET /cek/id/CHIP-ID                           CEK of the chip with that id (128 hex digits)
  GET /developer/eula/sev/ask_ark_milan.cert    ASK and ARK

example:
  cvm owner keyserver --port 8080
`,
		)
		.action(async (options: ServerOptions) => {
			const port = whole('--port', options.port, 0, 0xffff);
			const seconds = options.for === undefined ? undefined : whole('--for', options.for, 1, DAY);
			const server = await startKeyServer({ provider: nodeProvider, port }).catch((error: unknown) => {
				throw new Failure(`keyserver: port ${port}: ${reasonOf(error)}`);
			});
			const ended = endOf(seconds);
			print(options.json, { url: server.url, port: server.port }, [server.url]);
			exit(await ended);
			await server.close();
		});
}

/** Waits for a signal or the end of the time. @returns the exit code */
function endOf(seconds: number | undefined): Promise<number> {
	return new Promise((resolve) => {
		const timer = seconds === undefined ? undefined : setTimeout(() => end(0), seconds * 1000);
		const interrupted = (signal: NodeJS.Signals) => end(128 + constants.signals[signal]);
		const end = (code: number) => {
			clearTimeout(timer);
			for (const signal of SIGNALS) process.off(signal, interrupted);
			resolve(code);
		};
		for (const signal of SIGNALS) process.once(signal, interrupted);
	});
}
