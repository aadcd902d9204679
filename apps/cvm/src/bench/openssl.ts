import { spawnSync } from 'node:child_process';

/** What the results are held against. LAUNCH_UPDATE_DATA hashes every byte: it cannot be faster than SHA-256. */
export const YARDSTICKS = ['aes-128-ecb', 'aes-128-gcm', 'sha256'] as const;
export type Yardstick = (typeof YARDSTICKS)[number];

/** Bytes per second of `openssl speed` on one core in blocks of 4 KiB, or `undefined` without the program. */
export function opensslSpeed(cipher: Yardstick): number | undefined {
	const argv = ['speed', '-mr', '-elapsed', '-seconds', '1', '-bytes', '4096', '-evp', cipher];
	const { status, stdout } = spawnSync('openssl', argv, { encoding: 'utf8' });
	if (status !== 0) return undefined;
	const line = stdout.split('\n').find((l) => l.startsWith('+F:'));
	const value = Number(line?.split(':').at(-1));
	return Number.isFinite(value) && value > 0 ? value : undefined;
}
