import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { migrated, qmp } from './capture.mjs';

/** A conversation with a QEMU process, as `qmp` gives it. */
export type Monitor = Awaited<ReturnType<typeof qmp>>;

/**
 * 16-bit code: counts in the first word of each page from 0x10000 to 0x6FFFF, for ever. Before every page it changes CR0.WP,
 * which flushes TCG's TLB: before QEMU 9.0 a page is noted as dirty again only if its entry is gone.
 */
const CODE = [
	0xfa, // cli
	...[0xb8, 0x00, 0x10], // start: mov ax, 0x1000
	...[0x8e, 0xc0], // page: mov es, ax
	...[0x0f, 0x20, 0xc3], // mov ebx, cr0
	...[0x66, 0x81, 0xf3, 0x00, 0x00, 0x01, 0x00], // xor ebx, 0x10000: WP
	...[0x0f, 0x22, 0xc3], // mov cr0, ebx
	...[0x26, 0xff, 0x06, 0x00, 0x00], // inc word [es:0]
	...[0x05, 0x00, 0x01], // add ax, 0x100
	...[0x3d, 0x00, 0x70], // cmp ax, 0x7000
	...[0x75, 0xe4], // jne page
	...[0xeb, 0xdf], // jmp start
];
/** At the reset vector, 16 bytes below the end: jmp F000:0000. */
const RESET = [0xea, 0x00, 0x00, 0x00, 0xf0];

/** Writes 64 KiB of firmware of our own, whose guest makes pages dirty for as long as it runs. */
export function writeFirmware(file: string): void {
	const image = new Uint8Array(0x10000);
	image.set(CODE);
	image.set(RESET, 0xfff0);
	writeFileSync(file, image);
}

export const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** A running QEMU. */
export interface Machine {
	readonly monitor: Monitor;
	/** Guest-physical memory from 0 on. */
	memory(bytes: number): Promise<Uint8Array>;
	/** Its error output so far. */
	said(): string;
	/** Ends this process, and no other. */
	end(): Promise<void>;
}

let runs = 0;

/** Waits until a migration has ended, for a minute at most: a test that is cut off would leave its processes behind. */
export async function completed({ monitor }: Machine): Promise<void> {
	let timer: NodeJS.Timeout | undefined;
	const late = new Promise<never>((_, fail) => {
		timer = setTimeout(() => fail(new Error('QEMU: the migration did not end')), 60_000);
	});
	try {
		await Promise.race([migrated(monitor), late]);
	} finally {
		clearTimeout(timer);
	}
}

/** Waits until a side of a migration has the status. */
export async function reached({ monitor }: Machine, status: string): Promise<void> {
	for (let tries = 0; tries < 200; tries++, await pause(50)) {
		if ((await monitor.execute('query-migrate')).status === status) return;
	}
	throw new Error(`QEMU: expected status ${status}`);
}

/** Starts a QEMU with a QMP socket in `folder`. @throws with what it said if it does not start */
export async function startMachine(folder: string, argv: readonly string[]): Promise<Machine> {
	const name = join(folder, `q${runs++}`);
	const all = [...argv, '-accel', 'tcg', '-display', 'none', '-qmp', `unix:${name}.qmp,server,nowait`];
	const qemu = spawn('qemu-system-x86_64', all, { stdio: ['ignore', 'ignore', 'pipe'] });
	let complaints = '';
	qemu.stderr.on('data', (data) => (complaints += data));
	const ended = new Promise<void>((done) => qemu.once('close', () => done()).once('error', () => done()));
	const died = ended.then(() => Promise.reject(new Error(`QEMU ended: ${complaints}`)));
	died.catch(() => {});
	const end = async (): Promise<void> => {
		qemu.kill('SIGKILL');
		await ended;
	};
	try {
		const monitor = await Promise.race([qmp(`${name}.qmp`), died]);
		const execute: Monitor['execute'] = (command, args) => Promise.race([monitor.execute(command, args), died]);
		const memory = async (bytes: number): Promise<Uint8Array> => {
			await execute('pmemsave', { val: 0, size: bytes, filename: `${name}.ram` });
			return readFileSync(`${name}.ram`);
		};
		return {
			monitor: { ...monitor, execute },
			memory,
			said: () => complaints,
			end: async () => {
				monitor.close();
				await end();
			},
		};
	} catch (error) {
		await end();
		throw error;
	}
}

/** One connection of a migration, with both directions. */
export interface Recording {
	readonly forward: Uint8Array;
	readonly backward: Uint8Array;
}

/** A socket that a source connects to. What comes is kept and, with `target`, passed on, and answers back. */
export interface Recorder {
	readonly uri: string;
	/** Connections in the order they came; complete once the source is. */
	recordings(): Recording[];
	close(): void;
}

export async function startRecorder(folder: string, target?: string): Promise<Recorder> {
	const path = join(folder, `r${runs++}`);
	const parts: { forward: Buffer[]; backward: Buffer[] }[] = [];
	const server = createServer({ allowHalfOpen: true }, (source) => {
		const part = { forward: [] as Buffer[], backward: [] as Buffer[] };
		parts.push(part);
		source.on('error', () => {});
		const sink = target === undefined ? undefined : createConnection({ path: target, allowHalfOpen: true });
		sink?.on('error', () => {});
		sink?.on('data', (data) => {
			part.backward.push(data);
			source.write(data);
		});
		sink?.on('end', () => source.end());
		source.on('data', (data) => {
			part.forward.push(data);
			sink?.write(data);
		});
		source.on('end', () => {
			sink?.end();
			if (sink === undefined) source.end();
		});
	});
	await new Promise<void>((done) => server.listen(path, done));
	return {
		uri: `unix:${path}`,
		recordings: () =>
			parts.map(({ forward, backward }) => ({ forward: Buffer.concat(forward), backward: Buffer.concat(backward) })),
		close: () => server.close(),
	};
}

/** Capabilities and parameters as QMP has them. */
export interface Settings {
	readonly capabilities?: readonly string[];
	readonly parameters?: Readonly<Record<string, unknown>>;
}

export async function configure({ execute }: Monitor, { capabilities = [], parameters }: Settings): Promise<void> {
	const list = capabilities.map((capability) => ({ capability, state: true }));
	if (list.length > 0) await execute('migrate-set-capabilities', { capabilities: list });
	if (parameters) await execute('migrate-set-parameters', parameters);
}

/**
 * Gives streams to a QEMU started with the same machine and `-incoming`, the first one before its channels.
 *
 * @returns its memory, as received: it never ran
 */
export async function memoryAfter(
	folder: string,
	argv: readonly string[],
	streams: readonly Uint8Array[],
	settings: Settings,
	bytes: number,
): Promise<Uint8Array> {
	const machine = await startMachine(folder, [...argv, '-S', '-incoming', 'defer']);
	try {
		await configure(machine.monitor, settings);
		const path = join(folder, `i${runs++}`);
		await machine.monitor.execute('migrate-incoming', { uri: `unix:${path}` });
		const sockets = [];
		for (const [i, stream] of streams.entries()) {
			const socket = createConnection(path);
			socket.on('error', () => {});
			// To its end: after postcopy a stream has no description, for which a target would wait.
			socket.end(stream);
			sockets.push(socket);
			// The first connection must be accepted before the others.
			if (i === 0 && streams.length > 1) await pause(200);
		}
		try {
			await completed(machine);
		} finally {
			for (const socket of sockets) socket.destroy();
		}
		return await machine.memory(bytes);
	} finally {
		await machine.end();
	}
}
