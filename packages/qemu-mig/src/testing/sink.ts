import type { ByteSink } from '../ports.js';

/** A sink that keeps what it is given. */
export interface CollectingSink extends ByteSink {
	/** Everything written so far, in one array. */
	bytes(): Uint8Array;
	readonly length: number;
	/** With `manual`: lets the oldest pending write resolve; false if none is pending. */
	release(): boolean;
	/** Makes every pending and later write fail. */
	fail(error: Error): void;
	readonly pending: number;
}

/**
 * A {@link CollectingSink}. With `manual`, every write stays pending until `release`, and its bytes are only read then:
 * a writer that reuses a buffer too early is noticed.
 */
export function createCollectingSink(o: { manual?: boolean } = {}): CollectingSink {
	const chunks: Uint8Array[] = [];
	const waiting: { take: () => void; reject: (error: Error) => void }[] = [];
	let length = 0;
	let failure: Error | undefined;
	const keep = (chunk: Uint8Array): void => {
		chunks.push(chunk.slice());
		length += chunk.length;
	};
	return {
		get length() {
			return length;
		},
		get pending() {
			return waiting.length;
		},
		write(chunk) {
			if (failure !== undefined) throw failure;
			if (o.manual !== true) return keep(chunk);
			return new Promise<void>((resolve, reject) => {
				const take = (): void => {
					keep(chunk);
					resolve();
				};
				waiting.push({ take, reject });
			});
		},
		release() {
			const next = waiting.shift();
			next?.take();
			return next !== undefined;
		},
		fail(error) {
			failure = error;
			for (const { reject } of waiting.splice(0)) reject(error);
		},
		bytes() {
			const out = new Uint8Array(length);
			let at = 0;
			for (const chunk of chunks) {
				out.set(chunk, at);
				at += chunk.length;
			}
			return out;
		},
	};
}
