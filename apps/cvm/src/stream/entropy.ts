const LOG = new Float64Array(4097).map((_, count) => (count === 0 ? 0 : count * Math.log2(count)));
const histogram = new Uint16Array(256);

/** Shannon entropy of the bytes of a page, 0 to 8 bits each. */
export function bitsOfEntropy(page: Uint8Array): number {
	if (page.length === 0 || page.length > 4096) return 0;
	histogram.fill(0);
	for (let i = 0; i < page.length; i++) {
		const byte = page[i] as number;
		histogram[byte] = (histogram[byte] as number) + 1;
	}
	let sum = 0;
	for (let i = 0; i < 256; i++) sum += LOG[histogram[i] as number] as number;
	return Math.log2(page.length) - sum / page.length;
}
