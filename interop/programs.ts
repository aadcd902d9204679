import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

/** The built `cvm`: `spawn(process.execPath, [cvmProgram, ...argv])`. */
export const cvmProgram = fileURLToPath(new URL('../apps/cvm/dist/main.js', import.meta.url));

/** Runs the built `cvm` to its end. */
export function cvm(...argv: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
	return new Promise((resolve, reject) => {
		const child = spawn(process.execPath, [cvmProgram, ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
		let [stdout, stderr] = ['', ''];
		child.stdout.on('data', (data) => (stdout += data));
		child.stderr.on('data', (data) => (stderr += data));
		child.once('error', reject);
		child.once('close', (code) => resolve({ code: code ?? -1, stdout, stderr }));
	});
}

/** The program that runs a host by itself: `spawn(process.execPath, [...hostProgram, ...options])`. */
export const hostProgram = [cvmProgram, 'host'];

/** Runs a program that must succeed. @returns its standard output */
export const run = (program: string, argv: readonly string[], input?: Uint8Array): string =>
	execFileSync(program, argv, { encoding: 'utf8', ...(input && { input }) });

/** A folder that goes with the test file. */
export function temporaryFolder(): string {
	const folder = mkdtempSync(join(tmpdir(), 'cvm-interop-'));
	afterAll(() => rmSync(folder, { recursive: true, force: true }));
	return folder;
}
