import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MultifdReader } from '@cvm/qemu-mig';
import type { ImageInput, StreamImage } from '@cvm/qemu-mig/image';
import { createMemoryStore, openImage } from '@cvm/qemu-mig/image';
import { expect, it } from 'vitest';
import type { Machine, Recording, Settings } from './qemu-runs.js';
import { completed, configure, memoryAfter, pause, startMachine, startRecorder } from './qemu-runs.js';
import {
	bios,
	expectAccepted,
	expectMemory,
	expectVerified,
	firmware,
	folder,
	MIB,
	multifd,
	otherWays,
	pc,
	relayed,
	same,
} from './stream-checks.js';

const disk = join(folder, 'disk.raw');
writeFileSync(disk, '');
truncateSync(disk, MIB);
const q35 = (...more: string[]): string[] => ['-machine', 'q35', '-nodefaults', '-global', 'apic.vapic=off', ...more];
const pflash = ['-drive', `if=pflash,format=raw,readonly=on,file=${firmware}`];
const virtio = [
	...['-drive', `if=none,id=d0,format=raw,file=${disk},file.locking=off`, '-device', 'virtio-blk-pci,drive=d0'],
	...['-device', 'virtio-rng-pci'],
];

interface Case {
	readonly name: string;
	readonly argv: readonly string[];
	readonly mib: number;
	readonly settings?: Settings;
	/** Runs while the migration does; otherwise the guest is stopped before. */
	readonly live?: boolean;
	/** Page kinds that the stream must hold, so that the case is what it says. */
	readonly kinds: readonly (keyof StreamImage['counts'])[];
}

const CASES: readonly Case[] = [
	{ name: 'none', argv: ['-machine', 'none'], mib: 16, kinds: ['zero'] },
	{ name: 'microvm', argv: ['-machine', 'microvm', '-nodefaults', ...bios], mib: 16, kinds: ['raw', 'zero'] },
	{
		name: 'isapc with VGA',
		argv: ['-machine', 'isapc', '-nodefaults', '-device', 'isa-vga', ...bios],
		mib: 16,
		kinds: ['raw', 'zero'],
	},
	{ name: 'pc with VGA and virtio', argv: pc('-device', 'VGA', ...virtio, ...bios), mib: 32, kinds: ['raw', 'zero'] },
	{ name: 'q35 with pflash and virtio', argv: q35(...virtio, ...pflash), mib: 64, kinds: ['raw', 'zero'] },
	{
		name: 'pc, XBZRLE, while it runs',
		argv: pc(...bios),
		mib: 16,
		settings: { capabilities: ['xbzrle'], parameters: { 'xbzrle-cache-size': 16 * MIB } },
		live: true,
		kinds: ['raw', 'zero', 'xbzrle'],
	},
	{
		name: 'q35, compress',
		argv: q35('-device', 'VGA', ...bios),
		mib: 32,
		settings: { capabilities: ['compress'], parameters: { 'compress-threads': 2, 'compress-level': 1 } },
		kinds: ['zlib', 'zero'],
	},
	{ name: 'pc, multifd', argv: pc(...bios), mib: 16, settings: multifd('none'), kinds: ['multifd'] },
	{
		name: 'microvm, multifd, zlib',
		argv: ['-machine', 'microvm', '-nodefaults', ...bios],
		mib: 32,
		settings: multifd('zlib'),
		kinds: ['multifd'],
	},
	{ name: 'q35, multifd, zstd', argv: q35(...bios), mib: 16, settings: multifd('zstd'), kinds: ['multifd'] },
];

const isMain = ({ forward }: Recording): boolean => Buffer.from(forward.subarray(0, 4)).toString('latin1') === 'QEVM';

