/** Published values of virtee/sevctl, virtee/sev and virtee/sev-snp-measure through the command. */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { base64, Folder, owner } from './owner-cli.js';
import { expectOneLine } from './processes.js';

const root = process.env['CVM_PUBLIC_DATA'];
const data = (path: string): string => join(root ?? '', path);
const ok = { code: 0, stderr: '' };

let folder: Folder;
beforeEach(() => {
	folder = new Folder();
});
afterEach(() => folder.remove());

describe.runIf(root !== undefined)('published data (needs CVM_PUBLIC_DATA, the folder of public data)', () => {
	const platform = ['pdh', 'pek', 'oca', 'cek'].map((name) => data(`sev/naples/${name}.cert`));
	const roots = (product: string) => ['ask', 'ark'].map((name) => data(`sev/roots/${product}-${name}.cert`));

	it('a real Naples platform verifies under its root, and under no other', async () => {
		expect(await owner('chain', 'verify', '--root', 'naples', ...platform, ...roots('naples'))).toMatchObject(ok);
		for (const product of ['rome', 'milan', 'genoa', 'turin']) {
			const ended = await owner('chain', 'verify', '--root', product, ...platform, ...roots(product));
			expect(expectOneLine(ended, 1), product).toContain('ASK signs CEK: ');
			const other = await owner('chain', 'verify', '--root', product, ...platform, ...roots('naples'));
			expect(expectOneLine(other, 1), product).toContain(`root '${product}': INVALID_CERTIFICATE`);
		}
	});

	it('a session is made for it', async () => {
		const argv = ['session', '--root', 'naples', '--policy', '1', '-d', folder.path];
		expect(await owner(...argv, ...platform, ...roots('naples'))).toMatchObject(ok);
		expect(folder.names()).toEqual(['vm_godh.b64', 'vm_session.b64', 'vm_tek.bin', 'vm_tik.bin']);
	});

	const sevctl = ['--policy', '3', '--tik', data('sev/measurement/tik1.bin'), '--nonce', 'wxP6tRHCFrFQWxsuqZA8QA=='];
	const api = ['--api-major', '1', '--api-minor', '40', '--build-id', '40'];
	const el9 = ['--firmware', data('ovmf/amdsev-el9-last4k.bin')];
	it.each([
		[
			'a digest',
			['--launch-digest', 'xkvRAfyaSizgonxAjZIAkR8TmolUabBKQKb6KJCDDSM='],
			'lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA',
		],
		['firmware', el9, 'oMDewIouJSpbpNRHj7Mk3p08H2dPZQdsZMU14qIymBnDE/q1EcIWsVBbGy6pkDxA'],
		[
			'kernel hashes',
			[
				...el9,
				...['--kernel', data('sev/measurement/vmlinuz-fake'), '--initrd', data('sev/measurement/initrd-fake')],
				...['--cmdline', 'foo bar baz fake kernel=cmdline'],
			],
			'h3auYbWQnVW7EGLWN4Hf9SN0oEYMPU2sK4bLnefWPwvDE/q1EcIWsVBbGy6pkDxA',
		],
	])('sevctl’s measurement with %s', async (_, what, blob) => {
		expect(await owner('measure', ...sevctl, ...api, ...what)).toEqual({ ...ok, stdout: `${blob}\n` });
	});

	const amdSev = ['--firmware', data('ovmf/ovmf_AmdSev_suffix.bin'), '--kernel', '/dev/null', '--initrd', '/dev/null'];
	it.each([
		[
			'kernel hashes',
			[...amdSev, '--append', 'console=ttyS0 loglevel=7'],
			'82a3ee5d537c3620628270c292ae30cb40c3c878666a7890ee7ef2a08fb535ff',
		],
		[
			'firmware alone',
			['--firmware', data('ovmf/ovmf_OvmfX64_suffix.bin')],
			'b4c021e085fb83ceffe6571a3d357b4a98773c83c474e47f76c876708fe316da',
		],
		[
			'SEV-ES',
			[...amdSev, '--vcpus', '1', '--vcpu-type', 'EPYC-v4'],
			'13810ae661ea11e2bb205621f582fee268f0367c8f97bc297b7fadef3e12002c',
		],
	])('sev-snp-measure’s digest of %s', async (_, what, digest) => {
		expect(await owner('measure', '--digest-only', ...what)).toEqual({ ...ok, stdout: `${digest}\n` });
	});

	it('sevctl’s secret', async () => {
		const keys = ['--tek', data('sev/secret/tek1.bin'), '--tik', data('sev/secret/tik1.bin')];
		const blob = 'TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS';
		const secret = ['--secret', `736869e5-84f0-4973-92ec-06879ce3da0b:${data('sev/secret/secret1.txt')}`];
		const argv = [...keys, ...secret, '--launch-measure-blob', blob, '--iv', 'rFR07U3TLH2YnsUj2SVZ7A=='];
		expect(await owner('secret', ...argv, '-d', folder.path)).toMatchObject(ok);
		expect(base64(folder.read('secret_header.bin'))).toBe(
			'AAAAAKxUdO1N0yx9mJ7FI9klWey8FSzeYQ4X8K71VzNKLU/KQsIsQxLjtbhaPUewqshX5Q==',
		);
		expect(base64(folder.read('secret_payload.bin'))).toBe(
			'0U3e5PcXv0UW+H4tSBFKOdCYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCCwD/2w5cPA==',
		);
	});
});
