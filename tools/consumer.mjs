// Packs every package, installs the tarballs with npm in an empty folder, and imports each entry the way a user would.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { turbo } from './turbo.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const built = turbo('build', '--output-logs=errors-only');
if (built !== 0) process.exit(built);

const folder = mkdtempSync(join(tmpdir(), 'cvm-consumer-'));
try {
	const places = ['packages', 'apps'].flatMap((p) => readdirSync(join(root, p)).map((name) => join(root, p, name)));
	const manifests = places.map((place) => JSON.parse(readFileSync(join(place, 'package.json'), 'utf8')));
	const pnpm = process.env.npm_execpath;
	if (!pnpm) throw new Error('start this through pnpm: pnpm consumer');
	for (const place of places) {
		execFileSync(process.execPath, [pnpm, 'pack', '--pack-destination', folder], { cwd: place, stdio: 'pipe' });
	}
	const tarballs = readdirSync(folder).filter((name) => name.endsWith('.tgz'));
	writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }));
	execFileSync('npm', ['install', '--no-audit', '--no-fund', '--ignore-scripts', ...tarballs.map((t) => `./${t}`)], {
		cwd: folder,
		stdio: 'pipe',
		env: { ...process.env, npm_config_user_agent: undefined },
	});
	let entries = 0;
	for (const { name, exports } of manifests) {
		for (const entry of Object.keys(exports).filter((e) => !e.endsWith('.json'))) {
			const specifier = name + entry.slice(1);
			const script = `const m = await import(${JSON.stringify(specifier)}); if (Object.keys(m).length === 0) throw new Error('exports nothing')`;
			execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: folder, stdio: 'pipe' });
			entries++;
		}
	}
	const help = execFileSync(join(folder, 'node_modules/.bin/cvm'), ['--help'], { cwd: folder, encoding: 'utf8' });
	if (!help.includes('demo')) throw new Error(`cvm --help does not name its commands:\n${help}`);
	console.log(`consumer: ${tarballs.length} tarballs installed, ${entries} entries imported, cvm --help works`);
} finally {
	rmSync(folder, { recursive: true, force: true });
}
