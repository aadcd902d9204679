// Makes a migration stream with a real QEMU, for `cvm demo --from-stream FILE`:
//   node interop/capture.mjs OUT.qevm
// The guest is a 64 KiB firmware of our own (so that nobody else's code is in the capture) that counts in the first word of
// 96 pages for as long as it runs. It is stopped before it is captured, because TCG before QEMU 9.0 loses dirty pages of a
// running guest.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** 16-bit code: for each 4 KiB page from 0x10000 to 0x6FFFF, increment its first word; again, for ever. */
const CODE = [
	0xfa, // cli
	...[0xb8, 0x00, 0x10], // start: mov ax, 0x1000
	...[0x8e, 0xc0], // page: mov es, ax
	...[0x26, 0xff, 0x06, 0x00, 0x00], // inc word [es:0]
	...[0x05, 0x00, 0x01], // add ax, 0x100
	...[0x3d, 0x00, 0x70], // cmp ax, 0x7000
	...[0x75, 0xf1], // jne page
	...[0xeb, 0xec], // jmp start
];
/** At the reset vector, 16 bytes below the end: jmp F000:0000. */
const RESET = [0xea, 0x00, 0x00, 0x00, 0xf0];

/** The QEMU command line of the capture; a target needs the same. `firmware` is a file with {@link firmware}'s bytes. */
export const machine = (firmware) => [
	...['-machine', 'pc,accel=tcg', '-m', '16', '-display', 'none', '-nodefaults'],
	...['-global', 'apic.vapic=off', '-bios', firmware],
];

/** The 64 KiB of firmware that the captured machine runs. */
export function firmware() {
	const image = new Uint8Array(0x10000);
	image.set(CODE);
	image.set(RESET, 0xfff0);
	return image;
}

/** A QMP conversation with a QEMU process: commands one after the other. */
export async function qmp(path) {
	let socket;
	for (let tries = 0; ; tries++) {
		socket = createConnection(path);
		const ok = await new Promise((done) => socket.once('connect', () => done(true)).once('error', () => done(false)));
		if (ok) break;
		if (tries > 100) throw new Error(`QEMU did not open its QMP socket`);
		await new Promise((done) => setTimeout(done, 50));
	}
	let text = '';
	const waiting = [];
	socket.on('data', (data) => {
		text += data;
		for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
			const message = JSON.parse(text.slice(0, end));
			text = text.slice(end + 1);
			if ('return' in message || 'error' in message) waiting.shift()?.(message);
		}
	});
	const execute = (name, args) =>
		new Promise((done, fail) => {
			waiting.push((m) => (m.error ? fail(new Error(`${name}: ${m.error.desc}`)) : done(m.return)));
			socket.write(JSON.stringify({ execute: name, ...(args && { arguments: args }) }));
		});
	await execute('qmp_capabilities');
	return { execute, close: () => socket.destroy() };
}

/** Waits until a migration has ended. @returns the last answer of query-migrate */
export async function migrated(monitor) {
	for (;;) {
		const state = await monitor.execute('query-migrate');
		if (state.status === 'completed') return state;
		if (state.status === 'failed') throw new Error(`QEMU: migration failed: ${state['error-desc']}`);
		await new Promise((done) => setTimeout(done, 50));
	}
}

/** Writes the stream of a stopped guest to `file`. */
export async function capture(file) {
	const folder = mkdtempSync(join(tmpdir(), 'cvm-capture-'));
	try {
		const rom = join(folder, 'count.bin');
		writeFileSync(rom, firmware());
		const socket = join(folder, 'qmp');
		const qemu = spawn('qemu-system-x86_64', [...machine(rom), '-qmp', `unix:${socket},server,nowait`], {
			stdio: ['ignore', 'ignore', 'inherit'],
		});
		const ended = new Promise((done) => qemu.once('exit', done).once('error', done));
		try {
			const monitor = await qmp(socket);
			await new Promise((done) => setTimeout(done, 500)); // it counts
			await monitor.execute('stop');
			await monitor.execute('migrate', { uri: `exec:cat > '${resolve(file)}'` });
			await migrated(monitor);
			await monitor.execute('quit');
			monitor.close();
		} finally {
			qemu.kill();
			await ended;
		}
	} finally {
		rmSync(folder, { recursive: true, force: true });
	}
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
	const [out] = process.argv.slice(2);
	if (!out) {
		console.error('usage: node interop/capture.mjs OUT.qevm');
		process.exitCode = 2;
	} else await capture(out);
}
