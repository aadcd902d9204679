import { SectionType } from '../abi/stream.js';
import { bytesToName } from '../latin1.js';
import type { DeviceDescription, FieldDescription, StateDescription } from './description.js';
import { MAX_STATE_DEPTH } from './description.js';
import type { DeviceStateErrorCode } from './error.js';
import { DeviceStateError } from './error.js';
import { readScalar, readScalars, SCALARS } from './scalar.js';
import type { DeviceField, DeviceState, DeviceTree, DeviceValue, FieldPlace } from './tree.js';

/** What QEMU writes for a null pointer: one byte '0'. QEMU 7.2 migration/vmstate.h `VMS_NULLPTR_MARKER`. */
export const NULL_POINTER = 0x30;

/** Options of {@link walkDevice}. */
export interface WalkOptions {
	/** Version of the section's header, to be compared with the description's. Default: not compared. */
	readonly version?: number;
	/** Fields and states of the tree, at most. Default 2^17; a CPU of QEMU 7.2 has some 800. */
	readonly nodes?: number;
}

const DEFAULT_NODES = 2 ** 17;

/**
 * Decodes the body of a FULL section by its description. Every byte must be accounted for: what is described must be there,
 * and nothing else. The tree holds views of `body`; its memory must not be reused while the tree is.
 *
 * @throws DeviceStateError naming device, field, offset, what was expected and what is there
 */
export function walkDevice(device: DeviceDescription, body: Uint8Array, options: WalkOptions = {}): DeviceTree {
	const walker = new Walker(device.idstr, device.instanceId, body, options);
	return device.kind === 'state' ? walker.device(device.state) : walker.oldStyle(device.size);
}

/**
 * Decodes a configuration section by the description that QEMU 8.2 and later send of it. `body` is what follows the type
 * byte: length, machine type and subsections.
 *
 * UNCERTAIN(QEMU 8.2 migration/savevm.c): from reading only; QEMU 7.2 does not describe it.
 *
 * @throws DeviceStateError as {@link walkDevice}
 */
