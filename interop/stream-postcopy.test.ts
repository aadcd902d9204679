import { join } from 'node:path';
import { decodeReturn, ReturnPathReader } from '@cvm/qemu-mig';
import type { ImageInput } from '@cvm/qemu-mig/image';
import { createMemoryStore, openImage, verifyStream } from '@cvm/qemu-mig/image';
import { expect, it } from 'vitest';
import type { Machine, Recorder, Recording, Settings } from './qemu-runs.js';
import { completed, configure, pause, reached, startMachine, startRecorder } from './qemu-runs.js';
import {
	bios,
	expectAccepted,
	expectMemory,
	expectVerified,
	folder,
	MIB,
	otherWays,
	pc,
	relayed,
	relayedPieces,
	same,
} from './stream-checks.js';

/** A migration from QEMU to QEMU through a recorder; `work` starts it and waits for its end. */
async function between(
	argv: readonly string[],
	settings: Settings,
	work: (source: Machine, target: Machine, uri: string) => Promise<void>,
	bytes: number,
): Promise<{ recording: Recording; others: Recording[]; before: Uint8Array; after: Uint8Array }> {
	const source = await startMachine(folder, argv);
	try {
		const target = await startMachine(folder, [...argv, '-S', '-incoming', 'defer']);
		const path = join(folder, `t${Date.now().toString(36)}`);
		try {
			for (const { monitor } of [source, target]) await configure(monitor, settings);
			await target.monitor.execute('migrate-incoming', { uri: `unix:${path}` });
			const recorder = await startRecorder(folder, path);
			await pause(300);
			try {
				await work(source, target, recorder.uri);
				await completed(source);
				await completed(target);
			} finally {
				recorder.close();
			}
			const [recording, ...others] = recorder.recordings();
			if (recording === undefined) throw new Error('nothing came');
			return { recording, others, before: await source.memory(bytes), after: await target.memory(bytes) };
		} finally {
			await target.end();
		}
	} finally {
		await source.end();
	}
}

/** Types of the messages of a return path, read to its end. */
function returnTypes(backward: Uint8Array): number[] {
	const types: number[] = [];
	const reader = new ReturnPathReader((type) => types.push(type));
	reader.push(backward);
	reader.end();
	return types;
}

it.each([
	{ name: 'with a return path', postcopy: false, capabilities: ['return-path'] },
	{ name: 'that ends in postcopy', postcopy: true, capabilities: ['return-path', 'postcopy-ram'] },
])('reads both directions of a migration $name', async ({ postcopy, capabilities }) => {
	const argv = [...pc(...bios), '-m', '16'];
	const { recording, before, after } = await between(
		argv,
		{ capabilities },
		async (source, _target, uri) => {
			if (!postcopy) {
				await source.monitor.execute('stop');
				await source.monitor.execute('migrate', { uri });
				return;
			}
			// So slow that the first pass is not over when postcopy starts.
			await configure(source.monitor, { parameters: { 'max-bandwidth': MIB / 2, 'downtime-limit': 1 } });
			await source.monitor.execute('migrate', { uri });
			await reached(source, 'active');
			await pause(300);
			await source.monitor.execute('migrate-start-postcopy');
		},
		16 * MIB,
	);
	// Not of a guest that ran: TCG before QEMU 9.0 may miss the last write to a page.
	if (!postcopy) expect(same(after, before), 'memory of source and target').toBe(true);
	const types = returnTypes(recording.backward);
	expect(types[0]).toBe(2); // PONG
	expect(types.at(-1)).toBe(1); // SHUT
	const stream = recording.forward;
	expect(same(await relayed(stream), stream), 'relayed').toBe(true);
	await expectVerified([stream], false);
	const image = await openImage(stream, { store: createMemoryStore() });
	expect(image.postcopy).toBe(postcopy);
	expectMemory(image, after);
	await expectAccepted(image, argv, after, otherWays(postcopy ? 1 : 0, 'raw'));
});

