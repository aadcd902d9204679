/** What a guest owner sees of a platform's certificates, and what is wrong with them. */
import { SEV_CERT_SIZE, sevctl, sevTool } from '@cvm/sev-hw/owner';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { base64, Folder, owner } from './owner-cli.js';
import { ASK_ARK, cekOf, Host, writeCertificates } from './owner-machine.js';
import { expectOneLine } from './processes.js';

const host = new Host('owner tests');
const ok = { code: 0, stderr: '' };
const FILES = ['pdh.cert', 'cert_chain.cert', 'cek.cert', 'ask_ark.cert'] as const;

let folder: Folder;
let files: string[];
beforeEach(() => {
	folder = new Folder();
	files = writeCertificates(host, folder);
});
afterEach(() => folder.remove());

/** The platform's certificates one by one. */
function certificates() {
	const chain = folder.read('cert_chain.cert');
	const askArk = ASK_ARK;
	return {
		pdh: folder.read('pdh.cert'),
		pek: chain.slice(0, SEV_CERT_SIZE),
		oca: chain.slice(SEV_CERT_SIZE, 2 * SEV_CERT_SIZE),
		cek: cekOf(host),
		ask: askArk.slice(0, 832),
		ark: askArk.slice(832),
	};
}

describe('chain verify', () => {
	it('follows every link of what the chip exported and the key server adds', async () => {
		const { stdout, ...rest } = await owner('chain', 'verify', '--root', 'fake', ...files);
		expect(rest).toEqual(ok);
		expect(stdout.split('\n')).toEqual([
			"✓ ARK signs itself and is the root 'fake'",
			'✓ ARK signs ASK',
			'✓ ASK signs CEK',
			'✓ CEK signs PEK',
			'✓ OCA signs itself',
			'✓ OCA signs PEK',
			'✓ PEK signs PDH',
			'verified, as a platform of this model: nothing is said about a real machine',
			'',
		]);
	});

	it.each([
		['one file of `sevctl export --full`', () => ({ full: sevctl.encodeChain(certificates()) })],
		[
			'`sevctl export` and its CA chain',
			() => {
				const { ask, ark, ...sev } = certificates();
				return { sev: sevctl.encodeChain(sev), ca: sevctl.encodeCaChain({ ask, ark }) };
			},
		],
		['sev-tool’s six files', () => sevTool.certificateFiles(certificates())],
		[
			'base64, as QMP gives it',
			() => Object.fromEntries(FILES.map((name) => [name, new TextEncoder().encode(`${base64(folder.read(name))}\n`)])),
		],
	] as const)('takes %s', async (_, make) => {
		const made: Readonly<Record<string, Uint8Array>> = make();
		const paths = Object.entries(made).map(([name, data]) => folder.write(`given-${name}`, data));
		expect(await owner('chain', 'verify', '--root', 'fake', ...paths)).toMatchObject(ok);
	});

	it('takes a root by its fingerprint, which `chain show` tells', async () => {
		const shown = await owner('chain', 'show', '--json', folder.at('ask_ark.cert'));
		const { certificates: found } = JSON.parse(shown.stdout) as { certificates: Record<string, string>[] };
		expect(found.map(({ certificate }) => certificate)).toEqual(['ask', 'ark']);
		const fingerprint = found[1]?.['fingerprint'] ?? '';
		expect(await owner('chain', 'verify', '--ark-fingerprint', fingerprint, ...files)).toMatchObject(ok);
		const other = fingerprint.replace(/^../, fingerprint.startsWith('00') ? '11' : '00');
		const refused = await owner('chain', 'verify', '--ark-fingerprint', other, ...files);
		expect(expectOneLine(refused, 1)).toContain('ARK signs itself and is the root of that fingerprint: INVALID_CERT');
	});

	it.each([
		['pdh', 5, 'PEK signs PDH: BAD_SIGNATURE', 1],
		['pek', 5, 'CEK signs PEK: BAD_SIGNATURE', 2],
		['oca', 5, 'OCA signs itself: BAD_SIGNATURE', 1],
		['cek', 5, 'ASK signs CEK: BAD_SIGNATURE', 1],
		['ask', 0x20, 'ARK signs ASK: BAD_SIGNATURE', 1],
		['ark', 0x20, "ARK signs itself and is the root 'fake': BAD_SIGNATURE", 1],
	] as const)('names the link that a changed byte of the %s breaks', async (name, at, said, broken) => {
		const set = certificates();
		// Signed, but no part of the key: the links below stay.
		set[name].set([(set[name][at] ?? 0) ^ 1], at);
		const paths = Object.entries(set).map(([part, data]) => folder.write(`part-${part}`, data));
		const text = await owner('chain', 'verify', '--root', 'fake', ...paths);
		expect(expectOneLine(text, 1)).toContain(`certificate chain: ${said}`);
		expect(text.stdout).toContain('NOT verified');
		const json = await owner('chain', 'verify', '--root', 'fake', '--json', ...paths);
		const document = JSON.parse(json.stdout) as { verified: boolean; links: { ok: boolean }[] };
		expect(document.verified).toBe(false);
		expect(document.links.filter((link) => !link.ok)).toHaveLength(broken);
	});

	it('does not take the CEK that the chip exports without a signature', async () => {
		const [pdh, chain, , askArk] = files;
		const refused = await owner('chain', 'verify', '--root', 'fake', `${pdh}`, `${chain}`, `${askArk}`);
		expect(expectOneLine(refused, 1)).toContain('ASK signs CEK: INVALID_CERTIFICATE');
	});

	it('does not take AMD’s name for another root', async () => {
		expectOneLine(await owner('chain', 'verify', '--root', 'milan', ...files), 1);
	});
});

describe('chain show', () => {
	it('prints every certificate of a file', async () => {
		const { stdout, ...rest } = await owner('chain', 'show', folder.at('cert_chain.cert'), folder.at('ask_ark.cert'));
		expect(rest).toEqual(ok);
		expect(stdout.match(/^\w+ in /gm)).toEqual(['PEK in ', 'OCA in ', 'CEK in ', 'ASK in ', 'ARK in ']);
		expect(stdout).toMatch(/signature 1: by OCA, ECDSA_SHA256/);
		const json = await owner('chain', 'show', '--json', folder.at('pdh.cert'));
		expect(JSON.parse(json.stdout)).toMatchObject({
			certificates: [{ certificate: 'pdh', api: '0.24', signatures: [{ by: 'PEK', algorithm: 'ECDSA_SHA256' }] }],
		});
	});
});
