import { wipe } from '@cvm/crypto';
import { PAGE_SIZE } from '@cvm/layout';
import { BATCH_PAGES } from '../geometry.js';
import { HelperStatus } from '../mailbox/abi.js';
import { recordKey } from './keys.js';
import type { SessionContext } from './outcome.js';
import type { SealResult } from './ports.js';
import {
	Capability,
	MAX_RECORD_HEADER,
	RECORD_SALT_BYTES,
	RecordOffset,
	RecordType,
	recordHeader,
	TAG_BYTES,
	WIRE_MAGIC,
} from './wire.js';

const UINT32_MAX = 0xffffffff;
const WORDS_PER_PAGE = PAGE_SIZE / 8;
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);
const TAG = { from: RecordOffset.tag, to: RecordOffset.tag + TAG_BYTES } as const;

/** Where an IV has what is in a record's header. */
export function recordIv(iv: Uint8Array, header: DataView): void {
	const view = new DataView(iv.buffer, iv.byteOffset, iv.byteLength);
	view.setUint32(0, header.getUint32(RecordOffset.ivCounter, true), true);
	view.setUint32(4, header.getUint32(RecordOffset.ivCounter + 4, true), true);
	view.setUint16(8, header.getUint16(RecordOffset.stream, true), true);
	view.setUint16(10, 0, true);
}

/** What begins every record of the session in `state`, with a salt of its own. The other fields are zeros. */
export function beginRecord(
	{ random, state }: SessionContext,
	view: DataView,
	header: Uint8Array,
	o: { type: number; counter: number; stream: number; count: number; ivCounter: number },
): void {
	header.fill(0, 0, recordHeader.size);
	view.setUint32(RecordOffset.magic, WIRE_MAGIC, true);
	view.setUint16(RecordOffset.version, state.num('version'), true);
	view.setUint8(RecordOffset.type, o.type);
	random.fill(saltOf(header));
	view.setUint32(RecordOffset.epoch, state.num('epoch'), true);
	view.setUint32(RecordOffset.counter, o.counter, true);
	view.setUint16(RecordOffset.stream, o.stream, true);
	view.setUint16(RecordOffset.count, o.count, true);
	view.setUint32(RecordOffset.ivCounter, o.ivCounter % 0x1_0000_0000, true);
	view.setUint32(RecordOffset.ivCounter + 4, Math.floor(o.ivCounter / 0x1_0000_0000), true);
}

/** The bytes of a record's header that make its key. */
export const saltOf = (header: Uint8Array): Uint8Array =>
	header.subarray(RecordOffset.salt, RecordOffset.salt + RECORD_SALT_BYTES);

/** Whether a record may be the next one of its stream; looks at all but salt, IV counter, list and tag. Its key is the session's. */
export function checkRecord(
	{ state }: SessionContext,
	view: DataView,
	header: Uint8Array,
	o: { type: number; counter: number; stream: number; count: number },
): HelperStatus {
	if (header.length !== recordHeader.size + 8 * o.count) return HelperStatus.length;
	if (view.getUint32(RecordOffset.magic, true) !== WIRE_MAGIC) return HelperStatus.length;
	if (view.getUint8(RecordOffset.type) !== o.type || view.getUint8(RecordOffset.pad0) !== 0) return HelperStatus.length;
	if (view.getUint32(RecordOffset.pad1, true) !== 0) return HelperStatus.length;
	if (view.getUint16(RecordOffset.count, true) !== o.count) return HelperStatus.length;
	if (view.getUint16(RecordOffset.version, true) !== state.num('version')) return HelperStatus.peer;
	if (view.getUint16(RecordOffset.stream, true) !== o.stream) return HelperStatus.stream;
	if (view.getUint32(RecordOffset.epoch, true) !== state.num('epoch')) return HelperStatus.order;
	if (view.getUint32(RecordOffset.counter, true) !== o.counter) return HelperStatus.order;
	return HelperStatus.success;
}

/** A refusal at an index of the list. */
interface Refusal {
	readonly status: HelperStatus;
	readonly detail: number;
}

const at = (status: HelperStatus, detail = 0): Refusal => ({ status, detail });
const OPENED: Refusal = at(HelperStatus.success);

