import { describe, expect, it } from 'vitest';
import { connectQmp, type DuplexPort } from './client.js';
import { answers, command, qmpSchema } from './schema.js';
import { createQmpServer } from './server.js';

const bytes = (line: string) => Uint8Array.from(line, (c) => c.charCodeAt(0));
const GREETING = '{"QMP": {"version": {}, "capabilities": []}}\r\n';

/** A port whose far end is played by the test. */
function scripted() {
	let on: Parameters<DuplexPort['listen']>[0] | undefined;
	const written: string[] = [];
	const port: DuplexPort = {
		write: (data) => written.push(String.fromCharCode(...data)),
		close: () => on?.end(),
		listen: (given) => {
			on = given;
		},
	};
	return { port, written, say: (line: string) => on?.data(bytes(line)), hangUp: (e?: Error) => on?.end(e) };
}

async function connected() {
	const far = scripted();
	const connecting = connectQmp(far.port);
	far.say(GREETING);
	await Promise.resolve();
	far.say('{"return": {}, "id": 1}\r\n');
	return { ...far, client: await connecting };
}

describe('a QMP client', () => {
	it('talks to our server without a socket', async () => {
		const schema = { ...qmpSchema, 'x-double': command({ n: qmpSchema.pmemsave.arguments.val }, answers<bigint>()) };
		const server = createQmpServer(schema, {
			handlers: { 'x-double': ({ n }) => 2n * n, quit: (_, { emit }) => emit('SHUTDOWN', { guest: false }) },
			version: { qemu: { major: 7, minor: 2, micro: 22 }, package: 'model' },
			clock: () => 5_000_000,
		});
		let session: ReturnType<typeof server.open> | undefined;
		const client = await connectQmp<typeof schema>({
			write: (data) => session?.receive(data),
			close: () => session?.close(),
			listen: ({ data }) => {
				session = server.open(data);
			},
		});
		expect(client.greeting['capabilities']).toEqual(['oob']);
		expect(await client.execute('x-double', { n: 21 })).toBe(42);
		expect(await client.execute('x-double', { n: 2n ** 61n })).toBe(2n ** 62n);
		const shutdown = client.waitFor('SHUTDOWN', (data) => data['guest'] === false);
		await client.execute('quit');
		expect(await shutdown).toEqual({
			event: 'SHUTDOWN',
			data: { guest: false },
			timestamp: { seconds: 5, microseconds: 0 },
		});
		await expect(client.execute('stop')).rejects.toMatchObject({ name: 'QmpError', code: 'CommandNotFound' });
	});

	it('matches answers to commands by id, in any order', async () => {
		const { client, say, written } = await connected();
		const first = client.execute('query-name');
		const second = client.execute('query-uuid');
		expect(written.slice(1)).toEqual([
			'{"execute": "query-name", "arguments": {}, "id": 2}\r\n',
			'{"execute": "query-uuid", "arguments": {}, "id": 3}\r\n',
		]);
		say('{"return": {"UUID": "u"}, "id": 3}{"return": {"name": "n"}, "id": 2}');
		expect(await first).toEqual({ name: 'n' });
		expect(await second).toEqual({ UUID: 'u' });
	});

	it('rejects waiting commands and waits for events when the server hangs up, and says why', async () => {
		const { client, hangUp } = await connected();
		const command = client.execute('query-status');
		const event = client.waitFor('STOP');
		hangUp(new Error('connection reset'));
		await expect(command).rejects.toThrow('query-status: expected an answer, got: connection reset');
		await expect(event).rejects.toMatchObject({ name: 'QmpConnectionError', code: 'closed' });
		await expect(client.execute('stop')).rejects.toThrow('stop: expected an open connection');
		await client.closed;
	});

	it.each([
		['text that is no JSON', 'HTTP/1.1 200 OK\r\n', "JSON parse error, stray 'H'"],
		['a value that is no object', '[]', 'got no object'],
		['an object that is no greeting', '{"return": {}}', 'got no greeting'],
	])('refuses a server that starts with %s', async (_, line, why) => {
		const far = scripted();
		const connecting = connectQmp(far.port);
		far.say(line);
		await expect(connecting).rejects.toMatchObject({ code: 'protocol', message: expect.stringContaining(why) });
	});

	it('refuses a server that hangs up before its greeting', async () => {
		const far = scripted();
		const connecting = connectQmp(far.port);
		far.hangUp();
		await expect(connecting).rejects.toMatchObject({ code: 'closed', message: 'the server closed the connection' });
	});

	it.each([
		['an answer to no command', '{"return": {}, "id": 99}'],
		['an error without id', '{"error": {"class": "GenericError", "desc": "x"}}'],
		['an event without time', '{"event": "STOP"}'],
		['something else', '{"hello": 1}'],
	])('ends the connection on %s', async (_, line) => {
		const { client, say } = await connected();
		const waiting = client.execute('query-status');
		say(line);
		await expect(waiting).rejects.toMatchObject({ name: 'QmpConnectionError', code: 'protocol' });
	});

	it('stops telling a listener that was removed', async () => {
		const { client, say } = await connected();
		const seen: string[] = [];
		const stop = client.onEvent(({ event }) => seen.push(event));
		say('{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}');
		stop();
		say('{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}');
		expect(seen).toEqual(['STOP']);
	});
});
