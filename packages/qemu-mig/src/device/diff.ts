import type { DeviceField, DeviceTree } from './tree.js';
import { leavesOf, rawBytes } from './tree.js';

/** What a field holds, as far as it is compared. */
export type ComparedValue = number | bigint | boolean | string | null | Uint8Array;

/** One place where two devices differ. */
export interface DeviceDifference {
	readonly idstr: string;
	readonly instanceId: number;
	/** Path of the field or array element, e.g. `env.regs[3]`; empty when a device is missing, or differs outside of fields. */
	readonly path: string;
	/** What each has there; undefined where it has no such field. Of a whole device: its body. */
	readonly a: ComparedValue | undefined;
	readonly b: ComparedValue | undefined;
	/** For two buffers: first byte that differs; their common length when one only goes on. */
	readonly at?: number;
}

/** Options of {@link diffDevices}. */
export interface DiffOptions {
	/** Differences returned at most. Default 10000. */
	readonly limit?: number;
}

/**
 * Where two sets of devices differ, in the order of `a`, then what only `b` has. Devices are matched by idstr and instance,
 * fields by path; fields of one path but different forms are compared as bytes.
 */
export function diffDevices(
	a: DeviceTree | readonly DeviceTree[],
	b: DeviceTree | readonly DeviceTree[],
	{ limit = 10_000 }: DiffOptions = {},
): DeviceDifference[] {
	const found: DeviceDifference[] = [];
	for (const difference of setDifferences(keyed(a), keyed(b))) {
		if (found.length >= limit) break;
		found.push(difference);
	}
	return found;
}

function keyed(devices: DeviceTree | readonly DeviceTree[]): Map<string, DeviceTree> {
	const all = 'root' in devices ? [devices] : devices;
	return new Map(all.map((device) => [`${device.instanceId >>> 0} ${device.idstr}`, device]));
}

function* setDifferences(
	a: ReadonlyMap<string, DeviceTree>,
	b: ReadonlyMap<string, DeviceTree>,
): Generator<DeviceDifference> {
	for (const [key, device] of a) {
		const other = b.get(key);
		if (other === undefined) yield { ...placeOf(device), path: '', a: device.body, b: undefined };
		else yield* deviceDifferences(device, other);
	}
	for (const [key, device] of b) {
		if (!a.has(key)) yield { ...placeOf(device), path: '', a: undefined, b: device.body };
	}
}

const placeOf = ({ idstr, instanceId }: DeviceTree): Pick<DeviceDifference, 'idstr' | 'instanceId'> => ({
	idstr,
	instanceId,
});

function* deviceDifferences(a: DeviceTree, b: DeviceTree): Generator<DeviceDifference> {
	const place = placeOf(a);
	const others = new Map(leavesOf(b).map(({ path, field }) => [path, field]));
	let isTold = false;
	for (const { path, field } of leavesOf(a)) {
		const other = others.get(path);
		others.delete(path);
		const found =
			other === undefined
				? [{ path, a: wholeValue(a, field), b: undefined }]
				: fieldDifferences(path, [a, field], [b, other]);
		for (const difference of found) {
			isTold = true;
			yield { ...place, ...difference };
		}
	}
	for (const [path, field] of others) yield { ...place, path, a: undefined, b: wholeValue(b, field) };
	// What belongs to no field: a subsection without any, its version, empty elements of a list.
	const at = isTold || others.size > 0 ? -1 : firstDifference(a.body, b.body);
	if (at >= 0) yield { ...place, path: '', a: a.body, b: b.body, at };
}

type Side = readonly [tree: DeviceTree, field: DeviceField];
type Found = Omit<DeviceDifference, 'idstr' | 'instanceId'>;

function* fieldDifferences(path: string, [treeA, a]: Side, [treeB, b]: Side): Generator<Found> {
	const [bytesA, bytesB] = [rawBytes(treeA, a), rawBytes(treeB, b)];
	const at = firstDifference(bytesA, bytesB);
	if (at < 0) return;
	if (a.kind === 'integers' && b.kind === 'integers' && a.type === b.type) {
		const [left, right] = [a.value, b.value];
		for (let i = 0; i < Math.max(left.length, right.length); i++) {
			if (left[i] !== right[i]) yield { path: `${path}[${i}]`, a: left[i], b: right[i] };
		}
		return;
	}
	const [left, right] = [wholeValue(treeA, a), wholeValue(treeB, b)];
	// Booleans that are true in two ways differ on the wire only.
	if (a.kind === 'bytes' || a.kind !== b.kind || left === right) yield { path, a: bytesA, b: bytesB, at };
	else yield { path, a: left, b: right };
}

/** Index of the first byte that differs; -1 if none does. */
function firstDifference(a: Uint8Array, b: Uint8Array): number {
	const common = Math.min(a.length, b.length);
	for (let i = 0; i < common; i++) if (a[i] !== b[i]) return i;
	return a.length === b.length ? -1 : common;
}

function wholeValue(tree: DeviceTree, field: DeviceField): ComparedValue {
	if (field.kind === 'integer' || field.kind === 'boolean' || field.kind === 'null') return field.value;
	return field.kind === 'text' ? field.value.join(', ') : rawBytes(tree, field);
}
