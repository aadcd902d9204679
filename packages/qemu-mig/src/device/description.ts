/**
 * VMDESCRIPTION as a tree: how QEMU says that the bodies of a stream's FULL sections are laid out. It names what was sent,
 * not what could have been: a field or subsection that the sender left out does not appear.
 * QEMU 7.2 migration/savevm.c, migration/vmstate.c.
 */
export interface VmDescription {
	/** Bytes of a target page. */
	readonly pageSize: number;
	/** Layout of the configuration section; QEMU 8.2 and later. */
	readonly configuration?: StateDescription;
	/** FULL sections in stream order; `ram` is never among them. */
	readonly devices: readonly DeviceDescription[];
	/** Members this package does not know, each with its JSON text; they are written last. */
	readonly extra?: readonly ExtraMember[];
}

/** A member of an object that this package does not know: name and JSON text. */
export type ExtraMember = readonly [name: string, json: string];

/** Where a device's body lies in the stream: the key QEMU finds it by. */
export interface DeviceKey {
	readonly idstr: string;
	readonly instanceId: number;
}

/** A device that describes its fields, or an old one that only tells its length. */
export type DeviceDescription = StateDevice | OldStyleDevice;

/** A device with a VMState description. */
export interface StateDevice extends DeviceKey {
	readonly kind: 'state';
	readonly state: StateDescription;
	readonly extra?: readonly ExtraMember[];
}

/** A device that writes its body with code of its own: one buffer `data` of `size` bytes. */
export interface OldStyleDevice extends DeviceKey {
	readonly kind: 'old-style';
	/** Bytes of the body. */
	readonly size: number;
	readonly extra?: readonly ExtraMember[];
}

/** A VMStateDescription as it was sent: fields, then subsections. */
export interface StateDescription {
	readonly vmsdName: string;
	readonly version: number;
	readonly fields: readonly FieldDescription[];
	/** Those that were sent, in wire order. */
	readonly subsections: readonly StateDescription[];
	readonly extra?: readonly ExtraMember[];
}

/** One entry of `fields`. */
export interface FieldDescription {
	/** Unique in its state except for arrays that are listed element by element. */
	readonly name: string;
	/** `array_len`: the wire holds so many of what is described, `size` bytes each. Never together with `index`. */
	readonly arrayLength?: number;
	/** `index`: element of an array whose elements differ in form, so that each has its own entry. */
	readonly index?: number;
	/** Name of the encoding, e.g. `uint32`, `struct`, `int32 equal`. */
	readonly type: string;
	/** Bytes on the wire of one element. */
	readonly size: number;
	/** How `layouts` appear in the text: not at all, in a member `struct`, or as members of the field itself (`tmp`, lists). */
	readonly nesting: 'none' | 'struct' | 'inline';
	/**
	 * Layouts of what is inside: one of a `struct` or `tmp`, one per element of a `qtailq`, `qlist` or `gtree`. A `struct`
	 * without one is a null pointer in an array of pointers (QEMU before 10.0).
	 */
	readonly layouts: readonly StateDescription[];
	readonly extra?: readonly ExtraMember[];
}

/** Deepest nesting of states that is walked, formatted or built; as deep as a text may be. QEMU 7.2's own stay below 8. */
export const MAX_STATE_DEPTH = 64;

/** The description of a device, by the key its section carries. */
export const findDevice = (
	description: VmDescription,
	idstr: string,
	instanceId: number,
): DeviceDescription | undefined =>
	description.devices.find((device) => device.idstr === idstr && device.instanceId >>> 0 === instanceId >>> 0);
