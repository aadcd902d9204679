import type { FieldDescription, StateDescription, VmDescription } from './description.js';
import { MAX_STATE_DEPTH } from './description.js';
import { DescriptionError } from './error.js';

/** How long the bodies of a stream's FULL sections are. */
export interface DeviceLengths {
	/**
	 * Bytes of a body; undefined for a section that is not described, or twice with different lengths. It fits
	 * `ReaderOptions.deviceLength`.
	 */
	of(idstr: string, instanceId: number): number | undefined;
	/** All of them, in stream order. */
	readonly entries: readonly { readonly idstr: string; readonly instanceId: number; readonly length: number }[];
}

/**
 * The exact length of every body that a description tells of, so that a reader need not look for footers.
 *
 * @throws DescriptionError when a length exceeds what a number holds exactly
 */
export function deviceLengths(description: VmDescription): DeviceLengths {
	const entries = description.devices.map((device) => ({
		idstr: device.idstr,
		instanceId: device.instanceId >>> 0,
		length: exact(device.kind === 'state' ? stateLength(device.state, 0) : device.size),
	}));
	const byKey = new Map<string, number | undefined>();
	for (const { idstr, instanceId, length } of entries) {
		const key = keyOf(idstr, instanceId);
		byKey.set(key, byKey.has(key) && byKey.get(key) !== length ? undefined : length);
	}
	return { entries, of: (idstr, instanceId) => byKey.get(keyOf(idstr, instanceId)) };
}

const keyOf = (idstr: string, instanceId: number): string => `${instanceId >>> 0} ${idstr}`;

function exact(length: number): number {
	if (Number.isSafeInteger(length)) return length;
	throw new DescriptionError('too-large', 0, `expected a body below 2^53 bytes, got ${length}`);
}

/** Fields, then each subsection: mark, length of the name, name, be32 version, state. */
function stateLength(state: StateDescription, depth: number): number {
	if (depth > MAX_STATE_DEPTH) {
		throw new DescriptionError('too-deep', 0, `expected at most ${MAX_STATE_DEPTH} nested states, got more`);
	}
	let length = 0;
	for (const field of state.fields) length += fieldLength(field);
	for (const subsection of state.subsections) {
		length += 1 + 1 + subsection.vmsdName.length + 4 + stateLength(subsection, depth + 1);
	}
	return length;
}

const fieldLength = ({ size, arrayLength = 1 }: FieldDescription): number => size * arrayLength;
