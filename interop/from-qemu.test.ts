import { join } from 'node:path';
import { expect, it } from 'vitest';
import { capture } from './capture.mjs';
import { cvm, temporaryFolder } from './programs.js';

const folder = temporaryFolder();

it('moves the RAM of a machine that QEMU just wrote into an SEV guest and across, byte for byte', async () => {
	const stream = join(folder, 'fresh.qevm');
	await capture(stream);
	const { code, stdout, stderr } = await cvm('demo', '--from-stream', stream, '--json');
	expect(stderr).toBe('');
	const result = JSON.parse(stdout);
	expect(result.checks.map((c: { check: string; ok: boolean }) => [c.check.split(' ')[0], c.ok])).toEqual([
		['pc.ram', true],
		['/rom@etc/acpi/tables', true],
		['pc.rom', true],
		['pc.bios', true],
		['/rom@etc/table-loader', true],
		['/rom@etc/acpi/rsdp', true],
	]);
	expect(code).toBe(0);
});
