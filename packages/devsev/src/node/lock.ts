import { statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';

/**
 * The one right to write to a folder: a socket in Linux's abstract namespace, whose name only one process can have and
 * which the kernel takes back the moment that process ends, however it does. Nothing listens behind it.
 *
 * Known limit: the name is seen in one network namespace only.
 *
 * @returns undefined if another process has it
 */
export function lockFolder(folder: string): Promise<Server | undefined> {
	const { dev, ino } = statSync(folder, { bigint: true });
	const lock = createServer((socket) => socket.destroy());
	return new Promise((resolve, reject) => {
		lock.once('error', (error: NodeJS.ErrnoException) => {
			if (error.code === 'EADDRINUSE') resolve(undefined);
			else reject(error);
		});
		lock.listen({ path: `\0cvm-devsev-${process.getuid?.()}-${dev}-${ino}` }, () => resolve(lock));
	});
}
