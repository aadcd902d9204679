import { describe, expect, it } from 'vitest';
import { flag, listOf, optional, text, uint8 } from './argument-types.js';
import { QmpError } from './error.js';
import { answers, command, qmpSchema } from './schema.js';
import { createQmpServer } from './server.js';

const version = { qemu: { major: 7, minor: 2, micro: 22 }, package: 'model' };
const ascii = (bytes: Uint8Array) => String.fromCharCode(...bytes);
const bytes = (line: string) => Uint8Array.from(line, (c) => c.charCodeAt(0));

const schema = {
	...qmpSchema,
	'x-sum': command({ numbers: listOf(uint8), negate: optional(flag) }, answers<{ sum: number }>()),
	'x-slow': command({ name: text }, answers<string>()),
	'x-peek': command({}, answers<string>({ oob: true })),
	'x-unserved': command({}),
};

function start() {
	const lines: string[] = [];
	const faults: string[] = [];
	const release: Record<string, (value: string) => void> = {};
	const server = createQmpServer(schema, {
		handlers: {
			'query-status': () => ({ status: 'running', running: true }),
			'query-name': () => {
				throw new QmpError('DeviceNotFound', 'no name here');
			},
			'query-uuid': () => {
				throw new TypeError('a bug');
			},
			stop: (_, { emit }) => emit('STOP'),
			'migrate-set-parameters': () => undefined,
			'x-sum': ({ numbers, negate }) => {
				const sum = numbers.reduce((a, b) => a + b, 0);
				return { sum: negate ? -sum : sum };
			},
			'x-slow': ({ name }) =>
				new Promise((resolve) => {
					release[name] = resolve;
				}),
			'x-peek': () => 'peeked',
		},
		version,
		clock: () => 1_600_000_000_123_456,
		onFault: (name, error) => faults.push(`${name}: ${String(error)}`),
	});
	const session = server.open((data) => lines.push(ascii(data)));
	const tell = (line: string) => {
		lines.length = 0;
		session.receive(bytes(line));
		return [...lines];
	};
	const negotiated = () => tell('{"execute":"qmp_capabilities"}');
	return { server, session, lines, faults, release, tell, negotiated };
}

