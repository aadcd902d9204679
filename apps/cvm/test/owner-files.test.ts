/** The files of a guest owner: what is read, and what is written, for whom and when. */
import { chmodSync, statSync, symlinkSync, truncateSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { base64, Folder, owner } from './owner-cli.js';
import { Host, writeCertificates } from './owner-machine.js';
import { expectOneLine } from './processes.js';

const host = new Host('files of owners');

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
});
afterEach(() => folder.remove());

describe('files that are written', () => {
	const create = (...argv: string[]) => owner('oca', 'create', folder.at('oca.cert'), folder.at('oca.key'), ...argv);

	it('are for the person alone if they hold keys', async () => {
		await create();
		const argv = ['session', '--policy', '1', '-d', folder.path, '--root', 'fake', ...writeCertificates(host, folder)];
		await owner(...argv);
		await owner(...argv, '--format', 'sev-tool');
		const modes = (names: string[]) => names.map((name) => statSync(folder.at(name)).mode & 0o077);
		expect(modes(['oca.key', 'vm_tek.bin', 'vm_tik.bin', 'tmp_tk.bin'])).toEqual([0, 0, 0, 0]);
	});

	it('replace none that exists, unless told to: then also its mode', async () => {
		folder.write('oca.key', 'precious');
		chmodSync(folder.at('oca.key'), 0o644);
		const before = folder.names();
		expect(expectOneLine(await create(), 2)).toMatch(/oca\.key': File exists; --force replaces it$/);
		expect(folder.names()).toEqual(before);
		expect(folder.text('oca.key')).toBe('precious');
		expect(await create('--force')).toMatchObject({ code: 0, stderr: '' });
		expect(folder.text('oca.key')).not.toBe('precious');
		expect(statSync(folder.at('oca.key')).mode & 0o777).toBe(0o600);
	});

	it('replace what a link names, not the link', async () => {
		folder.write('real', 'precious');
		symlinkSync('real', folder.at('oca.cert'));
		expect(await create('--force')).toMatchObject({ code: 0, stderr: '' });
		expect(folder.read('real')).toHaveLength(2084);
	});

	it('stay all as they were if one can not be written', async () => {
		folder.write('oca.cert', 'precious');
		folder.write('oca.key.partial', 'unfinished');
		const before = folder.names();
		expect(expectOneLine(await create('--force'), 1)).toContain("oca.key.partial': File already exists");
		expect(folder.names()).toEqual(before);
		expect([folder.text('oca.cert'), folder.text('oca.key.partial')]).toEqual(['precious', 'unfinished']);
	});

	it('go into devices as they are', async () => {
		const [key, blob] = [16, 48].map((length) => base64(new Uint8Array(length)));
		const keys = ['--tek', `${key}`, '--tik', `${key}`, '--launch-measure-blob', `${blob}`];
		const secret = ['--raw', folder.write('secret.txt', 'open sesame'), folder.at('h'), '/dev/null'];
		expect(await owner('secret', ...keys, ...secret)).toMatchObject({ code: 0, stderr: '' });
		expect(statSync('/dev/null').isCharacterDevice()).toBe(true);
		expect(folder.read('h')).toHaveLength(52);
	});
});

describe('input', () => {
	it('is told by its length before it is read', async () => {
		folder.write('large', '');
		truncateSync(folder.at('large'), 2 ** 40);
		const ended = await owner('measure', '--digest-only', '--firmware', folder.at('large'));
		expect(expectOneLine(ended, 1)).toContain(`expected at most ${64 * 2 ** 20} bytes, got ${2 ** 40}`);
	});
});
