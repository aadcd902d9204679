/** The C client of the interop suite, and devices whose platform is the bundled program. */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach } from 'vitest';
import { findInPath, type SevDevice, type SevDeviceOptions, startSevDevice } from '../src/node/index.js';

/** Tests that run C programs say that they were skipped where there is no compiler. */
export const COMPILER = ['cc', 'gcc', 'clang'].find((name) => findInPath(name) !== undefined);

const SERVER = fileURLToPath(new URL('../.cache/devsev-server.js', import.meta.url));
const CLIENT = fileURLToPath(new URL('../../../interop/c/devsev-client.c', import.meta.url));

/** A folder that goes with the test file. */
export function temporaryFolder(): string {
	const folder = mkdtempSync(join(tmpdir(), 'cvm-devsev-test-'));
	afterAll(() => rmSync(folder, { recursive: true, force: true }));
	return folder;
}

/** Compiles the client. @returns its path */
export function buildClient(folder: string): string {
	const program = join(folder, 'devsev-client');
	execFileSync(COMPILER ?? 'cc', ['-O2', '-o', program, CLIENT]);
	return program;
}

const open = new Set<SevDevice>();
afterEach(async () => {
	await Promise.all([...open].map((device) => device.close()));
	open.clear();
});

/** A device that is closed after the test. */
export async function startDevice(options: SevDeviceOptions = {}): Promise<SevDevice> {
	const device = await startSevDevice({ server: [process.execPath, SERVER], ...options });
	open.add(device);
	return device;
}

/** How a program ended. */
export interface Ended {
	readonly code: number | string;
	readonly stdout: string;
	readonly stderr: string;
}

/** Runs a program with the device. */
export function use(device: Pick<SevDevice, 'env'>, program: string, ...argv: readonly string[]): Promise<Ended> {
	const child = spawn(program, argv, { env: { ...process.env, ...device.env }, stdio: ['ignore', 'pipe', 'pipe'] });
	let [stdout, stderr] = ['', ''];
	child.stdout.on('data', (data) => (stdout += data));
	child.stderr.on('data', (data) => (stderr += data));
	return new Promise((resolve, reject) => {
		child.once('error', reject);
		child.once('close', (code, signal) => resolve({ code: code ?? signal ?? -1, stdout, stderr }));
	});
}
