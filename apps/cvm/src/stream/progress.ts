import { SingleBar } from 'cli-progress';

const MIB = 2 ** 20;
/** Shorter files are read before a person looks. */
const LONG = 64 * MIB;
/** Bytes between two looks at the clock. */
const STEP = 8 * MIB;
/** Milliseconds between two pictures. */
const PERIOD = 100;

/** How far a long file has been read, on a terminal; nothing anywhere else. */
export class Progress {
	readonly #size: number | undefined;
	readonly #begin = Date.now();
	#readers: number;
	#bytes = 0;
	#looked = 0;
	#shown = 0;
	#bar: SingleBar | undefined;

	/** @param size bytes of all inputs, if known; @param readers how many inputs there are */
	constructor(size: number | undefined, readers = 1) {
		this.#size = size;
		this.#readers = readers;
	}

	add(bytes: number): void {
		this.#bytes += bytes;
		if (this.#bytes - this.#looked < STEP || process.stderr.isTTY !== true) return;
		this.#looked = this.#bytes;
		const now = Date.now();
		if ((this.#size ?? this.#bytes) < LONG || now - this.#shown < PERIOD) return;
		this.#shown = now;
		this.#bar ??= this.#start();
		const seconds = Math.max(0.001, (now - this.#begin) / 1000);
		this.#bar.update(this.#bytes, {
			read: `${Math.floor(this.#bytes / MIB)} MiB`,
			rate: `${Math.floor(this.#bytes / MIB / seconds)} MiB/s`,
		});
		// Reading seldom lets timers run.
		this.#bar.render();
	}

	/** An input has ended. */
	stop(): void {
		this.#readers--;
		if (this.#readers === 0) this.#bar?.stop();
	}

	#start(): SingleBar {
		const known = this.#size !== undefined;
		const bar = new SingleBar({
			format: known ? '  {bar} {percentage}%  {rate}  ETA {eta_formatted}' : '  {read}  {rate}',
			stream: process.stderr,
			hideCursor: true,
			clearOnComplete: true,
			barsize: 24,
		});
		bar.start(this.#size ?? 1, 0, { rate: '?', read: '?' });
		return bar;
	}
}
