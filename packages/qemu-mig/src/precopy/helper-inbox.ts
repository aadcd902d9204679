/** Messages that a target may send before anybody asks for them. */
const MOST = 64;

/** Messages of the target's in-guest helper, until the source's takes them. */
export class HelperInbox {
	readonly #messages: Uint8Array[] = [];
	#waiting: { resolve(message: Uint8Array): void; reject(reason: Error): void } | undefined;
	#ended: Error | undefined;

	get empty(): boolean {
		return this.#messages.length === 0;
	}

	/** Takes a message over. @returns what is wrong with it */
	push(message: Uint8Array): string | undefined {
		const waiting = this.#waiting;
		this.#waiting = undefined;
		if (waiting !== undefined) waiting.resolve(message);
		else if (this.#messages.length === MOST) return `more than ${MOST} messages of the helper that nobody asked for`;
		else this.#messages.push(message);
		return undefined;
	}

	/** No more come; those that have come can still be received. The first reason stays. */
	end(reason: Error): void {
		this.#ended ??= reason;
		this.#waiting?.reject(this.#ended);
		this.#waiting = undefined;
	}

	/** @throws the reason once no more come; RangeError if somebody waits already */
	receive(): Promise<Uint8Array> {
		const message = this.#messages.shift();
		if (message !== undefined) return Promise.resolve(message);
		if (this.#ended !== undefined) return Promise.reject(this.#ended);
		if (this.#waiting !== undefined) return Promise.reject(new RangeError('receive: expected one call at a time'));
		return new Promise((resolve, reject) => {
			this.#waiting = { resolve, reject };
		});
	}
}
