import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
	type Address,
	type Channel,
	type Incoming,
	narrowed,
	openIncoming,
	openOutgoing,
	parseUri,
	strerror,
} from './uri.js';

let folder: string;
const open: { close(): unknown }[] = [];
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-uri-'));
});
afterEach(() => {
	for (const one of open.splice(0)) one.close();
	rmSync(folder, { recursive: true, force: true });
});

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

async function readAll(channel: Channel): Promise<string> {
	const pieces: Uint8Array[] = [];
	for await (const piece of channel.incoming) pieces.push(piece);
	return Buffer.concat(pieces).toString();
}

/** A pair of ends of one connection. */
async function connected(address: Address): Promise<{ near: Channel; far: Channel; incoming: Incoming }> {
	const incoming = await openIncoming(address);
	open.push(incoming);
	const bound = incoming.socketAddress;
	const to: Address = bound?.type === 'inet' ? { kind: 'tcp', host: bound.host, port: Number(bound.port) } : address;
	const near = await openOutgoing(to);
	const far = await incoming.accepted;
	open.push({ close: () => near.destroy() }, { close: () => far.destroy() });
	return { near, far, incoming };
}

describe('parseUri', () => {
	it.each<[string, Address]>([
		['tcp:127.0.0.1:4444', { kind: 'tcp', host: '127.0.0.1', port: 4444 }],
		['tcp:localhost:0', { kind: 'tcp', host: 'localhost', port: 0 }],
		['tcp:[::1]:65535', { kind: 'tcp', host: '::1', port: 65535 }],
		['tcp::4444', { kind: 'tcp', host: '', port: 4444 }],
		['unix:/tmp/a b:c', { kind: 'unix', path: '/tmp/a b:c' }],
		['exec:cat >x; echo a:b', { kind: 'exec', command: 'cat >x; echo a:b' }],
		['exec:cat\n', { kind: 'exec', command: 'cat\n' }],
		['file:/tmp/x', { kind: 'file', path: '/tmp/x' }],
	])('reads %j', (uri, address) => {
		expect(parseUri(uri)).toEqual(address);
	});

	it.each(['', 'tcp', '/tmp/x', 'rdma:host:1', 'fd:3', 'TCP:127.0.0.1:1', ' tcp:127.0.0.1:1'])(
		'knows no protocol in %j',
		(uri) => {
			expect(parseUri(uri)).toBeUndefined();
		},
	);

	it.each([
		'tcp:',
		'tcp:host',
		'tcp:host:',
		'tcp:host:x',
		'tcp:host:65536',
		'tcp:host:-1',
		'tcp:::1:5',
		'tcp:host:1:2',
		'tcp:host:123456',
	])('refuses the address of %j', (uri) => {
		expect(() => parseUri(uri)).toThrow(`error parsing address '${uri.slice(4)}'`);
	});
});

describe('strerror', () => {
	it('has the C library’s words, or else those of the error', () => {
		expect(strerror(Object.assign(new Error('write ENOSPC'), { code: 'ENOSPC' }))).toBe('No space left on device');
		expect(strerror(new Error('something else'))).toBe('something else');
	});
});

describe.each<[string, () => Address]>([
	['tcp', () => ({ kind: 'tcp', host: '127.0.0.1', port: 0 })],
	['unix', () => ({ kind: 'unix', path: join(folder, 'socket') })],
])('%s', (_, address) => {
	it('carries bytes both ways, each way to its own end', async () => {
		const { near, far } = await connected(address());
		expect([near.twoWay, far.twoWay]).toEqual([true, true]);
		await near.write(bytes('there'));
		await near.close();
		expect(await readAll(far)).toBe('there');
		await far.write(bytes('and back'));
		await far.close();
		expect(await readAll(near)).toBe('and back');
	});

	it('turns a second connection away', async () => {
		const { incoming } = await connected(address());
		const bound = incoming.socketAddress;
		const again: Address =
			bound?.type === 'inet' ? { kind: 'tcp', host: bound.host, port: Number(bound.port) } : address();
		await expect(openOutgoing(again)).rejects.toThrow(
			/^Failed to connect to '.*': (Connection refused|No such file or directory)$/,
		);
	});

	it('can not be taken twice', async () => {
		const first = await openIncoming(address());
		open.push(first);
		const bound = first.socketAddress;
		const again: Address =
			bound?.type === 'inet' ? { kind: 'tcp', host: bound.host, port: Number(bound.port) } : address();
		await expect(openIncoming(again)).rejects.toThrow(/^Failed to bind '.*': Address already in use$/);
	});

	it('fails to write when the other side is gone', async () => {
		const { near, far } = await connected(address());
		far.destroy();
		const flood = async () => {
			for (;;) await near.write(new Uint8Array(1 << 16));
		};
		await expect(flood()).rejects.toThrow(/^Unable to write to socket: (Broken pipe|Connection reset by peer)$/);
	});
});

