import { SectionType } from '../abi/stream.js';
import { findDevice } from '../device/description.js';
import { DescriptionError, DeviceStateError } from '../device/error.js';
import type { DeviceJson, DeviceJsonOptions } from '../device/to-json.js';
import { deviceToJson } from '../device/to-json.js';
import type { DeviceTree } from '../device/tree.js';
import { walkDevice } from '../device/walk.js';
import type { ImageDevice, StreamImage } from './content.js';

/** A device's state, decoded as far as the stream's description tells how. */
export interface DecodedDevice {
	readonly device: ImageDevice;
	readonly tree?: DeviceTree;
	/** Why there is no tree: not described, or not as described. */
	readonly problem?: string;
}

/** Decodes every FULL section by the VMDESCRIPTION. */
export const deviceTrees = (image: StreamImage): DecodedDevice[] => [...eachDevice(image)];

/** The same one by one: there may be thousands. */
export function* eachDevice(image: StreamImage): Generator<DecodedDevice, void, void> {
	for (const device of image.devices) {
		if (device.section.type === SectionType.full) yield decoded(image, device);
	}
}

function decoded(image: StreamImage, device: ImageDevice): DecodedDevice {
	const parsed = image.description?.parsed;
	if (parsed === undefined) return { device, problem: image.description?.problem ?? 'the stream has no description' };
	const { idstr, instanceId, version } = device.section;
	const described = findDevice(parsed, idstr, instanceId);
	if (described === undefined) return { device, problem: `'${idstr}' ${instanceId} is not described` };
	try {
		return { device, tree: walkDevice(described, device.body, { version }) };
	} catch (error) {
		if (error instanceof DeviceStateError || error instanceof DescriptionError)
			return { device, problem: error.message };
		throw error;
	}
}

/** A device as data for JSON: its fields, or else its bytes. */
export type ImageDeviceJson = {
	readonly idstr: string;
	readonly instance: number;
	readonly version: number;
	/** Offset of the section in the stream. */
	readonly at: number;
	readonly size: number;
} & ({ readonly state: DeviceJson } | { readonly problem: string; readonly data: string });

/** Every device's state as plain data that `JSON.stringify` takes. */
export const devicesJson = (image: StreamImage, options: DeviceJsonOptions = {}): ImageDeviceJson[] =>
	deviceTrees(image).map(({ device, tree, problem = '' }) => {
		const { idstr, instanceId, version } = device.section;
		const head = { idstr, instance: instanceId, version, at: device.offset, size: device.body.length };
		return tree === undefined
			? { ...head, problem, data: hex(device.body.subarray(0, options.bytes ?? 4096)) }
			: { ...head, state: deviceToJson(tree, options) };
	});

const hex = (data: Uint8Array): string => Array.from(data, (byte) => byte.toString(16).padStart(2, '0')).join('');
