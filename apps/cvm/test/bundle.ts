import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Processes and worker threads run JavaScript only: the sources of all packages become one program for the tests. */
export default async function setup(): Promise<void> {
	await build({
		entryPoints: {
			main: path('../src/main.ts'),
			index: path('../../host/src/index.ts'),
			'vcpu-worker': path('../../host/src/vcpu-worker.ts'),
		},
		outdir: path('../.cache'),
		bundle: true,
		splitting: true,
		format: 'esm',
		platform: 'node',
		target: 'node20',
		sourcemap: 'inline',
		conditions: ['@cvm/source'],
		external: ['commander', 'cli-progress', 'picocolors'],
		logLevel: 'error',
	});
}
