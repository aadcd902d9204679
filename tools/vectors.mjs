// Makes vectors/sev/*.json: the published cases as written down, the computed ones from their seed.
//   node tools/vectors.mjs            writes them
//   node tools/vectors.mjs --check    fails if one is not what it would write
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const target = join(root, 'vectors/sev');
const folder = mkdtempSync(join(tmpdir(), 'cvm-vectors-'));
const outfile = join(folder, 'vectors.mjs');

try {
	await build({
		entryPoints: [join(root, 'packages/sev-hw/test/vectors/all-files.ts')],
		outfile,
		bundle: true,
		format: 'esm',
		platform: 'node',
		target: 'node20',
		conditions: ['@cvm/source'],
		logLevel: 'error',
	});
	const { vectorTexts } = await import(pathToFileURL(outfile).href);
	const texts = vectorTexts();
	const present = readdirSync(target).filter((name) => name.endsWith('.json'));
	if (process.argv.includes('--check')) check(texts, present);
	else write(texts, present);
} finally {
	rmSync(folder, { recursive: true, force: true });
}

function check(texts, present) {
	const stale = [...texts].filter(
		([name, text]) => !present.includes(name) || readFileSync(join(target, name), 'utf8') !== text,
	);
	const extra = present.filter((name) => !texts.has(name));
	for (const name of [...stale.map(([name]) => name), ...extra]) {
		console.error(`vectors/sev/${name} is out of date: run \`node tools/vectors.mjs\``);
		process.exitCode = 1;
	}
}

function write(texts, present) {
	for (const [name, text] of texts) writeFileSync(join(target, name), text);
	for (const name of present) if (!texts.has(name)) rmSync(join(target, name));
}
