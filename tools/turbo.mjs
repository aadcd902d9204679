// Runs one turbo task over the workspace with telemetry off: `node tools/turbo.mjs test [turbo options]`.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** @returns the task's exit code */
export function turbo(task, ...options) {
	const program = fileURLToPath(new URL('../node_modules/turbo/bin/turbo', import.meta.url));
	const { status } = spawnSync(process.execPath, [program, 'run', task, ...options], {
		cwd: root,
		stdio: 'inherit',
		env: { ...process.env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1' },
	});
	return status ?? 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
	const [task = 'build', ...options] = process.argv.slice(2);
	process.exitCode = turbo(task, ...options);
}
