import { PAGE_SIZE } from '@cvm/layout';
import { MAX_HELPERS } from '../geometry.js';
import { HelperStatus } from '../mailbox/abi.js';
import { GROUP_FRAMES } from './frames.js';
import { DONE, type Handler, MORE, refuse, type SessionContext } from './outcome.js';
import { DIGEST_DONE } from './state.js';

const LABEL = Uint8Array.from('cvm-mh memory', (c) => c.charCodeAt(0));
/** Groups without a private frame that one slice passes over. */
const MAX_EMPTY = 256;
/** Pages that are fetched at a time. */
const CHUNK = 16;

const numbers = new Uint32Array(GROUP_FRAMES);
const chunk = new Uint8Array(CHUNK * PAGE_SIZE);

const le32 = (...values: number[]): Uint8Array => {
	const out = new Uint8Array(4 * values.length);
	const view = new DataView(out.buffer);
	for (const [i, value] of values.entries()) view.setUint32(4 * i, value, true);
	return out;
};

/** The digest of every stream begins anew, at its first group, bound to the session. */
export function beginDigests({ memory, provider, state, stream }: SessionContext): void {
	for (let i = 0; i < state.num('streams'); i++) {
		stream.load(memory, i);
		stream.digestGroup = i;
		stream.digest.set(provider.digest('sha256', LABEL, state.bytes('sessionId'), le32(i)));
		stream.store(memory, i);
	}
}

/**
 * `digest`: one group of the stream's frames. d' = SHA-256(d ‖ u32 frame numbers ‖ their pages), little-endian, over the group's private
 * frames in ascending order; groups without any are left out. A chain, since a running hash cannot be stored in guest memory.
 */
export const digest: Handler = (context, { stream: index }) => {
	const { memory, provider, state, frames, stream } = context;
	const streams = state.num('streams');
	if (index >= streams) return refuse(HelperStatus.stream);
	stream.load(memory, index);
	if (stream.digestGroup === DIGEST_DONE) return DONE;
	const end = frames.groupEnd;
	let group = stream.digestGroup;
	let count = 0;
	for (let empty = 0; group < end && empty < MAX_EMPTY; group += streams, empty++) {
		count = frames.privateFrames(group, numbers);
		if (count > 0) break;
	}
	if (count > 0) {
		const hash = provider.hash('sha256');
		hash.update(stream.digest);
		hash.update(le32(...numbers.subarray(0, count)));
		for (let from = 0; from < count; ) from = hashRun(context, hash, from, count);
		stream.digest.set(hash.digest());
		group += streams;
	}
	stream.digestGroup = group < end ? group : DIGEST_DONE;
	stream.store(memory, index);
	return group < end ? MORE : DONE;
};

/** Feeds the pages from `numbers[from]` on that lie side by side, up to a chunk. @returns the first index that is left */
function hashRun(
	{ memory }: SessionContext,
	hash: { update(data: Uint8Array): void },
	from: number,
	count: number,
): number {
	const first = numbers[from] ?? 0;
	let pages = 1;
	while (pages < CHUNK && from + pages < count && numbers[from + pages] === first + pages) pages++;
	const data = chunk.subarray(0, pages * PAGE_SIZE);
	memory.read(first * PAGE_SIZE, data);
	hash.update(data);
	data.fill(0);
	return from + pages;
}

/** The digests of all streams behind one another, zeros for those not in use; `undefined` while one is missing. */
export function collectDigests({ memory, state, stream }: SessionContext): Uint8Array | undefined {
	const out = new Uint8Array(MAX_HELPERS * 32);
	for (let i = 0; i < state.num('streams'); i++) {
		stream.load(memory, i);
		if (stream.digestGroup !== DIGEST_DONE) return undefined;
		out.set(stream.digest, 32 * i);
	}
	return out;
}

/** Records of each stream, as {@link epochBody} and {@link manifestBody} have them. */
export function collectTotals({ memory, state, stream }: SessionContext): Uint8Array {
	const totals: number[] = [];
	for (let i = 0; i < MAX_HELPERS; i++) {
		stream.load(memory, i);
		totals.push(i < state.num('streams') ? stream.records : 0);
	}
	return le32(...totals);
}

const pages = new Uint32Array(GROUP_FRAMES);
const ZERO_PAGE = new Uint8Array(PAGE_SIZE);
/** Groups that one slice looks at, at most. */
const WIPE_GROUPS = 256;

/** Overwrites the guest's private memory with zeros, one group with private frames at a time. @returns whether more is left */
export function wipeSlice({ memory, state, frames }: SessionContext): boolean {
	const end = frames.groupEnd;
	let group = state.num('wipeGroup');
	for (let i = 0; group < end && i < WIPE_GROUPS; i++) {
		const count = frames.privateFrames(group++, pages);
		for (let at = 0; at < count; at++) memory.write((pages[at] ?? 0) * PAGE_SIZE, ZERO_PAGE);
		if (count > 0) break;
	}
	state.setNum('wipeGroup', group);
	return group < end;
}