/** Lets a running guest be sent twice over at least, and stops it then. */
async function migrateLive({ monitor }: Machine, uri: string): Promise<void> {
	await configure(monitor, { parameters: { 'max-bandwidth': 4 * MIB, 'downtime-limit': 1 } });
	await monitor.execute('migrate', { uri });
	for (;;) {
		const { status, ram } = await monitor.execute('query-migrate');
		if (status === 'completed' || (ram?.['dirty-sync-count'] ?? 0) >= 4) break;
		await pause(50);
	}
	await monitor.execute('stop');
	await configure(monitor, { parameters: { 'max-bandwidth': 1024 * MIB, 'downtime-limit': 2000 } });
}

/**
 * Main stream first, then the channels, and the memory of the stopped source. TCG before QEMU 9.0 may still miss the last
 * write to a page of a running guest; then it is the memory of a QEMU that got the stream as it is.
 */
async function captured(c: Case): Promise<{ inputs: Uint8Array[]; memory: Uint8Array }> {
	const machine = await startMachine(folder, [...c.argv, '-m', `${c.mib}`]);
	const recorder = await startRecorder(folder);
	let inputs: Uint8Array[] = [];
	let memory: Uint8Array;
	try {
		await configure(machine.monitor, c.settings ?? {});
		await pause(300); // it counts
		if (c.live === true) await migrateLive(machine, recorder.uri);
		else {
			await machine.monitor.execute('stop');
			await machine.monitor.execute('migrate', { uri: recorder.uri });
		}
		await completed(machine);
		memory = await machine.memory(c.mib * MIB);
		const all = recorder.recordings();
		const ordered = [...all.filter(isMain), ...all.filter((one) => !isMain(one))];
		inputs = ordered.map(({ forward }) => forward);
	} finally {
		recorder.close();
		await machine.end();
	}
	if (c.live !== true) return { inputs, memory };
	const argv = [...c.argv, '-m', `${c.mib}`];
	return { inputs, memory: await memoryAfter(folder, argv, inputs, c.settings ?? {}, memory.length) };
}

/** The pieces in which a channel is read, put together again. */
function channelPieces(channel: Uint8Array, compressed: boolean): Uint8Array {
	const out: Uint8Array[] = [];
	const reader = new MultifdReader({
		decompress: !compressed,
		handler: {
			init: (_init, raw) => out.push(raw.slice()),
			packet: (_packet, raw) => out.push(raw.slice()),
			compressed: (data) => out.push(data.slice()),
			page: (_block, _address, page) => out.push(page.slice()),
		},
	});
	for (let at = 0; at < channel.length; at += 65_521) reader.push(channel.subarray(at, at + 65_521));
	reader.end();
	return Buffer.concat(out);
}

it.each(CASES)('reads, checks and encodes anew what QEMU sends of $name', async (c) => {
	const argv = [...c.argv, '-m', `${c.mib}`];
	const { inputs, memory } = await captured(c);
	const [main = new Uint8Array(0), ...channels] = inputs;
	expect(same(await relayed(main), main), 'relayed').toBe(true);
	const compression = String(c.settings?.parameters?.['multifd-compression'] ?? 'none');
	expect(channels.length).toBe(c.settings?.parameters?.['multifd-channels'] ?? 0);
	for (const channel of channels) expect(same(channelPieces(channel, compression !== 'none'), channel)).toBe(true);
	await expectVerified(inputs, c.settings?.capabilities?.includes('compress') === true);

	const image = await openImage(
		inputs.map((source): ImageInput => ({ source })),
		{ store: createMemoryStore() },
	);
	expect(image.dialect).toBe('qemu-7.2');
	expect(image.inputs.map(({ bytes }) => bytes)).toEqual(inputs.map(({ length }) => length));
	expect(c.kinds.filter((kind) => image.counts[kind] === 0)).toEqual([]);
	expectMemory(image, memory);
	const own = c.settings?.capabilities?.[0];
	const ownName = own === 'multifd' ? `multifd ${compression}` : own === 'compress' ? 'zlib' : (own ?? 'raw');
	await expectAccepted(image, argv, memory, otherWays(CASES.indexOf(c), ownName));
});
