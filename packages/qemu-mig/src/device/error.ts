import { oneLine } from '../latin1.js';

/**
 * - `syntax`: not JSON, or not pure ASCII
 * - `shape`: JSON, but not a description: a member is missing, repeated or of the wrong type
 * - `too-large`, `too-deep`: a cap was exceeded; nothing was allocated for it
 */
export type DescriptionErrorCode = 'syntax' | 'shape' | 'too-large' | 'too-deep';

/** A VMDESCRIPTION cannot be understood, or cannot be written. Recognise it by `name` and `code`. */
export class DescriptionError extends Error {
	override readonly name = 'DescriptionError';
	readonly code: DescriptionErrorCode;
	/** Byte of the JSON text; 0 when there is no text yet. */
	readonly offset: number;

	constructor(code: DescriptionErrorCode, offset: number, message: string) {
		super(oneLine(`VMDESCRIPTION at ${offset}: ${message}`));
		this.code = code;
		this.offset = offset;
	}
}

/**
 * - `truncated`: the body ends inside a field
 * - `trailing`: the body goes on after all that is described
 * - `subsection`: another subsection, or none, where one is described
 * - `size`: a field took another number of bytes than described
 * - `value`: a byte that must have one value has another
 * - `version`: the section's version is not the description's
 * - `too-large`, `too-deep`: a cap was exceeded
 */
export type DeviceStateErrorCode =
	| 'truncated'
	| 'trailing'
	| 'subsection'
	| 'size'
	| 'value'
	| 'version'
	| 'too-large'
	| 'too-deep';

/** What {@link DeviceStateError} reports. */
interface DeviceStateFault {
	readonly code: DeviceStateErrorCode;
	readonly idstr: string;
	readonly instanceId: number;
	/** Path of the field, e.g. `env.segs[2].base`; empty for the body as a whole. */
	readonly field: string;
	/** Byte of the body. */
	readonly offset: number;
	readonly expected: string;
	readonly got: string;
}

/** A device's body does not fit its description. Recognise it by `name` and `code`. */
export class DeviceStateError extends Error {
	override readonly name = 'DeviceStateError';
	readonly code: DeviceStateErrorCode;
	readonly idstr: string;
	readonly instanceId: number;
	/** Path of the field, e.g. `env.segs[2].base`; empty for the body as a whole. */
	readonly field: string;
	/** Byte of the body. */
	readonly offset: number;
	readonly expected: string;
	readonly got: string;

	constructor(fault: DeviceStateFault) {
		const { idstr, instanceId, field, offset, expected, got } = fault;
		const where = `device '${idstr}' instance ${instanceId}: body offset ${offset}${field === '' ? '' : ` (${field})`}`;
		super(oneLine(`${where}: expected ${expected}, got ${got}`));
		this.code = fault.code;
		this.idstr = idstr;
		this.instanceId = instanceId;
		this.field = field;
		this.offset = offset;
		this.expected = expected;
		this.got = got;
	}
}
