import { spawnSync } from 'node:child_process';

/** What the results are held against. LAUNCH_UPDATE_DATA hashes every byte: it cannot be faster than SHA-256. */
export const YARDSTICKS = ['aes-128-ecb', 'aes-128-gcm', 'sha256', 'aes-256-gcm-16k'] as const;
export type Yardstick = (typeof YARDSTICKS)[number];

/** What a yardstick runs: an algorithm, and the bytes of its blocks. */
export const yardstickRun = (name: Yardstick): { readonly cipher: string; readonly bytes: number } =>
	name === 'aes-256-gcm-16k' ? { cipher: 'aes-256-gcm', bytes: 16384 } : { cipher: name, bytes: 4096 };

/** Bytes per second of `openssl speed` on one core, or `undefined` without the program. */
export function opensslSpeed(name: Yardstick): number | undefined {
	const { cipher, bytes } = yardstickRun(name);
	const argv = ['speed', '-mr', '-elapsed', '-seconds', '1', '-bytes', `${bytes}`, '-evp', cipher];
	const { status, stdout } = spawnSync('openssl', argv, { encoding: 'utf8' });
	if (status !== 0) return undefined;
	const line = stdout.split('\n').find((l) => l.startsWith('+F:'));
	const value = Number(line?.split(':').at(-1));
	return Number.isFinite(value) && value > 0 ? value : undefined;
}