describe('tcp', () => {
	it.each(['0.0.0.0', '', '192.0.2.1', '::'])("does not listen on '%s', which others can reach", async (host) => {
		await expect(openIncoming({ kind: 'tcp', host, port: 0 })).rejects.toThrow(
			`this model listens on the loopback interface only, not on '${host}'`,
		);
	});

	it.each([
		['0.0.0.0', '127.0.0.1'],
		['', '127.0.0.1'],
		['::', '::1'],
	])("'%s' is narrowed to %s", (host, loopback) => {
		expect(narrowed({ kind: 'tcp', host, port: 6666 })).toEqual({ kind: 'tcp', host: loopback, port: 6666 });
	});

	it.each<Address>([
		{ kind: 'tcp', host: '192.0.2.1', port: 1 },
		{ kind: 'tcp', host: 'localhost', port: 1 },
		{ kind: 'unix', path: '' },
	])('%j is not narrowed', (address) => {
		expect(narrowed(address)).toBe(address);
	});

	it('says which port it got', async () => {
		const incoming = await openIncoming({ kind: 'tcp', host: '127.0.0.1', port: 0 });
		open.push(incoming);
		expect(incoming.socketAddress).toEqual({
			type: 'inet',
			host: '127.0.0.1',
			port: expect.stringMatching(/^[1-9]\d*$/),
		});
	});

	it('says when nobody listens', async () => {
		const server: Server = createServer();
		await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
		const address = server.address();
		const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
		await new Promise((resolve) => server.close(resolve));
		await expect(openOutgoing({ kind: 'tcp', host: '127.0.0.1', port })).rejects.toThrow(
			`Failed to connect to '127.0.0.1:${port}': Connection refused`,
		);
	});
});

describe('file', () => {
	const at = (name: string): Address & { kind: 'file' } => ({ kind: 'file', path: join(folder, name) });

	it('gets its name when it is complete, and not before', async () => {
		const channel = await openOutgoing(at('stream'));
		await channel.write(bytes('all of '));
		expect(existsSync(join(folder, 'stream'))).toBe(false);
		await channel.write(bytes('it'));
		await channel.close();
		expect([channel.twoWay, readFileSync(join(folder, 'stream'), 'utf8'), readdirSync(folder)]).toEqual([
			false,
			'all of it',
			['stream'],
		]);
	});

	it('is read back', async () => {
		writeFileSync(join(folder, 'stream'), 'content');
		const incoming = await openIncoming(at('stream'));
		open.push(incoming);
		const channel = await incoming.accepted;
		expect([await readAll(channel), channel.twoWay, incoming.socketAddress]).toEqual(['content', false, undefined]);
		await expect(channel.write(bytes('x'))).rejects.toThrow('this stream can only be read');
		await channel.close();
	});

	it('that is dropped leaves nothing, and the old one as it was', async () => {
		writeFileSync(join(folder, 'stream'), 'old');
		const channel = await openOutgoing(at('stream'));
		await channel.write(bytes('new'));
		channel.destroy();
		expect([readdirSync(folder), readFileSync(join(folder, 'stream'), 'utf8')]).toEqual([['stream'], 'old']);
	});

	it('replaces the old one when it is complete', async () => {
		writeFileSync(join(folder, 'stream'), 'old');
		const channel = await openOutgoing(at('stream'));
		await channel.write(bytes('new'));
		await channel.close();
		expect(readFileSync(join(folder, 'stream'), 'utf8')).toBe('new');
	});

	it('is not written by two at a time', async () => {
		const first = await openOutgoing(at('stream'));
		await expect(openOutgoing(at('stream'))).rejects.toThrow(
			`Failed to open '${join(folder, 'stream.partial')}': File exists`,
		);
		first.destroy();
	});

	it.each([
		['a folder that is not there', 'no/stream', 'No such file or directory'],
		['a file that is no folder', 'plain/stream', 'Not a directory'],
	])('can not be made in %s', async (_, name, words) => {
		writeFileSync(join(folder, 'plain'), '');
		await expect(openOutgoing(at(name))).rejects.toThrow(`Failed to open '${join(folder, name)}.partial': ${words}`);
	});

	it('that is not there can not be read', async () => {
		await expect(openIncoming(at('stream'))).rejects.toThrow(
			`Failed to open '${join(folder, 'stream')}': No such file or directory`,
		);
	});

	it.runIf(existsSync('/dev/full'))('on a full disk says so', async () => {
		const channel = await openOutgoing({ kind: 'file', path: '/dev/full' });
		const words = "Unable to write to '/dev/full': No space left on device";
		await expect(channel.write(new Uint8Array(4096))).rejects.toThrow(words);
		channel.destroy();
		expect([existsSync('/dev/full'), existsSync('/dev/full.partial')]).toEqual([true, false]);
	});
});

describe('exec', () => {
	const exec = (command: string): Address => ({ kind: 'exec', command });

	it('hands the stream to a command, and is done when that has succeeded', async () => {
		const copy = join(folder, 'copy');
		const channel = await openOutgoing(exec(`cat >'${copy}'`));
		await channel.write(bytes('through a pipe'));
		await channel.close();
		expect([channel.twoWay, readFileSync(copy, 'utf8')]).toEqual([false, 'through a pipe']);
	});

	it.each([
		['exit 3', 'command exited with status 3'],
		['cat >/dev/null; kill -9 $$', 'command exited with SIGKILL'],
		['/no/such/command', 'command exited with status 127'],
	])('fails for `%s`', async (command, words) => {
		const channel = await openOutgoing(exec(`${command} 2>/dev/null`));
		// A command that reads nothing may be gone before or after the bytes.
		await channel.write(bytes('x')).catch(() => undefined);
		await expect(channel.close()).rejects.toThrow(new RegExp(`^(${words}|Broken pipe)$`));
	});

	it('reads a stream from a command', async () => {
		const incoming = await openIncoming(exec('printf "a stream"'));
		open.push(incoming);
		const channel = await incoming.accepted;
		expect([await readAll(channel), channel.twoWay]).toEqual(['a stream', false]);
		await channel.close();
	});

	it('reads nothing from a command that fails, and says so at the end', async () => {
		const channel = await (await openIncoming(exec('exit 2'))).accepted;
		expect(await readAll(channel)).toBe('');
		await expect(channel.close()).rejects.toThrow('command exited with status 2');
	});
});
