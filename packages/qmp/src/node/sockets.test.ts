import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createQmpServer, qmpSchema } from '../index.js';
import { connectQmpSocket, parseQmpAddress, type QmpListener, serveQmp, systemClock } from './index.js';

let folder = '';
let listeners: QmpListener[] = [];
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'qmp-'));
});
afterEach(async () => {
	await Promise.all(listeners.map((l) => l.close()));
	listeners = [];
	rmSync(folder, { recursive: true });
});

const makeServer = () =>
	createQmpServer(qmpSchema, {
		handlers: {
			'query-status': async () => ({ status: 'running', running: true }),
			stop: (_, { emit }) => emit('STOP'),
		},
		version: { qemu: { major: 7, minor: 2, micro: 22 }, package: 'model' },
		clock: systemClock,
	});
const serve = async (where: string) => {
	const listener = await serveQmp(makeServer(), where);
	listeners.push(listener);
	return listener;
};

/** Reads a raw socket line by line. */
function linesOf(socket: Socket) {
	let text = '';
	let wake: (() => void) | undefined;
	socket.on('data', (data) => {
		text += data.toString('latin1');
		wake?.();
	});
	return async () => {
		while (!text.includes('\r\n')) {
			await new Promise<void>((resolve) => {
				wake = resolve;
			});
		}
		const end = text.indexOf('\r\n');
		const line = text.slice(0, end);
		text = text.slice(end + 2);
		return line;
	};
}

describe('QMP over sockets', () => {
	it('serves a Unix socket and replaces one left behind', async () => {
		const path = join(folder, 'qmp.sock');
		await serve(`unix:${path},server,nowait`);
		const client = await connectQmpSocket(`unix:${path}`);
		const stopped = client.waitFor('STOP');
		expect(await client.execute('query-status')).toEqual({ status: 'running', running: true });
		await client.execute('stop');
		expect((await stopped).timestamp.seconds).toBeGreaterThan(1.6e9);
		client.close();
	});

	it('leaves alone a file that is no socket', async () => {
		const path = join(folder, 'file');
		writeFileSync(path, 'precious');
		await expect(serve(`unix:${path},server,nowait`)).rejects.toThrow('EADDRINUSE');
	});

	it('serves loopback TCP and says which port it got', async () => {
		const { address } = await serve('tcp:127.0.0.1:0,server,nowait');
		if (address.type !== 'tcp') throw new Error('expected a TCP address');
		expect(address.port).toBeGreaterThan(0);
		const client = await connectQmpSocket(`tcp:127.0.0.1:${address.port}`);
		expect(client.greeting['version']).toBeDefined();
		client.close();
	});

	it('serves one client at a time: the second gets nothing until the first leaves', async () => {
		const path = join(folder, 'qmp.sock');
		await serve(`unix:${path},server,nowait`);
		const first = createConnection(path);
		const firstLine = linesOf(first);
		expect(await firstLine()).toContain('"QMP"');
		const second = createConnection(path);
		const secondLine = linesOf(second);
		await new Promise<void>((resolve) => second.on('connect', () => resolve()));
		second.write('{"execute":"qmp_capabilities","id":"second"}');
		first.write('{"execute":"qmp_capabilities"}{"execute":"query-status"}');
		expect(await firstLine()).toBe('{"return": {}}');
		expect(await firstLine()).toContain('running');
		expect(second.bytesRead).toBe(0);
		first.destroy();
		expect(await secondLine()).toContain('"QMP"');
		expect(await secondLine()).toBe('{"return": {}, "id": "second"}');
		second.destroy();
	});

	it('answers thousands of commands sent at once, in order', async () => {
		const path = join(folder, 'qmp.sock');
		await serve(`unix:${path},server,nowait`);
		const client = await connectQmpSocket(`unix:${path}`);
		const order: number[] = [];
		await Promise.all(
			Array.from({ length: 3000 }, async (_, i) => {
				await client.execute('query-status');
				order.push(i);
			}),
		);
		expect(order).toEqual(order.map((_, i) => i));
		expect(order).toHaveLength(3000);
		client.close();
	});

	it('rejects waiting commands when the server closes', async () => {
		const path = join(folder, 'qmp.sock');
		const listener = await serve(`unix:${path},server,nowait`);
		const client = await connectQmpSocket(`unix:${path}`);
		const waiting = client.waitFor('NEVER');
		waiting.catch(() => undefined);
		await listener.close();
		await expect(waiting).rejects.toMatchObject({ name: 'QmpConnectionError', code: 'closed' });
	});

	it('says so when nobody listens', async () => {
		await expect(connectQmpSocket(`unix:${join(folder, 'none')}`)).rejects.toThrow('ENOENT');
	});
});

describe('QMP addresses', () => {
	it.each([
		['unix:/a/b,server,nowait', { type: 'unix', path: '/a/b' }],
		['unix:/a,,b,server=on,wait=off', { type: 'unix', path: '/a,b' }],
		['tcp:127.0.0.1:4444', { type: 'tcp', host: '127.0.0.1', port: 4444 }],
		['tcp:[::1]:1,server,nowait', { type: 'tcp', host: '::1', port: 1 }],
		['tcp:localhost:0', { type: 'tcp', host: 'localhost', port: 0 }],
	])('reads %s', (textForm, address) => {
		expect(parseQmpAddress(textForm)).toEqual(address);
	});

	it.each([
		['tcp:0.0.0.0:4444,server,nowait', 'not-loopback'],
		['tcp::4444', 'not-loopback'],
		['tcp:[::]:4444', 'not-loopback'],
		['tcp:127.0.0.1.example.com:1', 'not-loopback'],
		['tcp:192.168.0.1:1', 'not-loopback'],
		['tcp:127.0.0.1:99999', 'syntax'],
		['tcp:127.0.0.1', 'syntax'],
		['unix:', 'syntax'],
		['vsock:1:2', 'syntax'],
		['unix:/a,server,wait', 'syntax'],
	])('refuses %s', (textForm, code) => {
		expect(() => parseQmpAddress(textForm)).toThrow(expect.objectContaining({ name: 'QmpAddressError', code }));
	});
});
