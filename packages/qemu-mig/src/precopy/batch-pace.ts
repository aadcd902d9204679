/** Longest a batch should take, in ms; beyond it batches become smaller, to this many pages. */
const BATCH_TIME = 2;
const SMALLEST_BATCH = 8;

/** How many pages to seal at once, so that a batch does not keep others waiting. */
export class BatchPace {
	limit: number;
	readonly #most: number;
	readonly #least: number;

	/** Begins with batches of `most` pages. */
	constructor(most: number) {
		this.#most = most;
		this.#least = Math.min(most, SMALLEST_BATCH);
		this.limit = most;
	}

	/** A batch took so many milliseconds. */
	took(elapsed: number): void {
		if (elapsed > BATCH_TIME) this.limit = Math.max(this.#least, this.limit >> 1);
		else if (elapsed < BATCH_TIME / 3) this.limit = Math.min(this.#most, this.limit << 1);
	}
}
