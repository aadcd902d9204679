import { readFileSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
	type ByteSink,
	type Configuration,
	createLoader,
	createPrecopy,
	type DeviceSection,
	type Loader,
	type StreamBlock,
	StreamReader,
} from '@cvm/qemu-mig';
import { verifyStream } from '@cvm/qemu-mig/image';
import { createFakeSource, createFakeTarget } from '@cvm/qemu-mig/testing';
import { expect, it } from 'vitest';
import { temporaryFolder } from './programs.js';
import { configure, pause, reached, type Settings, startMachine, writeFirmware } from './qemu-runs.js';

/* Our precopy and postcopy engines send a captured machine, still being written to, to a real QEMU. */

const folder = temporaryFolder();
const stream = readFileSync(fileURLToPath(new URL('../apps/cvm/fixtures/qemu-7.2-pc-16m.qevm', import.meta.url)));
const MIB = 2 ** 20;

/** The capture's machine: its blocks with their contents, its devices. */
function captured() {
	let blocks: StreamBlock[] = [];
	let configuration: Configuration | undefined;
	const probe = new StreamReader({
		dialect: 'qemu-7.2',
		handler: {
			blockList: (list) => {
				blocks = list.map(({ idstr, usedLength }) => ({ idstr, usedLength }));
			},
			configuration: (c) => {
				configuration = {
					...c,
					subsections: c.subsections.map((s) => ({ ...s, data: new Uint8Array(s.data) })),
				};
			},
		},
	});
	probe.push(stream);
	probe.end();
	const { machineType, subsections } = configuration ?? { machineType: '', subsections: [] };
	const memory = createFakeTarget(blocks, 0);
	const devices: DeviceSection[] = [];
	const loader = createLoader({
		...{ sink: memory, dialect: 'qemu-7.2', machineType, finish: () => {} },
		device: ({ idstr, instanceId, version }, body) => {
			devices.push({ idstr, instanceId, version, body: new Uint8Array(body) });
			return 'loaded';
		},
	});
	loader.push(stream);
	loader.end();
	const source = createFakeSource({ blocks });
	for (const [i, contents] of memory.memory.entries()) source.memory[i]?.set(contents);
	return { source, devices, machineType, subsections, ram: blocks.findIndex(({ idstr }) => idstr === 'pc.ram') };
}

const sinkOf = (socket: Socket): ByteSink => ({
	write: (chunk) =>
		new Promise((done, fail) => socket.write(new Uint8Array(chunk), (error) => (error ? fail(error) : done()))),
});

type Engine = Pick<Parameters<typeof createPrecopy>[0], 'capabilities'> & {
	readonly compression?: 'zlib' | 'zstd';
	readonly channels?: number;
};
const CASES: readonly (readonly [name: string, qemu: Settings, ours: Engine])[] = [
	['plain', {}, {}],
	['XBZRLE', { capabilities: ['xbzrle'] }, { capabilities: { xbzrle: true } }],
	['compressed pages', { capabilities: ['compress'] }, { capabilities: { compress: true } }],
	['multifd', { capabilities: ['multifd'] }, { channels: 2 }],
	[
		'multifd with zlib',
		{ capabilities: ['multifd'], parameters: { 'multifd-compression': 'zlib' } },
		{ channels: 2, compression: 'zlib' },
	],
	[
		'multifd with zstd',
		{ capabilities: ['multifd'], parameters: { 'multifd-compression': 'zstd' } },
		{ channels: 2, compression: 'zstd' },
	],
	['postcopy', { capabilities: ['postcopy-ram'] }, { capabilities: { postcopyRam: true } }],
	[
		'postcopy with urgent pages apart',
		{ capabilities: ['postcopy-ram', 'postcopy-preempt'] },
		{ capabilities: { postcopyRam: true, postcopyPreempt: true } },
	],
];

it.each(CASES)('sends a machine that QEMU takes, with all of its RAM: %s', async (name, settings, ours) => {
	const { source, devices, machineType, subsections, ram } = captured();
	const preempt = ours.capabilities?.postcopyPreempt ?? false;
	const bios = join(folder, 'firmware');
	writeFirmware(bios);
	// The machine of interop/capture.mjs.
	const argv = ['-machine', 'pc', '-m', '16', '-nodefaults', '-global', 'apic.vapic=off', '-bios', bios];
	const target = await startMachine(folder, [...argv, '-S', '-incoming', 'defer']);
	const sockets: Socket[] = [];
	try {
		await configure(target.monitor, settings);
		const path = join(folder, `${name.replaceAll(' ', '-')}.sock`);
		await target.monitor.execute('migrate-incoming', { uri: `unix:${path}` });
		for (let i = 0; i <= (preempt ? 1 : (ours.channels ?? 0)); i++) {
			const socket = createConnection(path);
			sockets.push(socket);
			await new Promise<void>((done, fail) => socket.once('connect', done).once('error', fail));
			// QEMU takes the first connection for the stream.
			if (i === 0) await pause(100);
		}
		const [main, ...others] = sockets.map(sinkOf);
		const channels = preempt ? [] : others;
		if (main === undefined) return expect.fail('a connection');
		let passes = 0;
		// 400 pages change during each of the first passes, a few bytes in each.
		const busy = {
			...source,
			syncDirty: (block: number, into: Uint32Array) => {
				if (block === ram && passes++ < 4) {
					for (let page = 300; page < 700; page++) {
						source.write(ram, page * 4096 + passes * 8, Uint8Array.of(passes, page & 0xff));
					}
				}
				source.syncDirty(block, into);
			},
		};
		const precopy = createPrecopy({
			...{ source: busy, sink: main, dialect: 'qemu-7.2', machineType, subsections, returnPath: 'return-path' },
			vm: { stop: async () => {}, devices: () => devices },
			clock: { now: () => performance.now(), sleep: pause, yield: () => new Promise((done) => setImmediate(done)) },
			...(ours.capabilities && { capabilities: ours.capabilities }),
			...(preempt && others[0] && { urgent: others[0] }),
			...(channels.length > 0 && {
				multifd: { sinks: channels, ...(ours.compression && { compression: ours.compression }) },
			}),
			parameters: { maxBandwidth: 20_000_000, downtimeLimit: 1, maxPostcopyBandwidth: preempt ? 100_000 : 0 },
		});
		sockets[0]?.on('data', (data) => precopy.returnPath.push(data)).on('close', () => precopy.returnPath.end());
		if (ours.capabilities?.postcopyRam) void pause(20).then(() => precopy.startPostcopy());
		const ended = precopy.run();
		if (preempt) {
			await reached(target, 'postcopy-active');
			// Reading memory makes this QEMU wait for every page of it that is missing.
			await target.memory(MIB);
			expect(precopy.statistics.urgentPages).toBeGreaterThan(10);
			precopy.parameters.maxPostcopyBandwidth = 0;
		}
		expect(await ended).toMatchObject({ status: 'completed' });
		let status = '';
		while (status !== 'completed' && status !== 'failed') {
			({ status } = await target.monitor.execute('query-migrate'));
			await pause(20);
		}
		expect(status).toBe('completed');
		expect(passes).toBeGreaterThan(1);
		// Below 1 MiB a PC's ROMs hide RAM.
		const sent = source.memory[ram] ?? new Uint8Array(0);
		const arrived = await target.memory(sent.length);
		expect(Buffer.compare(arrived.subarray(MIB), sent.subarray(MIB))).toBe(0);
	} finally {
		for (const socket of sockets) socket.destroy();
		await target.end();
	}
});

