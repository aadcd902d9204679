import { MessageType, messageHeader, recordHeader, WIRE_MAGIC } from '@cvm/ovmf-mh/session';
import { plural } from './text.js';

/** What stands where in a record's header. Other fields are not looked at: a stream may hold anything. */
const Field = {
	epoch: recordHeader.offsetOf('epoch'),
	stream: recordHeader.offsetOf('stream'),
	count: recordHeader.offsetOf('count'),
} as const;
const TYPE = messageHeader.offsetOf('type');
const NAMES = new Map<number, string>(Object.entries(MessageType).map(([name, type]) => [type, name.toUpperCase()]));

const viewOf = (data: Uint8Array): DataView => new DataView(data.buffer, data.byteOffset, data.byteLength);

/** What a message between in-guest helpers is, as far as its head tells. Nobody without their keys knows whether that is true. */
export function messageText(data: Uint8Array): string {
	const view = viewOf(data);
	const known = data.length > TYPE && view.getUint32(0, true) === WIRE_MAGIC;
	const name = known ? NAMES.get(view.getUint8(TYPE)) : undefined;
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
		if (header.length < recordHeader.size) return;
		const view = viewOf(header);
		if (view.getUint32(0, true) !== WIRE_MAGIC) return;
		const epoch = view.getUint32(Field.epoch, true);
		this.#batches++;
		this.#pages += view.getUint16(Field.count, true);
		this.#first = Math.min(this.#first, epoch);
		this.#last = Math.max(this.#last, epoch);
		this.#streams.add(view.getUint16(Field.stream, true));
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
