import { plural } from './text.js';

/** 'CVMH', little-endian: begins the headers and messages of the hardened migration helper (`@cvm/ovmf-mh`). */
const MAGIC = 0x484d5643;
/** Of its record header: bytes before the page list, and the fields told here. */
const RECORD = { bytes: 72, epoch: 0x18, stream: 0x20, count: 0x22 } as const;
const TYPE = 0x06;
const MESSAGES: Readonly<Record<number, string>> = {
	16: 'HELLO',
	17: 'ACCEPT',
	18: 'CONFIRM',
	19: 'EPOCH',
	20: 'MANIFEST',
	21: 'READY',
	22: 'START',
	23: 'RUNNING',
	24: 'ABORT',
};

const viewOf = (data: Uint8Array): DataView => new DataView(data.buffer, data.byteOffset, data.byteLength);

/** What a message between in-guest helpers is, as far as its head tells. Nobody without their keys knows whether that is true. */
export function messageText(data: Uint8Array): string {
	const known = data.length > TYPE && viewOf(data).getUint32(0, true) === MAGIC;
	const name = known ? MESSAGES[data[TYPE] ?? 0] : undefined;
	return name === undefined ? `${data.length} bytes` : `${name}, ${data.length} bytes`;
}

/** Counts what the headers of helper pages say, where they are those of the hardened helper. */
export class HelperRecords {
	#batches = 0;
	#pages = 0;
	#messages = 0;
	#first = Number.POSITIVE_INFINITY;
	#last = 0;
	readonly #streams = new Set<number>();

	page(header: Uint8Array): void {
		if (header.length < RECORD.bytes) return;
		const view = viewOf(header);
		if (view.getUint32(0, true) !== MAGIC) return;
		const epoch = view.getUint32(RECORD.epoch, true);
		this.#batches++;
		this.#pages += view.getUint16(RECORD.count, true);
		this.#first = Math.min(this.#first, epoch);
		this.#last = Math.max(this.#last, epoch);
		this.#streams.add(view.getUint16(RECORD.stream, true));
	}

	message(): void {
		this.#messages++;
	}

	/** One line; undefined if there is nothing to tell. */
	get line(): string | undefined {
		const parts: string[] = [];
		if (this.#messages > 0) parts.push(plural(this.#messages, 'message'));
		if (this.#batches > 0) {
			const pages = `${plural(this.#batches, 'sealed record')} for ${plural(this.#pages, 'page')}`;
			const epochs = this.#first === this.#last ? `epoch ${this.#first}` : `epochs ${this.#first} to ${this.#last}`;
			parts.push(`${pages} in ${plural(this.#streams.size, 'stream')}, ${epochs}`);
		}
		return parts.length === 0 ? undefined : parts.join('; ');
	}
}
