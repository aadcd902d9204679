import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** vCPUs are worker threads, which run JavaScript only: the sources of all packages become one program for the tests. */
export default async function setup(): Promise<void> {
	await build({
		entryPoints: { index: path('../src/index.ts'), main: path('../src/main.ts'), 'vcpu-worker': path('../src/vcpu-worker.ts') },
		outdir: path('../.cache'),
		bundle: true,
		splitting: true,
		format: 'esm',
		platform: 'node',
		target: 'node20',
		sourcemap: 'inline',
		conditions: ['@cvm/source'],
		logLevel: 'error',
	});
}