export function walkConfiguration(state: StateDescription, body: Uint8Array, options: WalkOptions = {}): DeviceTree {
	return new Walker('configuration', 0, body, options).device(state);
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** One walk: where it is in the body, and by which path it got there. */
class Walker {
	readonly #idstr: string;
	readonly #instanceId: number;
	readonly #body: Uint8Array;
	readonly #view: DataView;
	readonly #options: WalkOptions;
	/** Names and fields: of most nobody ever asks for the text. */
	readonly #path: (string | FieldDescription)[] = [];
	#at = 0;
	#nodes = 0;

	constructor(idstr: string, instanceId: number, body: Uint8Array, options: WalkOptions) {
		this.#idstr = idstr;
		this.#instanceId = instanceId;
		this.#body = body;
		this.#view = new DataView(body.buffer, body.byteOffset, body.length);
		this.#options = options;
	}

	device(state: StateDescription): DeviceTree {
		const { version } = this.#options;
		if (version !== undefined && version !== state.version) {
			throw this.#fail('version', 0, `version ${state.version} as described`, `${version}`);
		}
		return this.#tree(this.#state(state));
	}

	oldStyle(size: number): DeviceTree {
		const place = { name: 'data', type: 'buffer', offset: 0, length: size };
		this.#path.push('data');
		const data: DeviceField = { ...place, kind: 'bytes', value: this.#take(size) };
		this.#path.pop();
		return this.#tree({ name: '', version: -1, offset: 0, length: size, fields: [data], subsections: [] });
	}

	#tree(root: DeviceState): DeviceTree {
		const left = this.#body.length - this.#at;
		if (left === 0) return { idstr: this.#idstr, instanceId: this.#instanceId, body: this.#body, root };
		const name = this.#subsectionName();
		const what = name === undefined ? '' : `, which begin with a subsection '${name}'`;
		throw this.#fail('trailing', this.#at, 'the end of the body', `${left} more bytes${what}`);
	}

	#state(state: StateDescription): DeviceState {
		this.#enter();
		const offset = this.#at;
		const fields = state.fields.map((field) => this.#field(field));
		const subsections = state.subsections.map((subsection) => this.#subsection(subsection));
		const { vmsdName: name, version } = state;
		return { name, version, offset, length: this.#at - offset, fields, subsections };
	}

	/** 0x05, cstr8 name, be32 version, then the state. QEMU 7.2 migration/vmstate.c `vmstate_subsection_save`. */
	#subsection(state: StateDescription): DeviceState {
		const offset = this.#at;
		const name = this.#subsectionName();
		if (name !== state.vmsdName) {
			const got = name !== undefined ? `'${name}'` : this.#left === 0 ? 'the end of the body' : this.#hex(this.#at);
			throw this.#fail('subsection', offset, `subsection '${state.vmsdName}'`, got);
		}
		this.#at += 2 + name.length;
		this.#path.push(name);
		const at = this.#at;
		const version = this.#view.getInt32(this.#takeAt(4));
		if (version !== state.version) throw this.#fail('subsection', at, `version ${state.version}`, `${version}`);
		const inside = this.#state(state);
		this.#path.pop();
		return { ...inside, offset, length: this.#at - offset };
	}

	/** Name of the subsection that begins here; undefined if none does. */
	#subsectionName(): string | undefined {
		if (this.#body[this.#at] !== SectionType.subsection) return undefined;
		const length = this.#body[this.#at + 1] ?? 0;
		const end = this.#at + 2 + length;
		return length > 0 && end <= this.#body.length ? bytesToName(this.#body.subarray(this.#at + 2, end)) : undefined;
	}

	#field(field: FieldDescription): DeviceField {
		this.#enter();
		const { name, index, arrayLength, type } = field;
		this.#path.push(field);
		const offset = this.#at;
		// Filled in, not copied: there are hundreds in a device.
		const found: DeviceValue & Partial<Mutable<FieldPlace>> = this.#value(field);
		this.#path.pop();
		found.name = name;
		found.type = type;
		found.offset = offset;
		found.length = this.#at - offset;
		if (index !== undefined) found.index = index;
		if (arrayLength !== undefined) found.count = arrayLength;
		return found as DeviceField;
	}

	#value(field: FieldDescription): DeviceValue {
		const { type, size, arrayLength, nesting, layouts } = field;
		if (type === 'qtailq' || type === 'qlist' || type === 'gtree') return this.#list(field);
		const [layout] = layouts;
		if (nesting !== 'none' && layout !== undefined) {
			if (layouts.length > 1) return { kind: 'bytes', value: this.#take(size * (arrayLength ?? 1)) };
			if (arrayLength === undefined) return { kind: 'struct', value: this.#sized(layout, size) };
			return { kind: 'structs', value: this.#repeat(arrayLength, () => this.#sized(layout, size)) };
		}
		if (type === 'capability') return { kind: 'text', value: this.#repeat(arrayLength ?? 1, () => this.#name()) };
		return this.#plain(field);
	}

	/** A field without a layout of its own. */
	#plain({ type, size, arrayLength, nesting }: FieldDescription): DeviceValue {
		const length = size * (arrayLength ?? 1);
		const scalar = SCALARS.get(type);
		if (scalar !== undefined && size === scalar.width * (scalar.perElement ?? 1)) {
			const at = this.#takeAt(length);
			const count = length / scalar.width;
			if (count > 1 || arrayLength !== undefined) {
				return { kind: 'integers', value: readScalars(this.#view, at, count, scalar) };
			}
			const value = readScalar(this.#view, at, scalar);
			return scalar.isBoolean ? { kind: 'boolean', value: value !== 0 } : { kind: 'integer', value };
		}
		const value = this.#take(length);
		const wrong = value.findIndex((byte) => byte !== NULL_POINTER);
		if (type === 'nullptr') {
			if (wrong < 0) return { kind: 'null', value: null };
			const at = this.#at - length + wrong;
			throw this.#fail('value', at, `0x30 for a null pointer`, this.#hex(at));
		}
		// QEMU before 10.0 describes a null pointer under the type of its neighbours, with one byte.
		if (nesting === 'struct' && size === 1 && wrong < 0) return { kind: 'null', value: null };
		return { kind: 'bytes', value };
	}

	/**
	 * Elements behind a byte 1 each, then a byte 0; a `gtree` has their number before, and a key before each value: a state,
	 * or 8 bytes. QEMU 7.2 migration/vmstate-types.c `put_qtailq`, `put_gtree`, `put_qlist`.
	 *
	 * UNCERTAIN(QEMU 7.2 migration/vmstate-types.c): from reading only; no x86 device that was tried describes a list.
	 */
	#list({ type, size, arrayLength, layouts }: FieldDescription): DeviceValue {
		if (arrayLength !== undefined) return { kind: 'bytes', value: this.#take(size * arrayLength) };
		const offset = this.#at;
		const value: DeviceState[] = [];
		const keys: bigint[] = [];
		let perElement = 1;
		let isDirect = false;
		if (type === 'gtree') {
			const at = this.#at;
			const count = this.#view.getUint32(this.#takeAt(4));
			isDirect = count === layouts.length;
			if (!isDirect) perElement = 2;
			if (count * perElement !== layouts.length) {
				throw this.#fail('size', at, `${layouts.length} states of a tree as described`, `${count} nodes`);
			}
		}
		layouts.forEach((layout, i) => {
			if (i % perElement === 0) this.#mark(1);
			if (isDirect) keys.push(this.#view.getBigUint64(this.#takeAt(8)));
			this.#path.push(`[${i}]`);
			value.push(this.#state(layout));
			this.#path.pop();
		});
		this.#mark(0);
		this.#checkSize(offset, size);
		return { kind: 'structs', value, ...(keys.length > 0 && { keys }) };
	}

	#mark(expected: number): void {
		const at = this.#takeAt(1);
		if (this.#body[at] === expected) return;
		throw this.#fail(
			'value',
			at,
			`${expected === 1 ? '0x01 before an' : '0x00 after the last'} element`,
			this.#hex(at),
		);
	}

	/** A state that takes as many bytes as its field tells. */
	#sized(layout: StateDescription, size: number): DeviceState {
		const offset = this.#at;
		const state = this.#state(layout);
		this.#checkSize(offset, size);
		return state;
	}

	#checkSize(offset: number, size: number): void {
		const length = this.#at - offset;
		if (length !== size) throw this.#fail('size', offset, `${size} bytes as described`, `${length} of its fields`);
	}

	#repeat<T>(count: number, read: () => T): T[] {
		const items: T[] = [];
		for (let i = 0; i < count; i++) {
			this.#path.push(`[${i}]`);
			items.push(read());
			this.#path.pop();
		}
		return items;
	}

	/** cstr8. */
	#name(): string {
		this.#enter();
		const length = this.#view.getUint8(this.#takeAt(1));
		return bytesToName(this.#take(length));
	}

	get #left(): number {
		return this.#body.length - this.#at;
	}

	#take(length: number): Uint8Array {
		const at = this.#takeAt(length);
		return this.#body.subarray(at, at + length);
	}

	/** Claims bytes. @returns the first */
	#takeAt(length: number): number {
		const at = this.#at;
		if (!(length >= 0 && length <= this.#left)) throw this.#fail('truncated', at, `${length} bytes`, `${this.#left}`);
		this.#at += length;
		return at;
	}

	/** Bounds what a hostile description can make of a small body: the tree's size. Its depth is the description's. */
	#enter(): void {
		this.#nodes += 1;
		const limit = this.#options.nodes ?? DEFAULT_NODES;
		if (this.#nodes > limit) throw this.#fail('too-large', this.#at, `at most ${limit} fields`, 'more');
		if (this.#path.length > 2 * MAX_STATE_DEPTH) {
			throw this.#fail('too-deep', this.#at, `at most ${MAX_STATE_DEPTH} nested states`, 'more');
		}
	}

	#hex(at: number): string {
		return `0x${(this.#body[at] ?? 0).toString(16).padStart(2, '0')}`;
	}

	#fail(code: DeviceStateErrorCode, offset: number, expected: string, got: string): DeviceStateError {
		const names = this.#path.map((one) => {
			if (typeof one === 'string') return one;
			return one.index === undefined ? one.name : `${one.name}[${one.index}]`;
		});
		const field = names.join('.').replaceAll('.[', '[');
		return new DeviceStateError({
			...{ code, offset, expected, got, field },
			...{ idstr: this.#idstr, instanceId: this.#instanceId },
		});
	}
}
