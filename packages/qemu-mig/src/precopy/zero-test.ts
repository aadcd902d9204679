/** Tells whether pages are all zero, a word at a time; keeps one word view of the memory that pages lie in. */
export class ZeroTest {
	#buffer: ArrayBufferLike | undefined;
	#words: Int32Array = new Int32Array(0);

	isZero(page: Uint8Array): boolean {
		if (page.byteOffset % 4 !== 0 || page.length % 32 !== 0) return page.every((byte) => byte === 0);
		if (page.buffer !== this.#buffer) {
			this.#buffer = page.buffer;
			this.#words = new Int32Array(page.buffer, 0, Math.floor(page.buffer.byteLength / 4));
		}
		const words = this.#words;
		const end = (page.byteOffset + page.length) / 4;
		for (let i = page.byteOffset / 4; i < end; i += 8) {
			const any =
				(words[i] ?? 0) |
				(words[i + 1] ?? 0) |
				(words[i + 2] ?? 0) |
				(words[i + 3] ?? 0) |
				(words[i + 4] ?? 0) |
				(words[i + 5] ?? 0) |
				(words[i + 6] ?? 0) |
				(words[i + 7] ?? 0);
			if (any !== 0) return false;
		}
		return true;
	}
}
