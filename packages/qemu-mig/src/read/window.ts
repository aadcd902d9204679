const EMPTY = new Uint8Array(0);

/**
 * The unread input, contiguous: `bytes[at..end)`. It is the chunk itself while that suffices, so that whole pages are
 * never copied; what straddles chunks is gathered in a buffer that grows only as bytes really arrive.
 */
export class ByteWindow {
	bytes: Uint8Array = EMPTY;
	view: DataView = new DataView(EMPTY.buffer);
	at = 0;
	end = 0;
	/** Stream offset of `bytes[0]`. */
	#base = 0;
	#gathered: Uint8Array = new Uint8Array(8192);
	#gathering = false;
	#chunk: Uint8Array = EMPTY;
	#chunkAt = 0;

	/** Stream offset of the next unread byte. */
	get offset(): number {
		return this.#base + this.at;
	}

	/** Offers a chunk; it must be taken up by `pull` calls, until one returns false, before the caller may reuse it. */
	feed(chunk: Uint8Array): void {
		// A plain view: subarrays of a Buffer would be Buffers.
		this.#chunk = new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
		this.#chunkAt = 0;
	}

	/** Extends the window to at least `wanted` unread bytes if the chunk has them, or by all it has. False: nothing left. */
	pull(wanted: number): boolean {
		const left = this.#chunk.length - this.#chunkAt;
		if (left === 0) {
			if (!this.#gathering && this.at < this.end) this.#keepRest();
			return false;
		}
		if (this.at === this.end) {
			this.#look(this.#chunk, this.#chunkAt, this.#chunk.length, this.offset - this.#chunkAt, false);
			this.#chunkAt = this.#chunk.length;
			return true;
		}
		const take = Math.min(left, Math.max(0, wanted - (this.end - this.at)));
		this.#reserve(take);
		this.bytes.set(this.#chunk.subarray(this.#chunkAt, this.#chunkAt + take), this.end);
		this.end += take;
		this.#chunkAt += take;
		return true;
	}

	/** The next four bytes, big-endian, as a reader sees them that takes missing ones for zero. */
	paddedU32(): number {
		let value = 0;
		for (let i = 0; i < 4; i++) value = value * 256 + (this.at + i < this.end ? this.view.getUint8(this.at + i) : 0);
		return value;
	}

	/** The chunk is about to go away: its unread rest moves to the gathering buffer. */
	#keepRest(): void {
		const rest = this.bytes.subarray(this.at, this.end);
		if (this.#gathered.length < rest.length) this.#gathered = new Uint8Array(rest.length * 2);
		this.#gathered.set(rest);
		this.#look(this.#gathered, 0, rest.length, this.offset, true);
	}

	#reserve(more: number): void {
		if (this.end + more <= this.bytes.length) return;
		const unread = this.end - this.at;
		const offset = this.offset;
		if (unread + more > this.bytes.length) {
			const grown = new Uint8Array(Math.max(this.bytes.length * 2, unread + more));
			grown.set(this.bytes.subarray(this.at, this.end));
			this.#gathered = grown;
		} else this.bytes.copyWithin(0, this.at, this.end);
		this.#look(this.#gathered, 0, unread, offset, true);
	}

	#look(bytes: Uint8Array, at: number, end: number, base: number, gathering: boolean): void {
		this.bytes = bytes;
		this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
		this.at = at;
		this.end = end;
		this.#base = base;
		this.#gathering = gathering;
	}
}
