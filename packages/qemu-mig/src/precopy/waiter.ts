/**
 * Waits that can be cut short. One wait at a time; nothing accumulates, however many waits a long migration has, and a
 * promise that is left behind can reject without anybody noticing.
 */
export class Waiter {
	#reject: ((reason: Error) => void) | undefined;
	#reason: Error | undefined;

	/** Ends the present wait and every later one. The first reason stays. */
	interrupt(reason: Error): void {
		this.#reason ??= reason;
		this.#reject?.(this.#reason);
	}

	/** @throws the reason, once interrupted */
	check(): void {
		if (this.#reason !== undefined) throw this.#reason;
	}

	/** The promise's outcome, unless interrupted before. @throws the reason */
	async wait<T>(promise: Promise<T>): Promise<T> {
		const outcome = new Promise<T>((resolve, reject) => {
			this.#reject = reject;
			promise.then(resolve, reject);
			if (this.#reason !== undefined) reject(this.#reason);
		});
		try {
			return await outcome;
		} finally {
			this.#reject = undefined;
			this.check();
		}
	}
}
