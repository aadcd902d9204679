import { constantTimeEqual } from '@cvm/crypto';
import { HelperPhase, HelperStatus } from '../mailbox/abi.js';
import { beginDigests, collectDigests, collectTotals } from './digest.js';
import { decoded, openMessage, sealMessage } from './message.js';
import { answer, DONE, type Handler, refuse, type SessionContext } from './outcome.js';
import { areVcpusAtRest } from './rounds.js';
import { MAX_SHARED_RANGES, MessageType, manifestBody, sharedRange } from './wire.js';

const RANGE_BYTES = sharedRange.size;
const FULL = 0xff;

/** The runs of set bits of a map as they stand in a manifest, or `undefined` if they are too many. */
export function sharedRanges(map: Uint8Array): Uint8Array | undefined {
	const out = new Uint8Array(MAX_SHARED_RANGES * RANGE_BYTES);
	const view = new DataView(out.buffer);
	const frames = map.length * 8;
	let count = 0;
	for (let at = 0; at < frames; ) {
		if (at % 8 === 0 && map[at / 8] === 0) {
			at += 8;
			continue;
		}
		const first = at;
		while (at < frames && isSet(map, at)) at += at % 8 === 0 && map[at / 8] === FULL ? 8 : 1;
		if (at === first) {
			at++;
			continue;
		}
		if (count === MAX_SHARED_RANGES) return undefined;
		view.setUint32(count * RANGE_BYTES, first, true);
		view.setUint32(count * RANGE_BYTES + 4, at - first, true);
		count++;
	}
	return out.slice(0, count * RANGE_BYTES);
}

const isSet = (map: Uint8Array, frame: number): boolean => ((map[frame >>> 3] ?? 0) & (1 << (frame & 7))) !== 0;

/** The map of `bytes` bytes that {@link sharedRanges} told of, or `undefined` if it would not say it so. */
export function mapOfRanges(ranges: Uint8Array, bytes: number): Uint8Array | undefined {
	const map = new Uint8Array(bytes);
	const view = new DataView(ranges.buffer, ranges.byteOffset, ranges.byteLength);
	let free = 0;
	for (let at = 0; at < ranges.length; at += RANGE_BYTES) {
		const first = view.getUint32(at, true);
		const frames = view.getUint32(at + 4, true);
		// Two runs side by side are one: a frame between them is private.
		if (frames === 0 || first < free || first + frames > bytes * 8) return undefined;
		free = first + frames + 1;
		for (let frame = first; frame < first + frames; ) {
			if (frame % 8 === 0 && first + frames - frame >= 8) {
				map[frame / 8] = FULL;
				frame += 8;
			} else {
				map[frame >>> 3] = (map[frame >>> 3] ?? 0) | (1 << (frame & 7));
				frame++;
			}
		}
	}
	return map;
}

/** `manifest`: what the target has to have. */
export const manifest: Handler = (context) => {
	const { provider, state, frames, saveAreas } = context;
	const digests = collectDigests(context);
	if (digests === undefined || state.num('vcpuRecords') !== saveAreas.length) return refuse(HelperStatus.incomplete);
	const isSaved = constantTimeEqual(state.bytes('vcpuDigest'), state.bytes('frozenVcpus'));
	if (!isSaved || !areVcpusAtRest(context)) return refuse(HelperStatus.incomplete);
	const ranges = sharedRanges(frames.readShared());
	if (ranges === undefined) return refuse(HelperStatus.limit);
	const body = new Uint8Array(manifestBody.size + ranges.length);
	manifestBody.encodeInto(body, {
		...{ streams: state.num('streams'), vcpus: saveAreas.length, ranges: ranges.length / RANGE_BYTES },
		...{ totals: collectTotals(context), vcpuDigest: state.bytes('vcpuDigest'), digests },
	});
	body.set(ranges, manifestBody.size);
	const message = sealMessage(provider, state, MessageType.manifest, { body });
	state.bytes('answers').set(provider.digest('sha256', message));
	return answer(message);
};

/** `verify`: first MANIFEST, then, with all digests made, the comparison. */
export const verify: Handler = (context, request) =>
	context.state.num('phase') === HelperPhase.proving ? compare(context, request) : takeManifest(context, request);

const takeManifest: Handler = (context, { input }) => {
	const { provider, state, frames, saveAreas } = context;
	const opened = openMessage(provider, state, MessageType.manifest, input, state.num('epoch'));
	if (opened.status !== HelperStatus.success) return opened;
	const body = decoded(() => manifestBody.decodePrefix(opened.body));
	if (body === undefined || body.ranges > MAX_SHARED_RANGES) return refuse(HelperStatus.length);
	if (opened.body.length !== manifestBody.size + body.ranges * RANGE_BYTES) return refuse(HelperStatus.length);
	const bytes = frames.readShared().length;
	const map = mapOfRanges(opened.body.subarray(manifestBody.size), bytes);
	if (map === undefined) return refuse(HelperStatus.length);
	const isComplete =
		body.streams === state.num('streams') &&
		body.vcpus === saveAreas.length &&
		state.num('vcpuRecords') === saveAreas.length &&
		constantTimeEqual(body.totals, collectTotals(context)) &&
		constantTimeEqual(body.vcpuDigest, state.bytes('vcpuDigest'));
	if (!isComplete) return refuse(HelperStatus.incomplete);
	frames.writeShared(map);
	state.bytes('expected').set(body.digests);
	state.bytes('answers').set(provider.digest('sha256', input));
	beginDigests(context);
	return DONE;
};

function compare(context: SessionContext, { input }: { readonly input: Uint8Array }) {
	const { provider, state } = context;
	const isSame = input.length === 0 || constantTimeEqual(provider.digest('sha256', input), state.bytes('answers'));
	if (!isSame) return refuse(HelperStatus.order);
	const digests = collectDigests(context);
	if (digests === undefined) return refuse(HelperStatus.phase);
	if (!constantTimeEqual(digests, state.bytes('expected'))) return refuse(HelperStatus.incomplete);
	const message = sealMessage(provider, state, MessageType.ready, { answers: state.bytes('answers') });
	state.bytes('answers').set(provider.digest('sha256', message));
	return answer(message);
}