it('takes a guest from QEMU by postcopy, urgent pages on a connection of their own', async () => {
	const { source: like, machineType, ram } = captured();
	const bios = join(folder, 'busy');
	writeFirmware(bios);
	const argv = ['-machine', 'pc', '-m', '16', '-nodefaults', '-global', 'apic.vapic=off', '-bios', bios];
	const source = await startMachine(folder, argv);
	const sockets: Socket[] = [];
	const target = createFakeTarget(like.blocks);
	const asked = new Set<number>();
	let early = 0;
	target.onPlaced = (block, address) => {
		if (block === ram && asked.delete(address / 4096)) early++;
	};
	let loader: Loader | undefined;
	const server = createServer((socket) => {
		sockets.push(socket);
		if (loader !== undefined) {
			const urgent = loader.urgent();
			socket.on('data', (data) => urgent.push(data)).on('end', () => urgent.end());
			return;
		}
		loader = createLoader({
			...{ sink: target, postcopy: target.postcopy, preempt: true, dialect: 'qemu-7.2', machineType },
			reply: sinkOf(socket),
			device: () => 'loaded',
			// What a guest would do that touches these pages, far behind what comes next.
			finish: () => {
				for (let page = 4000; page > 3900; page--) if (loader?.fault(ram, page)) asked.add(page);
			},
		});
		const main = loader;
		socket.on('data', (data) => main.push(data)).on('end', () => main.end());
	});
	try {
		const path = join(folder, 'takes.sock');
		await new Promise<void>((done) => server.listen(path, done));
		const parameters = { 'max-bandwidth': MIB / 8, 'max-postcopy-bandwidth': MIB / 8, 'downtime-limit': 1 };
		const capabilities = ['return-path', 'postcopy-ram', 'postcopy-preempt'];
		await configure(source.monitor, { capabilities, parameters });
		await source.monitor.execute('migrate', { uri: `unix:${path}` });
		await reached(source, 'active');
		await source.monitor.execute('migrate-start-postcopy');
		await reached(source, 'postcopy-active');
		while (asked.size > 0 || early === 0) await pause(20);
		await configure(source.monitor, { parameters: { 'max-postcopy-bandwidth': 0 } });
		await reached(source, 'completed');
		expect(early).toBe(100);
		expect(await loader?.outcome).toEqual({ status: 'running', complete: true, missing: [] });
		// Below 1 MiB a PC's ROMs hide RAM.
		const sent = await source.memory(16 * MIB);
		expect(Buffer.compare(target.memory[ram]?.subarray(MIB) ?? new Uint8Array(0), sent.subarray(MIB))).toBe(0);
	} finally {
		for (const socket of sockets) socket.destroy();
		server.close();
		await source.end();
	}
});

it('says of bytes in place of a description what `verify` knows it says', async () => {
	const bios = join(folder, 'tail');
	writeFirmware(bios);
	const argv = ['-machine', 'pc', '-m', '16', '-nodefaults', '-global', 'apic.vapic=off', '-bios', bios];
	const target = await startMachine(folder, [...argv, '-S', '-incoming', 'defer']);
	try {
		const path = join(folder, 'tail.sock');
		await target.monitor.execute('migrate-incoming', { uri: `unix:${path}` });
		// The description is the last that begins so.
		const eof = stream.lastIndexOf(Buffer.of(0, 6)) + 1;
		const data = Buffer.concat([stream.subarray(0, eof), Buffer.of(9, 1, 2)]);
		const socket = createConnection(path);
		socket.on('error', () => {}).end(data);
		await reached(target, 'completed');
		socket.destroy();
		const { image, complete } = await verifyStream(data, { as: 'qemu-7.2' });
		expect([complete, image.end]).toEqual([true, { description: false, trailing: 3, instead: 9 }]);
		expect(target.said()).toBe('qemu-system-x86_64: Expected vmdescription section, but got 9\n');
	} finally {
		await target.end();
	}
});
