/** The bundled command as real processes: each in a group and with a temporary folder of its own, which show what it left. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { expect, vi } from 'vitest';

/** Built by the global set-up. */
export const PROGRAM = fileURLToPath(new URL('../.cache/main.js', import.meta.url));

/** A stream that Debian's QEMU 7.2.22 wrote: see fixtures/README.md. */
export const CAPTURE = fileURLToPath(new URL('../fixtures/qemu-7.2-pc-16m.qevm', import.meta.url));

/** Ample for a machine that does something else besides. */
export const PATIENCE = { timeout: 60_000, interval: 20 };

/** How a command ended. */
export interface Ended {
	/** The exit code, or the signal that ended it. */
	readonly code: number | string;
	readonly stdout: string;
	readonly stderr: string;
}

/** Processes of a group that still live; ended ones that nobody has collected do not count. */
function living(group: number): string[] {
	const { stdout } = spawnSync('ps', ['-A', '-o', 'pgid=,stat=,args='], { encoding: 'utf8' });
	return stdout
		.split('\n')
		.filter((line) => Number(line.trim().split(/\s+/)[0]) === group && !/^\s*\d+\s+Z/.test(line));
}

function endGroup(group: number): void {
	try {
		process.kill(-group, 'SIGKILL');
	} catch {
		// All gone, as it should be.
	}
}

/** A command under way. */
export interface Running {
	readonly pid: number;
	/** Our end of its standard output. */
	readonly reader: Readable;
	/** What it said so far. */
	readonly said: { stdout: string; stderr: string };
	/** Resolves when it ended, and fails if it left a process or a temporary file behind. */
	readonly ended: Promise<Ended>;
}

/** `files may stay`: for a command that is killed, which can not clean up its folder but must not leave processes. */
export function start(argv: readonly string[], cwd?: string, files?: 'files may stay'): Running {
	const folder = mkdtempSync(join(tmpdir(), 'cvm-test-'));
	const child = spawn(process.execPath, [PROGRAM, ...argv], {
		...(cwd !== undefined && { cwd }),
		detached: true,
		env: { ...process.env, TMPDIR: folder },
		stdio: ['ignore', 'pipe', 'pipe'],
	});
	const pid = child.pid ?? -1;
	const said = { stdout: '', stderr: '' };
	child.stdout.setEncoding('utf8').on('data', (text) => (said.stdout += text));
	child.stderr.setEncoding('utf8').on('data', (text) => (said.stderr += text));
	const closed = new Promise<number | string>((resolve, reject) => {
		child.once('error', reject);
		child.once('close', (code, signal) => resolve(code ?? signal ?? -1));
	});
	const settle = async (): Promise<Ended> => {
		try {
			const code = await closed;
			await vi.waitFor(() => expect(living(pid), 'processes left behind').toEqual([]), PATIENCE);
			if (!files) expect(readdirSync(folder), 'temporary files left behind').toEqual([]);
			return { code, ...said };
		} finally {
			endGroup(pid);
			rmSync(folder, { recursive: true, force: true });
		}
	};
	return { pid, reader: child.stdout, said, ended: settle() };
}

/** Runs a command to its end. */
export const run = (...argv: readonly string[]): Promise<Ended> => start(argv).ended;

/** Expects failure, told in one line without a stack trace. @returns the line */
export function expectOneLine({ code, stderr }: Ended, expected: 1 | 2): string {
	expect(stderr).toMatch(/^cvm( host)?: [^\n]+\n$/);
	expect(stderr).not.toMatch(/internal error|^\s+at /m);
	expect(code).toBe(expected);
	return stderr.trimEnd();
}
