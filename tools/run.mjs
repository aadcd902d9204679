// Makes what a program needs, quietly, then runs it with the caller's arguments and exit code:
//   node tools/run.mjs cvm demo --json       the people's command, from source
//   node tools/run.mjs --interop             the suite against real QEMU, OVMF and OpenSSL, over the built packages
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const [what, ...rest] = process.argv.slice(2);

async function program() {
	if (what !== '--interop') {
		const { bundle } = await import('./bundle.mjs');
		await bundle(path('apps/cvm/.run'));
		return [path('apps/cvm/.run/main.js'), ...rest];
	}
	const { turbo } = await import('./turbo.mjs');
	const built = turbo('build', '--output-logs=errors-only', '--filter=@cvm/cvm...');
	if (built !== 0) process.exit(built);
	return [path('node_modules/vitest/vitest.mjs'), 'run', '--root', path('interop'), ...rest];
}

// pnpm starts scripts in the package's folder; files are named from where the caller stands.
const cwd = process.env.INIT_CWD ?? process.cwd();
const child = spawn(process.execPath, await program(), { stdio: 'inherit', cwd });
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
child.on('exit', (code, signal) => {
	process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1);
});
