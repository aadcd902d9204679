import type { Socket } from 'node:net';

/** Takes a socket's bytes in pieces of a wanted length. */
export interface ByteReader {
	/** `undefined` if the connection ends before that many bytes came. One call at a time. */
	read(length: number): Promise<Buffer | undefined>;
}

/** Reads from a socket that nobody else reads from. */
export function createByteReader(socket: Socket): ByteReader {
	let buffered = Buffer.alloc(0);
	let ended = false;
	let wake: (() => void) | undefined;
	const notify = () => {
		wake?.();
		wake = undefined;
	};
	socket.on('data', (data: Buffer) => {
		buffered = Buffer.concat([buffered, data]);
		// Nobody sends ahead by much, except to fill our memory.
		if (buffered.length > READ_AHEAD) socket.pause();
		notify();
	});
	const end = () => {
		ended = true;
		notify();
	};
	socket.on('end', end);
	socket.on('close', end);
	return {
		read: async (length) => {
			while (buffered.length < length) {
				if (ended) return undefined;
				socket.resume();
				await new Promise<void>((resolve) => {
					wake = resolve;
				});
			}
			const piece = buffered.subarray(0, length);
			buffered = buffered.subarray(length);
			return piece;
		},
	};
}

const READ_AHEAD = 256 * 1024;
