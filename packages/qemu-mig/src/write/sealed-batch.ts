import { PAGE_SIZE } from '@cvm/layout';
import { EncryptedSubtype, RamFlag } from '../abi/stream.js';
import type { RecordLayout } from '../ports.js';

/** Word and subtype, before the header length. */
const LEAD = 12;

/**
 * A run of encrypted-page records under construction: every record CONTINUEs and has the same stride, so that a sealer
 * writes headers and payloads straight into stream bytes.
 *
 * ```text
 * be64 address|0x220   be32 1   be32 header length   header   be32 4096   payload
 * ```
 *
 * A first record that must name its block has its own lead, written before the batch; {@link wire} then begins after
 * the built-in one.
 */
export class SealedBatch {
	readonly bytes: Uint8Array;
	/** Where the sealer writes. */
	readonly layout: RecordLayout;
	/** Page numbers of the records, `count` of them valid. */
	readonly pages: Uint32Array;
	count = 0;
	readonly #view: DataView;

	/** Bytes of one record. With the firmware's 52-byte header: 4168. */
	static stride(headerLength: number): number {
		return LEAD + 4 + headerLength + 4 + PAGE_SIZE;
	}

	/** Prepares `bytes` for `capacity` records; only addresses, headers and payloads change afterwards. */
	constructor(bytes: Uint8Array, headerLength: number, capacity: number) {
		const stride = SealedBatch.stride(headerLength);
		if (bytes.length < stride * capacity) {
			throw new RangeError(`batch buffer: expected ${stride * capacity} bytes, got ${bytes.length}`);
		}
		this.bytes = bytes;
		this.layout = { header: LEAD + 4, payload: LEAD + 4 + headerLength + 4, stride };
		this.pages = new Uint32Array(capacity);
		this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
		for (let i = 0; i < capacity; i++) {
			this.#view.setUint32(i * stride + 8, EncryptedSubtype.page);
			this.#view.setUint32(i * stride + LEAD, headerLength);
			this.#view.setUint32(i * stride + LEAD + 4 + headerLength, PAGE_SIZE);
		}
	}

	/** Adds a page; the caller keeps `count` within the capacity. */
	add(page: number): void {
		const at = this.count * this.layout.stride;
		// page * 4096 = page << 12, split over two words.
		this.#view.setUint32(at, page >>> 20);
		this.#view.setUint32(at + 4, (page << 12) | RamFlag.encryptedData | RamFlag.continue);
		this.pages[this.count++] = page;
	}

	/** The stream bytes of the records, without the lead of the first if that is written apart. */
	wire(withoutLead: boolean): Uint8Array {
		return this.bytes.subarray(withoutLead ? LEAD : 0, this.count * this.layout.stride);
	}
}
