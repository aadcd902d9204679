/** Bytes of a save area that its checksum covers. */
const SUMMED = 0xfc0;
const STREAMS = 3;
const WORD = 8;
/** CRC-32C (Castagnoli), reflected. */
const POLYNOMIAL = 0x82f63b78;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
	let value = byte;
	for (let bit = 0; bit < 8; bit++) value = (value & 1) !== 0 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
	return value;
});

const step = (crc: number, byte: number): number => (crc >>> 8) ^ (TABLE[(crc ^ byte) & 0xff] ?? 0);

/** CRC-32C with initial value and final XOR of all ones, as in RFC 3720. */
export function crc32c(data: Uint8Array): number {
	let crc = 0xffffffff;
	for (const byte of data) crc = step(crc, byte);
	return (crc ^ 0xffffffff) >>> 0;
}

/**
 * The checksum that the firmware keeps of a save area, 64 bits over the bytes 0x000 … 0xFBF: 8-byte words are dealt to
 * three streams in turn. Low half: the CRC-32C of the streams' CRC-32Cs, little-endian; high half: their XOR.
 *
 * It is what firmware 1.55.25 computes. No secret is in it: it is safe only where nobody else writes.
 */
export function vmsaChecksum(saveArea: Uint8Array): bigint {
	const crcs = new Uint32Array(STREAMS).fill(0xffffffff);
	for (let i = 0; i < SUMMED; i++) {
		const stream = Math.floor(i / WORD) % STREAMS;
		crcs[stream] = step(crcs[stream] ?? 0, saveArea[i] ?? 0);
	}
	const sums = new Uint8Array(4 * STREAMS);
	const view = new DataView(sums.buffer);
	let high = 0;
	for (const [stream, crc] of crcs.entries()) {
		view.setUint32(4 * stream, ~crc >>> 0, true);
		high ^= ~crc;
	}
	return (BigInt(high >>> 0) << 32n) | BigInt(crc32c(sums));
}
