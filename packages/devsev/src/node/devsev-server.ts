/* The platform's process: `node devsev-server.js`, with a ServerOrder as JSON on its standard input. */
import { textOf } from './error.js';
import { type ServerOrder, serveSevDevice } from './server.js';

async function order(): Promise<ServerOrder> {
	let text = '';
	for await (const piece of process.stdin.setEncoding('utf8')) text += piece;
	return JSON.parse(text);
}

// Its life is bound to those who use it: not to a terminal, nor to whether somebody reads what it says.
for (const signal of ['SIGINT', 'SIGHUP', 'SIGQUIT'] as const) process.on(signal, () => undefined);
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
try {
	const outcome = await serveSevDevice(await order(), {
		ready: () => process.stdout.write('ready\n'),
		complain: (text) => process.stderr.write(`${text}\n`),
		until: new Promise((resolve) => process.once('SIGTERM', resolve)),
	});
	if (outcome === 'locked') process.stdout.write('locked\n');
	process.exit(0);
} catch (error) {
	process.stderr.write(`${textOf(error)}\n`);
	process.exit(1);
}