describe('a QMP session', () => {
	it('greets at once, with QEMU separators and CR LF', () => {
		expect(start().lines).toEqual([
			'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "model"}, "capabilities": ["oob"]}}\r\n',
		]);
	});

	it('starts every connection in negotiation', () => {
		const { server, negotiated } = start();
		negotiated();
		const lines: string[] = [];
		server.open((data) => lines.push(ascii(data))).receive(bytes('{"execute":"query-status"}'));
		expect(lines[1]).toContain('Expecting capabilities negotiation');
	});

	it('echoes any id, in answers and errors', () => {
		const { tell, negotiated } = start();
		negotiated();
		expect(tell('{"execute":"query-status","id":{"n":[18446744073709551615,null]}}')).toEqual([
			'{"return": {"status": "running", "running": true}, "id": {"n": [18446744073709551615, null]}}\r\n',
		]);
		expect(tell('{"execute":"nope","id":"a"}')[0]).toMatch(/^\{"id": "a", "error"/);
	});

	it('sends no event before the negotiation, and stamps those after it', () => {
		const { server, lines, tell, negotiated } = start();
		lines.length = 0;
		server.emit('RESUME');
		expect(lines).toEqual([]);
		negotiated();
		expect(tell('{"execute":"stop"}')).toEqual([
			'{"timestamp": {"seconds": 1600000000, "microseconds": 123456}, "event": "STOP"}\r\n',
			'{"return": {}}\r\n',
		]);
	});

	it('serves commands of an extended schema with checked arguments', () => {
		const { tell, negotiated } = start();
		negotiated();
		expect(tell('{"execute":"x-sum","arguments":{"numbers":[1,2],"negate":true}}')).toEqual([
			'{"return": {"sum": -3}}\r\n',
		]);
		expect(tell('{"execute":"x-sum","arguments":{"numbers":[1,256]}}')[0]).toContain(
			"Parameter 'numbers[1]' expects uint8_t",
		);
		expect(tell('{"execute":"x-sum","arguments":{"numbers":[[1]]}}')[0]).toContain(
			"Parameter 'numbers[0]' expects uint64",
		);
	});

	it('lists and serves only commands that have a handler', () => {
		const { tell, negotiated } = start();
		negotiated();
		const [list] = tell('{"execute":"query-commands"}');
		expect(list).toContain('"x-sum"');
		expect(list).toContain('"qmp_capabilities"');
		expect(list).not.toContain('x-unserved');
		expect(tell('{"execute":"x-unserved"}')[0]).toContain('The command x-unserved has not been found');
		expect(tell('{"execute":"toString"}')[0]).toContain('CommandNotFound');
	});

	it("answers a handler's QmpError with its class and text, and another error as a reported fault", () => {
		const { tell, negotiated, faults } = start();
		negotiated();
		expect(tell('{"execute":"query-name"}')).toEqual([
			'{"error": {"class": "DeviceNotFound", "desc": "no name here"}}\r\n',
		]);
		expect(faults).toEqual([]);
		expect(tell('{"execute":"query-uuid"}')[0]).toContain('"GenericError", "desc": "a bug"');
		expect(faults).toEqual(['query-uuid: TypeError: a bug']);
	});

	it('keeps the order of answers, also of errors in the input, behind a slow command', async () => {
		const { session, tell, negotiated, lines, release } = start();
		negotiated();
		expect(tell('{"execute":"x-slow","arguments":{"name":"a"},"id":1} @\n{"execute":"query-status","id":2}')).toEqual(
			[],
		);
		expect(session.backlog).toBe(3);
		const idle = new Promise<void>((resolve) => {
			session.onIdle = resolve;
		});
		release['a']?.('done');
		await idle;
		expect(lines.map((l) => l.slice(0, 20))).toEqual([
			'{"return": "done", "',
			'{"error": {"class": ',
			'{"return": {"status"',
		]);
		expect(session.backlog).toBe(0);
	});

	it('lets only out-of-band commands overtake, and only when the client enabled that', () => {
		const { tell } = start();
		tell('{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}');
		expect(tell('{"execute":"x-slow","arguments":{"name":"a"}}{"exec-oob":"x-peek","id":7}')).toEqual([
			'{"return": "peeked", "id": 7}\r\n',
		]);
		expect(tell('{"exec-oob":"query-status"}')[0]).toContain('The command query-status does not support OOB');
		const other = start();
		other.negotiated();
		expect(other.tell('{"exec-oob":"x-peek"}')[0]).toContain("QMP input member 'exec-oob' is unexpected");
	});

	it('takes a negative uint64 as QEMU does: wrapped', () => {
		const seen: unknown[] = [];
		const server = createQmpServer(qmpSchema, {
			handlers: {
				'migrate-set-parameters': (args) => {
					seen.push(args['max-bandwidth'], args['sev-pdh']);
				},
			},
			version,
			clock: () => 0,
		});
		server
			.open(() => undefined)
			.receive(
				bytes(
					'{"execute":"qmp_capabilities"}{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":-1,"sev-pdh":"AA=="}}',
				),
			);
		expect(seen).toEqual([2n ** 64n - 1n, 'AA==']);
	});

	it('sends nothing after it was closed, not even the answer of a running command', async () => {
		const { session, server, tell, negotiated, lines, release } = start();
		negotiated();
		tell('{"execute":"x-slow","arguments":{"name":"a"}}{"execute":"query-status"}');
		session.close();
		release['a']?.('late');
		server.emit('RESUME');
		await Promise.resolve();
		await Promise.resolve();
		expect(lines).toEqual([]);
	});
});
