import type {
	DeviceDescription,
	ExtraMember,
	FieldDescription,
	StateDescription,
	VmDescription,
} from './description.js';
import { DescriptionError } from './error.js';
import { JsonReader } from './json-reader.js';

/** Caps on a VMDESCRIPTION. */
export interface DescriptionLimits {
	/** Bytes of text. Default 10 MiB: as far as QEMU's scripts/analyze-migration.py looks for it. */
	readonly bytes: number;
	/** Objects and arrays inside each other. Default 128; QEMU 7.2's stay below 32. */
	readonly depth: number;
	/** Values of any kind. Default 2^19; a PC of QEMU 7.2 has some 5000, and 1000 for each further CPU. */
	readonly values: number;
}

/** Default {@link DescriptionLimits}. */
export const DEFAULT_DESCRIPTION_LIMITS: DescriptionLimits = {
	bytes: 10 * 1024 * 1024,
	depth: 128,
	values: 2 ** 19,
};

/**
 * Parses the JSON of a VMDESCRIPTION. Types that are not known are kept: their fields have a size. Members that are not
 * known are kept as text.
 *
 * @throws DescriptionError with the byte at fault
 */
export function parseVmDescription(json: Uint8Array, limits?: Partial<DescriptionLimits>): VmDescription {
	const caps = { ...DEFAULT_DESCRIPTION_LIMITS, ...limits };
	if (json.length > caps.bytes) {
		throw new DescriptionError('too-large', 0, `expected at most ${caps.bytes} bytes, got ${json.length}`);
	}
	const reader = new JsonReader(json, caps);
	const description = readDescription(reader);
	reader.end();
	return description;
}

function readDescription(reader: JsonReader): VmDescription {
	const members = new Members<{ pageSize: number; configuration: StateDescription; devices: DeviceDescription[] }>(
		reader,
	);
	members.read((name) => {
		switch (name) {
			case 'page_size':
				return members.once('pageSize', () => reader.integer(1));
			case 'configuration':
				return members.once('configuration', () => readState(reader));
			case 'devices':
				return members.once('devices', () => list(reader, () => readDevice(reader)));
			default:
				return false;
		}
	});
	const { configuration } = members.found;
	return {
		pageSize: members.need('pageSize', 'page_size'),
		...(configuration && { configuration }),
		devices: members.need('devices', 'devices'),
		...members.extra(),
	};
}

function readDevice(reader: JsonReader): DeviceDescription {
	const members = new Members<{ idstr: string; instanceId: number; size: number }>(reader);
	const states = new States(reader);
	members.read((name, offset) => {
		switch (name) {
			case 'name':
				return members.once('idstr', () => reader.string());
			case 'instance_id':
				return members.once('instanceId', () => reader.integer(INT32.least, 2 ** 32 - 1));
			case 'size':
				return members.once('size', () => reader.integer(0));
			default:
				return states.member(name, offset);
		}
	});
	const key = {
		idstr: members.need('idstr', 'name'),
		instanceId: members.need('instanceId', 'instance_id'),
	};
	if (!states.isOldStyle) {
		const [state, another] = states.all(members.start);
		if (state === undefined || another !== undefined)
			throw members.fail("expected one 'vmsd_name', got none or several");
		if (members.found.size !== undefined) throw members.fail("expected no 'size' beside 'vmsd_name', got one");
		return { kind: 'state', ...key, state, ...members.extra() };
	}
	const size = members.need('size', 'size');
	const [data, ...rest] = states.bare();
	if (data?.type !== 'buffer' || data.size !== size || data.arrayLength !== undefined || rest.length > 0) {
		throw members.fail(`expected one field of type buffer and ${size} bytes, got another`);
	}
	return { kind: 'old-style', ...key, size, ...members.extra() };
}

function readState(reader: JsonReader): StateDescription {
	const states = new States(reader);
	const members = new Members(reader);
	members.read((name, offset) => states.member(name, offset));
	const [state, another] = states.all(members.start);
	if (state === undefined || another !== undefined) throw members.fail("expected one 'vmsd_name', got none or several");
	return { ...state, ...members.extra() };
}

function readField(reader: JsonReader): FieldDescription {
	const members = new Members<{
		name: string;
		arrayLength: number;
		index: number;
		type: string;
		size: number;
		struct: StateDescription | null;
	}>(reader);
	const states = new States(reader);
	members.read((name, offset) => {
		switch (name) {
			case 'name':
				return members.once('name', () => reader.string());
			case 'array_len':
				return members.once('arrayLength', () => reader.integer(1));
			case 'index':
				return members.once('index', () => reader.integer(0));
			case 'type':
				return members.once('type', () => reader.string());
			case 'size':
				return members.once('size', () => reader.integer(0));
			case 'struct':
				return members.once('struct', () => readStruct(reader));
			default:
				return states.member(name, offset);
		}
	});
	const { arrayLength, index, struct } = members.found;
	if (arrayLength !== undefined && index !== undefined) throw members.fail("expected 'array_len' or 'index', got both");
	const inline = states.all(members.start);
	if (struct !== undefined && inline.length > 0) throw members.fail("expected 'struct' or 'vmsd_name', got both");
	return {
		name: members.need('name', 'name'),
		...(arrayLength !== undefined && { arrayLength }),
		...(index !== undefined && { index }),
		type: members.need('type', 'type'),
		size: members.need('size', 'size'),
		nesting: struct !== undefined ? 'struct' : inline.length > 0 ? 'inline' : 'none',
		layouts: struct ? [struct] : inline,
		...members.extra(),
	};
}

