import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { StreamReader } from '@cvm/qemu-mig';
import { expect, it } from 'vitest';
import { migrated, qmp } from './capture.mjs';
import { cvm, temporaryFolder } from './programs.js';

const folder = temporaryFolder();
const MEMORY = 64;

/** pc.ram of a plain stream. */
async function ramOf(file: string): Promise<Uint8Array> {
	let ram = new Uint8Array(0);
	const reader = new StreamReader({
		dialect: 'qemu-7.2',
		handler: {
			blockList: (blocks) => {
				ram = new Uint8Array(blocks.find((b) => b.idstr === 'pc.ram')?.usedLength ?? 0);
			},
			rawPage: (block, address, page) => {
				if (block === 'pc.ram') ram.set(page, address);
			},
			zeroPage: (block, address) => {
				if (block === 'pc.ram') ram.fill(0, address, address + 4096);
			},
		},
	});
	for await (const chunk of createReadStream(file)) reader.push(chunk as Uint8Array);
	reader.end();
	return ram;
}

const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex');

it.each(['ab', 'random'])('writes a stream of `%s` that QEMU accepts, with all of its RAM', async (workload) => {
	const stream = join(folder, `${workload}.qevm`);
	const made = await cvm(
		'demo',
		'--mode',
		'plain',
		'--workload',
		workload,
		'--memory',
		`${MEMORY}M`,
		'--steps',
		'2000',
		'-o',
		stream,
		'--json',
	);
	expect(made.stderr).toBe('');
	expect(made.code).toBe(0);
	const ours = await ramOf(stream);
	expect(ours.length).toBe(MEMORY * 2 ** 20);
	expect(ours.some((byte) => byte !== 0)).toBe(true);

	const socket = join(folder, `${workload}.qmp`);
	const argv = ['-machine', 'q35,accel=tcg', '-m', `${MEMORY}`, '-nodefaults', '-display', 'none', '-S'];
	const qemu = spawn('qemu-system-x86_64', [
		...argv,
		'-incoming',
		`exec:cat '${stream}'`,
		'-qmp',
		`unix:${socket},server,nowait`,
	]);
	let complaints = '';
	qemu.stderr.on('data', (data) => (complaints += data));
	const ended = new Promise((done) => qemu.once('close', done));
	try {
		const monitor = await Promise.race([
			qmp(socket),
			ended.then(() => Promise.reject(new Error(`QEMU ended: ${complaints}`))),
		]);
		for (;;) {
			if (qemu.exitCode !== null) throw new Error(`QEMU ended: ${complaints}`);
			const { status } = await monitor.execute('query-status');
			if (status !== 'inmigrate') break;
			await new Promise((done) => setTimeout(done, 20));
		}
		expect((await monitor.execute('query-migrate')).status).toBe('completed');
		expect((await monitor.execute('query-status')).status).toBe('paused');

		// What a debugger sees from 1 MiB up: below, the PC's ROMs hide RAM.
		const dump = join(folder, `${workload}.dump`);
		const from = 2 ** 20;
		await monitor.execute('pmemsave', { val: from, size: ours.length - from, filename: dump });
		expect(sha256(readFileSync(dump))).toBe(sha256(ours.subarray(from)));

		// All of it, as QEMU itself would send it on.
		const again = join(folder, `${workload}.again.qevm`);
		await monitor.execute('migrate', { uri: `exec:cat > '${again}'` });
		await migrated(monitor);
		expect(sha256(await ramOf(again))).toBe(sha256(ours));
		await monitor.execute('quit');
		monitor.close();
	} finally {
		qemu.kill();
		await ended;
	}
	expect(complaints.replace(/.*warning:.*\n/g, '')).toBe('');
});
