import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from './programs.js';

const vectors = fileURLToPath(new URL('../vectors', import.meta.url));
const folder = temporaryFolder();

/** Runs the Python runner of a copy of `vectors/`, on all files or on one. */
function run(root: string, environment: Readonly<Record<string, string>> = {}, file?: string) {
	const argv = [join(root, 'run.py'), ...(file === undefined ? [] : [join(root, 'sev', file)])];
	const { CVM_PUBLIC_DATA: _, ...inherited } = process.env;
	const env = { ...inherited, ...environment };
	const { status, stdout, stderr } = spawnSync('python3', argv, { encoding: 'utf8', env });
	return { status, stderr, lines: stdout.trimEnd().split('\n') };
}

/** A copy of the vectors with one text of a file replaced. */
function changed(name: string, file: string, before: string | RegExp, after: string): string {
	const root = join(folder, name);
	cpSync(vectors, root, { recursive: true });
	const path = join(root, 'sev', file);
	const text = readFileSync(path, 'utf8');
	const other = text.replace(before, after);
	if (other === text) throw new Error(`${file}: expected ${before} in it`);
	writeFileSync(path, other);
	return root;
}

describe('the runner in Python, which shares nothing with this one but the vectors', () => {
	it('agrees on every case that needs no public data, and says what it skipped', () => {
		const { status, stderr, lines } = run(vectors);
		expect(stderr).toBe('');
		expect(lines).toHaveLength(2);
		expect(lines[0]).toMatch(/^\d+ cases need files of public data: set CVM_PUBLIC_DATA to their folder$/);
		expect(lines[1]).toMatch(/^[1-9]\d* passed, [1-9]\d* skipped, 0 failed$/);
		expect(status).toBe(0);
	});

	const { CVM_PUBLIC_DATA: data = '' } = process.env;
	describe.runIf(data !== '')('(needs CVM_PUBLIC_DATA, the folder of public data)', () => {
		it('agrees on every case', () => {
			const { status, stderr, lines } = run(vectors, { CVM_PUBLIC_DATA: data });
			expect(stderr).toBe('');
			expect(lines).toEqual([expect.stringMatching(/^[1-9]\d* passed, 0 skipped, 0 failed$/)]);
			expect(status).toBe(0);
		});
	});

	it.each([
		[
			'an output',
			'policy-mac.json',
			/"mac": "aa/,
			'"mac": "bb',
			/^policy-mac\.json zeros: mac: expected "bb\S*, got "aa/,
		],
		[
			'a status',
			'dh-certificate.json',
			'"status": "INVALID_CERTIFICATE"',
			'"status": "SUCCESS"',
			/: status: expected "SUCC/,
		],
		['an id twice', 'kdf.json', '"id": "kik-of-zeros"', '"id": "kek-of-zeros"', /kek-of-zeros: id: expected one/],
		['an input', 'key-wrap.json', '"wrapIv": "00', '"wrapIv": "01', /^key-wrap\.json zeros: wrap/],
		[
			'another version',
			'kdf.json',
			'"version": 1',
			'"version": 2',
			/^kdf\.json: expected cvm-sev-vectors 1 .*got .* 2/,
		],
		[
			'an unknown operation',
			'kdf.json',
			'"operation": "kdf"',
			'"operation": "guess"',
			/known operation, got .* guess$/,
		],
		['an input that is missing', 'kdf.json', '"bits": 128', '"bitz": 128', /input: expected a case that can be run/],
	])('tells of %s that is wrong', (name, file, before, after, line) => {
		const { status, lines } = run(changed(name.replaceAll(' ', '-'), file, before, after), {}, file);
		expect(lines).toContainEqual(expect.stringMatching(line));
		expect(lines.at(-1)).toMatch(/[1-9]\d* failed$/);
		expect(status).toBe(1);
	});

	it('tells of a public file that is another', () => {
		const other = join(folder, 'public');
		mkdirSync(join(other, 'sev', 'roots'), { recursive: true });
		writeFileSync(join(other, 'sev', 'roots', 'naples-ark.cert'), 'no certificate');
		const { status, lines } = run(vectors, { CVM_PUBLIC_DATA: other }, 'ark-verify.json');
		expect(lines).toContainEqual(expect.stringMatching(/^ark-verify\.json naples: .*expected SHA-256/));
		expect(status).toBe(1);
	});
});
