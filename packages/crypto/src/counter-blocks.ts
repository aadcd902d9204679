const WORD = 2 ** 32;

/** The big-endian word at `at`. */
const be32 = (data: Uint8Array, at: number): number =>
	(((data[at] ?? 0) << 24) | ((data[at + 1] ?? 0) << 16) | ((data[at + 2] ?? 0) << 8) | (data[at + 3] ?? 0)) >>> 0;

/**
 * Writes `count` counter blocks from byte `at` of `view`: the 128-bit big-endian integer at `iv[ivAt..ivAt+16]` plus
 * `first`, `first` + 1, …, modulo 2^128 (NIST SP 800-38A Appendix B.1 with m = 128).
 */
export function fillCounterBlocks(
	view: DataView,
	at: number,
	iv: Uint8Array,
	ivAt: number,
	first: number,
	count: number,
): void {
	const low = be32(iv, ivAt + 12) + (first % WORD);
	const second = be32(iv, ivAt + 8) + Math.floor(first / WORD) + (low >= WORD ? 1 : 0);
	const third = be32(iv, ivAt + 4) + (second >= WORD ? 1 : 0);
	let w3 = low >>> 0;
	let w2 = second >>> 0;
	let w1 = third >>> 0;
	let w0 = (be32(iv, ivAt) + (third >= WORD ? 1 : 0)) >>> 0;
	for (let i = 0, to = at; i < count; i++, to += 16) {
		view.setUint32(to, w0, false);
		view.setUint32(to + 4, w1, false);
		view.setUint32(to + 8, w2, false);
		view.setUint32(to + 12, w3, false);
		w3 = (w3 + 1) >>> 0;
		if (w3 !== 0) continue;
		w2 = (w2 + 1) >>> 0;
		if (w2 !== 0) continue;
		w1 = (w1 + 1) >>> 0;
		if (w1 === 0) w0 = (w0 + 1) >>> 0;
	}
}