/**
 * Seals and opens batches. The buffers of a batch are kept from one to the next, with nothing in them: pages are overwritten with zeros
 * at the end.
 */
export class RecordEngine {
	private readonly plain = new Uint8Array(BATCH_PAGES * PAGE_SIZE);
	private readonly words = new BigUint64Array(this.plain.buffer);
	private readonly iv = new Uint8Array(12);
	private readonly header = new Uint8Array(MAX_RECORD_HEADER);
	private readonly view = new DataView(this.header.buffer);
	private readonly zero = new Uint32Array(2);

	/** `save` in a phase that allows it, with the stream taken. */
	seal(
		context: SessionContext,
		stream: number,
		gpas: Float64Array,
		count: number,
		out: { readonly header: Uint8Array; readonly bodies: Uint8Array },
	): SealResult {
		const { memory, provider, state, frames, stream: counters } = context;
		const refused = this.admit(context, stream, gpas, count, true);
		if (refused.status !== HelperStatus.success) return { ...refused, headerLength: 0, bodies: 0 };
		counters.load(memory, stream);
		const { records, ivCounter } = counters;
		if (records >= UINT32_MAX) return { status: HelperStatus.limit, detail: 0, headerLength: 0, bodies: 0 };
		// Stored before it is used: whatever stops this batch, no other one gets the same IV.
		counters.ivCounter = ivCounter + 1;
		counters.store(memory, stream);
		const { header, view } = this;
		beginRecord(context, view, header, { type: RecordType.pages, counter: records, stream, count, ivCounter });
		this.putList(gpas, count);
		const leavesOutZeros = (state.num('capabilities') & Capability.zeroPages) !== 0;
		this.zero.fill(0);
		let bodies = 0;
		try {
			for (let i = 0; i < count; i++) {
				memory.read(gpas[i] ?? 0, this.plain.subarray(bodies * PAGE_SIZE, (bodies + 1) * PAGE_SIZE));
				if (leavesOutZeros && this.isZero(bodies)) this.zero[i >>> 5] = (this.zero[i >>> 5] ?? 0) | (1 << (i & 31));
				else bodies++;
			}
			view.setUint32(RecordOffset.zeroMapLow, this.zero[0] ?? 0, true);
			view.setUint32(RecordOffset.zeroMapHigh, this.zero[1] ?? 0, true);
			const headerLength = recordHeader.size + 8 * count;
			const bytes = bodies * PAGE_SIZE;
			recordIv(this.iv, view);
			const key = recordKey(provider, state.bytes('pageKey'), saltOf(header));
			provider.gcmSealInto(
				key,
				this.iv,
				header.subarray(0, headerLength),
				this.plain.subarray(0, bytes),
				out.bodies.subarray(0, bytes),
				header.subarray(TAG.from, TAG.to),
			);
			wipe(key);
			out.header.set(header.subarray(0, headerLength));
			frames.commit();
			counters.records = records + 1;
			counters.pages += count;
			counters.zeroPages += count - bodies;
			counters.store(memory, stream);
			return { status: HelperStatus.success, detail: 0, headerLength, bodies };
		} finally {
			this.plain.fill(0, 0, Math.min(bodies + 1, BATCH_PAGES) * PAGE_SIZE);
		}
	}

