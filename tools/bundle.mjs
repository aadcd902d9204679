// Makes one runnable program of all packages' sources, in well under a second: for the demo, and for tests that start
// processes and worker threads. What is published is built by tsup; `pnpm interop` and `pnpm consumer` run that.
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));

/**
 * @param folder where `main.js` (cvm), `host.js`, `index.js` (the host as a library), `vcpu-worker.js`, `devsev-server.js` and the
 * C source of its shim go
 */
export async function bundle(folder) {
	await build({
		entryPoints: {
			main: path('apps/cvm/src/main.ts'),
			host: path('apps/host/src/main.ts'),
			index: path('apps/host/src/index.ts'),
			'vcpu-worker': path('apps/host/src/vcpu-worker.ts'),
			'dirty-vcpu': path('apps/cvm/src/bench/dirty-vcpu.ts'),
			'mailbox-vcpu': path('apps/cvm/src/bench/mailbox-vcpu.ts'),
			'devsev-server': path('packages/devsev/src/node/devsev-server.ts'),
		},
		outdir: folder,
		bundle: true,
		splitting: true,
		sourcemap: 'inline',
		format: 'esm',
		platform: 'node',
		target: 'node20',
		conditions: ['@cvm/source'],
		external: ['commander', 'cli-progress', 'picocolors'],
		logLevel: 'error',
	});
	cpSync(path('packages/devsev/shim'), join(folder, 'shim'), { recursive: true });
}

/** Vitest's global set-up of the apps: the program goes into the `.cache` of the package under test. */
export default (project) => bundle(`${project.config.root}/.cache`);
