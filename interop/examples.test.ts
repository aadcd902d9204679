import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { migrated } from './capture.mjs';
import { run, temporaryFolder } from './programs.js';
import { pause, startMachine } from './qemu-runs.js';

/* The examples of the packages, as a reader of their READMEs would run them; those of @cvm/qemu-mig on real streams. */

const folder = temporaryFolder();
const path = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const example = (name: string, ...argv: string[]) =>
	run(process.execPath, [path(`packages/qemu-mig/examples/${name}.mjs`), ...argv]);
const fixture = path('apps/cvm/fixtures/qemu-7.2-pc-16m.qevm');

it('lists every device of a capture, with its fields', () => {
	const lines = example('list-devices', fixture).split('\n');
	expect(lines.filter((line) => /^\S.*: \d+ bytes at 0x/.test(line))).toHaveLength(29);
	expect(lines).toContain('timer 0: 24 bytes at 0x6e3b9');
	expect(lines.some((line) => line.startsWith('  cpu_ticks_offset '))).toBe(true);
});

it('writes a stream that QEMU takes, and reads the same RAM from what QEMU sends on', async () => {
	const [stream, again, ram] = ['made.qevm', 'again.qevm', 'ram.raw'].map((name) => join(folder, name)) as [
		string,
		string,
		string,
	];
	example('write-stream', stream);
	const argv = ['-machine', 'none', '-m', '1M', '-nodefaults', '-S', '-incoming', `exec:cat '${stream}'`];
	const { monitor, end } = await startMachine(folder, argv);
	try {
		while ((await monitor.execute('query-status')).status === 'inmigrate') await pause(20);
		expect((await monitor.execute('query-migrate')).status).toBe('completed');
		await monitor.execute('migrate', { uri: `exec:cat > '${again}'` });
		await migrated(monitor);
	} finally {
		await end();
	}
	example('extract-ram', again, 'ram', ram);
	const bytes = readFileSync(ram);
	expect(bytes).toHaveLength(2 ** 20);
	expect(bytes.every((byte, at) => byte === at >> 12)).toBe(true);
});

it('runs a guest that negotiates, shares, writes and is harvested', () => {
	const lines = run(process.execPath, [path('packages/kvm/examples/guest.mjs')]).split('\n');
	expect(lines[0]).toMatch(/^may be migrated: true /);
	expect(lines).toContain('dirty frames from 0x2000 on: 111');
});

it('moves a page between two helpers, and one copy may run', () => {
	expect(
		run(process.execPath, [path('packages/ovmf-mh/examples/session.mjs')])
			.split('\n')
			.slice(0, 2),
	).toEqual(['what the hosts see of the page: noise', 'source: retired 0 target: idle 90']);
});