it('reads a migration whose connection broke in postcopy, and how it went on', async () => {
	const argv = [...pc(...bios), '-m', '16'];
	const again = join(folder, 'again');
	const second: Recorder[] = [];
	let said = '';
	const parameters = { 'max-bandwidth': MIB, 'max-postcopy-bandwidth': MIB / 4, 'downtime-limit': 1 };
	try {
		const { recording, after } = await between(
			argv,
			{ capabilities: ['return-path', 'postcopy-ram'] },
			async (source, target, uri) => {
				await configure(source.monitor, { parameters });
				await source.monitor.execute('migrate', { uri });
				await reached(source, 'active');
				await source.monitor.execute('migrate-start-postcopy');
				await reached(source, 'postcopy-active');
				await pause(300);
				await source.monitor.execute('migrate-pause');
				await reached(source, 'postcopy-paused');
				await reached(target, 'postcopy-paused');
				await target.monitor.execute('migrate-recover', { uri: `unix:${again}` });
				const recorder = await startRecorder(folder, again);
				second.push(recorder);
				await configure(source.monitor, { parameters: { 'max-postcopy-bandwidth': 1024 * MIB } });
				await source.monitor.execute('migrate', { uri: recorder.uri, resume: true });
				await completed(target);
				said = target.said();
			},
			16 * MIB,
		);
		const [rest] = second[0]?.recordings() ?? [];
		if (rest === undefined) throw new Error('nothing came on the second connection');
		const inputs = [recording.forward, rest.forward].map((source): ImageInput => ({ source }));
		const { findings, complete } = await verifyStream(inputs);
		expect(findings.filter(({ severity }) => severity === 'error')).toEqual([]);
		expect(complete).toBe(true);
		// Judged as a target, the two streams make it say what this one said.
		const judged = await verifyStream(inputs, { as: 'qemu-7.2' });
		expect([judged.complete, judged.findings.filter(({ severity }) => severity === 'error')]).toEqual([true, []]);
		const lines = judged.findings.flatMap(({ qemu = [] }) => qemu);
		expect(said).toBe(lines.map((line) => `qemu-system-x86_64: ${line}\n`).join(''));
		const [begun, went] = await relayedPieces(recording.forward, rest.forward);
		// The last element may be cut: a page at most.
		expect(begun.length).toBeGreaterThan(recording.forward.length - 4200);
		expect(same(begun, recording.forward.subarray(0, begun.length)), 'relayed up to the cut').toBe(true);
		expect(same(went, rest.forward), 'relayed from there').toBe(true);
		const image = await openImage(inputs, { store: createMemoryStore() });
		expect(image.inputs.map(({ kind, bytes }) => [kind, bytes])).toEqual([
			['migration', recording.forward.length],
			['recovery', rest.forward.length],
		]);
		expectMemory(image, after);
		await expectAccepted(image, argv, after, otherWays(0, 'raw'));
		const bitmaps: (string | undefined)[] = [];
		const reader = new ReturnPathReader(
			(type, data, bitmap) => {
				const message = decodeReturn(type, data, bitmap);
				if (message?.type === 5) bitmaps.push(message.block);
			},
			{ bitmaps: true },
		);
		reader.push(rest.backward);
		reader.end();
		expect(bitmaps).toContain('pc.ram');
	} finally {
		for (const recorder of second) recorder.close();
	}
});

it('reads both connections of a postcopy with urgent pages apart', async () => {
	const argv = [...pc(...bios), '-m', '16'];
	const parameters = { 'max-bandwidth': MIB / 2, 'max-postcopy-bandwidth': MIB / 4, 'downtime-limit': 1 };
	const { recording, others, after } = await between(
		argv,
		{ capabilities: ['return-path', 'postcopy-ram', 'postcopy-preempt'] },
		async (source, target, uri) => {
			await configure(source.monitor, { parameters });
			await source.monitor.execute('migrate', { uri });
			await reached(source, 'active');
			await source.monitor.execute('migrate-start-postcopy');
			await reached(target, 'postcopy-active');
			// Makes it wait for every page of the first MiB that is missing.
			await target.memory(MIB);
			await configure(source.monitor, { parameters: { 'max-postcopy-bandwidth': 1024 * MIB } });
		},
		16 * MIB,
	);
	expect(others).toHaveLength(1);
	const inputs = [recording.forward, ...others.map(({ forward }) => forward)].map((source): ImageInput => ({ source }));
	for (const options of [{}, { as: 'qemu-7.2' } as const]) {
		const { findings, complete } = await verifyStream(inputs, options);
		expect(findings.filter(({ severity }) => severity === 'error')).toEqual([]);
		expect(complete).toBe(true);
	}
	const image = await openImage(inputs, { store: createMemoryStore() });
	expect(image.inputs.map(({ kind }) => kind)).toEqual(['migration', 'preempt']);
	expect(others[0]?.forward.length).toBeGreaterThan(8);
	expectMemory(image, after);
	await expectAccepted(image, argv, after, otherWays(0, 'raw'));
});