	/** `restore` in a phase that allows it, with the stream taken. */
	open(
		context: SessionContext,
		stream: number,
		gpas: Float64Array,
		count: number,
		header: Uint8Array,
		bodies: Uint8Array,
	): Refusal {
		const { memory, provider, state, frames, stream: counters } = context;
		if (!isCount(count, gpas)) return at(HelperStatus.length);
		counters.load(memory, stream);
		if (header.length !== recordHeader.size + 8 * count) return at(HelperStatus.length);
		this.header.set(header);
		const { view } = this;
		const own = this.header.subarray(0, header.length);
		const { records } = counters;
		const check = checkRecord(context, view, own, { type: RecordType.pages, counter: records, stream, count });
		if (check !== HelperStatus.success) return at(check);
		const ivCounter =
			view.getUint32(RecordOffset.ivCounter, true) + view.getUint32(RecordOffset.ivCounter + 4, true) * 0x1_0000_0000;
		// The source's counter stays far below 2^53; above, numbers would not be exact.
		if (ivCounter < counters.ivCounter || ivCounter > UINT32_MAX * 2) return at(HelperStatus.order);
		if (records >= UINT32_MAX) return at(HelperStatus.limit);
		const zeros = this.takeZeroMap(count, state.num('capabilities'));
		if (zeros === undefined) return at(HelperStatus.length);
		const bytes = (count - zeros) * PAGE_SIZE;
		if (bodies.length < bytes) return at(HelperStatus.length);
		for (let i = 0; i < count; i++) if (this.listed(i) !== gpas[i]) return at(HelperStatus.list, i);
		const refused = this.admit(context, stream, gpas, count, false);
		if (refused.status !== HelperStatus.success) return refused;
		recordIv(this.iv, view);
		const tag = own.slice(TAG.from, TAG.to);
		own.fill(0, TAG.from, TAG.to);
		const plain = this.plain.subarray(0, bytes);
		try {
			const key = recordKey(provider, state.bytes('pageKey'), saltOf(own));
			const isGenuine = provider.gcmOpenInto(key, this.iv, own, bodies.subarray(0, bytes), tag, plain);
			wipe(key);
			if (!isGenuine) return at(HelperStatus.authentication);
			for (let i = 0, body = 0; i < count; i++) {
				const isZero = ((this.zero[i >>> 5] ?? 0) & (1 << (i & 31))) !== 0;
				memory.write(gpas[i] ?? 0, isZero ? ZERO_PAGE : plain.subarray(body * PAGE_SIZE, (body + 1) * PAGE_SIZE));
				if (!isZero) body++;
			}
		} finally {
			plain.fill(0);
		}
		frames.commit();
		counters.records = records + 1;
		counters.ivCounter = ivCounter + 1;
		counters.pages += count;
		counters.zeroPages += zeros;
		counters.store(memory, stream);
		return OPENED;
	}

	/** Whether all pages of the list may be in a batch of this stream. */
	private admit(
		{ frames, state }: SessionContext,
		stream: number,
		gpas: Float64Array,
		count: number,
		checkShared: boolean,
	): Refusal {
		if (!isCount(count, gpas)) return at(HelperStatus.length);
		const streams = state.num('streams');
		frames.begin();
		for (let i = 0; i < count; i++) {
			const status = frames.admit(gpas[i] ?? -1, stream, streams, checkShared);
			if (status !== HelperStatus.success) return at(status, i);
		}
		return OPENED;
	}

	private putList(gpas: Float64Array, count: number): void {
		for (let i = 0; i < count; i++) {
			// Addresses that were admitted are below 2^32.
			this.view.setUint32(RecordOffset.list + 8 * i, gpas[i] ?? 0, true);
			this.view.setUint32(RecordOffset.list + 8 * i + 4, 0, true);
		}
	}

	private listed(i: number): number {
		const low = this.view.getUint32(RecordOffset.list + 8 * i, true);
		return low + this.view.getUint32(RecordOffset.list + 8 * i + 4, true) * 0x1_0000_0000;
	}

	/** Reads the zero map of the header at hand. @returns how many bits are set, or `undefined` if one may not be */
	private takeZeroMap(count: number, capabilities: number): number | undefined {
		this.zero[0] = this.view.getUint32(RecordOffset.zeroMapLow, true);
		this.zero[1] = this.view.getUint32(RecordOffset.zeroMapHigh, true);
		let zeros = 0;
		for (let i = 0; i < BATCH_PAGES; i++) {
			if (((this.zero[i >>> 5] ?? 0) & (1 << (i & 31))) === 0) continue;
			if (i >= count) return undefined;
			zeros++;
		}
		return zeros > 0 && (capabilities & Capability.zeroPages) === 0 ? undefined : zeros;
	}

	private isZero(page: number): boolean {
		const { words } = this;
		const end = (page + 1) * WORDS_PER_PAGE;
		for (let i = page * WORDS_PER_PAGE; i < end; i++) if (words[i] !== 0n) return false;
		return true;
	}
}

const isCount = (count: number, gpas: Float64Array): boolean =>
	Number.isInteger(count) && count >= 1 && count <= BATCH_PAGES && count <= gpas.length;
