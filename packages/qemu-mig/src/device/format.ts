import { nameToBytes } from '../latin1.js';
import type {
	DeviceDescription,
	ExtraMember,
	FieldDescription,
	StateDescription,
	VmDescription,
} from './description.js';
import { MAX_STATE_DEPTH } from './description.js';
import { DescriptionError } from './error.js';

/**
 * The JSON text of a description exactly as QEMU 7.2 writes it: one line, separators `", "` and `": "`, pure ASCII, no NUL
 * at the end. For a text of QEMU's own, parse and format give the same bytes. QEMU 7.2 qobject/json-writer.c.
 *
 * @throws DescriptionError when states are nested deeper than {@link MAX_STATE_DEPTH}
 */
export function formatVmDescription(description: VmDescription): Uint8Array {
	const { configuration, pageSize, devices, extra } = description;
	const members = [
		// It goes out with the stream's header and so comes first.
		...(configuration ? [member('configuration', `{${stateMembers(configuration, 0)}}`)] : []),
		member('page_size', `${pageSize}`),
		member('devices', list(devices.map(deviceText))),
		...extraMembers(extra),
	];
	return nameToBytes(`{${members.join(', ')}}`);
}

/** A JSON string, pure ASCII, escaped as QEMU does. QEMU 7.2 qobject/json-writer.c `quoted_str`. */
function quotedAscii(text: string): string {
	let out = '"';
	for (let i = 0; i < text.length; i++) {
		const code = text.charCodeAt(i);
		const short = SHORT_ESCAPES.get(code);
		if (short !== undefined) out += short;
		else if (code >= 0x20 && code < 0x7f) out += text[i];
		else out += `\\u${code.toString(16).toUpperCase().padStart(4, '0')}`;
	}
	return `${out}"`;
}

const SHORT_ESCAPES: ReadonlyMap<number, string> = new Map([
	[0x22, '\\"'],
	[0x5c, '\\\\'],
	[0x08, '\\b'],
	[0x0c, '\\f'],
	[0x0a, '\\n'],
	[0x0d, '\\r'],
	[0x09, '\\t'],
]);

const member = (name: string, json: string): string => `${quotedAscii(name)}: ${json}`;
const list = (items: readonly string[]): string => `[${items.join(', ')}]`;
const extraMembers = (extra: readonly ExtraMember[] = []): string[] => extra.map(([name, json]) => member(name, json));

function deviceText(device: DeviceDescription): string {
	const members = [member('name', quotedAscii(device.idstr)), member('instance_id', `${device.instanceId}`)];
	if (device.kind === 'state') members.push(stateMembers(device.state, 0));
	else {
		const data = `{"name": "data", "size": ${device.size}, "type": "buffer"}`;
		members.push(member('size', `${device.size}`), member('fields', list([data])));
	}
	return `{${[...members, ...extraMembers(device.extra)].join(', ')}}`;
}

/** The members of a state, without braces: they may stand among others. */
export function stateMembers(state: StateDescription, depth: number): string {
	if (depth > MAX_STATE_DEPTH) {
		throw new DescriptionError('too-deep', 0, `expected at most ${MAX_STATE_DEPTH} nested states, got more`);
	}
	const { vmsdName, version, fields, subsections, extra } = state;
	const members = [
		member('vmsd_name', quotedAscii(vmsdName)),
		member('version', `${version}`),
		member('fields', list(fields.map((field) => fieldText(field, depth)))),
	];
	if (subsections.length > 0) {
		members.push(member('subsections', list(subsections.map((sub) => `{${stateMembers(sub, depth + 1)}}`))));
	}
	return [...members, ...extraMembers(extra)].join(', ');
}

function fieldText(field: FieldDescription, depth: number): string {
	const members = [member('name', quotedAscii(field.name))];
	if (field.arrayLength !== undefined) members.push(member('array_len', `${field.arrayLength}`));
	if (field.index !== undefined) members.push(member('index', `${field.index}`));
	members.push(member('type', quotedAscii(field.type)));
	const inside = field.layouts.map((state) => stateMembers(state, depth + 1));
	if (field.nesting === 'struct') members.push(member('struct', `{${inside.join(', ')}}`));
	else if (field.nesting === 'inline') members.push(...inside);
	members.push(member('size', `${field.size}`), ...extraMembers(field.extra));
	return `{${members.join(', ')}}`;
}