/** A `struct` member; null when it is empty. */
function readStruct(reader: JsonReader): StateDescription | null {
	const states = new States(reader);
	const members = new Members(reader);
	members.read((name, offset) => states.member(name, offset));
	const [state, another] = states.all(members.start);
	if (another !== undefined) throw members.fail("expected one 'vmsd_name', got several");
	return state === undefined ? null : { ...state, ...members.extra() };
}

/** Versions are `int` in QEMU. */
const INT32 = { least: -(2 ** 31), most: 2 ** 31 - 1 } as const;

/** What most fields have inside. */
const NONE: readonly StateDescription[] = [];

function list<T>(reader: JsonReader, item: () => T): T[] {
	const items: T[] = [];
	reader.array(() => {
		items.push(item());
	});
	return items;
}

/** The members of one object: each known one at most once, the others kept as text. */
class Members<Known extends object> {
	readonly #reader: JsonReader;
	readonly found: Partial<Known> = {};
	readonly #extra: ExtraMember[] = [];
	/** Byte the object begins at. */
	start = 0;
	#at = 0;

	constructor(reader: JsonReader) {
		this.#reader = reader;
	}

	/** `known` reads the value of a member it knows and returns true. */
	read(known: (name: string, offset: number) => boolean): void {
		this.start = this.#reader.offset;
		this.#reader.object((name, offset) => {
			this.#at = offset;
			if (!known(name, offset)) this.#extra.push([name, this.#reader.raw()]);
		});
	}

	once<Key extends keyof Known>(key: Key, read: () => Known[Key]): true {
		if (this.found[key] !== undefined) {
			throw this.#reader.fail('shape', this.#at, `expected '${String(key)}' once, got it again`);
		}
		this.found[key] = read();
		return true;
	}

	need<Key extends keyof Known>(key: Key, name: string): Known[Key] {
		const value = this.found[key];
		if (value === undefined) throw this.fail(`expected a member '${name}', got none`);
		return value;
	}

	fail(message: string): DescriptionError {
		return this.#reader.fail('shape', this.start, message);
	}

	extra(): { readonly extra?: readonly ExtraMember[] } {
		return this.#extra.length === 0 ? {} : { extra: this.#extra };
	}
}

/** A state while its members are read. */
interface OpenState {
	vmsdName?: string;
	version?: number;
	fields?: FieldDescription[];
	subsections?: StateDescription[];
}

/**
 * The state members of an object. QEMU writes those of a list's elements one after the other into the same object, so
 * that the names repeat: `vmsd_name` begins the next.
 */
class States {
	readonly #reader: JsonReader;
	readonly #open: OpenState[] = [];

	constructor(reader: JsonReader) {
		this.#reader = reader;
	}

	/** Reads the value of a member of a state; false if it is none. */
	member(name: string, offset: number): boolean {
		const reader = this.#reader;
		switch (name) {
			case 'vmsd_name':
				this.#open.push({ vmsdName: reader.string() });
				return true;
			case 'version':
				return this.#once('version', offset, () => reader.integer(INT32.least, INT32.most));
			case 'fields':
				return this.#once('fields', offset, () => list(reader, () => readField(reader)));
			case 'subsections':
				return this.#once('subsections', offset, () => list(reader, () => readState(reader)));
			default:
				return false;
		}
	}

	#once<Key extends 'version' | 'fields' | 'subsections'>(
		key: Key,
		offset: number,
		read: () => NonNullable<OpenState[Key]>,
	): true {
		if (this.#open.length === 0) this.#open.push({});
		const state = this.#open.at(-1) ?? {};
		if (state[key] !== undefined) throw this.#reader.fail('shape', offset, `expected '${key}' once, got it again`);
		state[key] = read();
		return true;
	}

	/** Whether there are fields, but no state's name. */
	get isOldStyle(): boolean {
		const [only, ...rest] = this.#open;
		if (only?.fields === undefined || rest.length > 0) return false;
		return only.vmsdName === undefined && only.version === undefined && only.subsections === undefined;
	}

	/** The fields of an old-style device. */
	bare(): readonly FieldDescription[] {
		return this.#open[0]?.fields ?? [];
	}

	all(start: number): readonly StateDescription[] {
		if (this.#open.length === 0) return NONE;
		return this.#open.map(({ vmsdName, version, fields, subsections }) => {
			if (vmsdName === undefined || version === undefined || fields === undefined) {
				const missing = vmsdName === undefined ? 'vmsd_name' : version === undefined ? 'version' : 'fields';
				throw this.#reader.fail('shape', start, `expected a member '${missing}', got none`);
			}
			return { vmsdName, version, fields, subsections: subsections ?? NONE };
		});
	}
}
