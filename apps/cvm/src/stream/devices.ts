import type { DeviceTree, VmDescription } from '@cvm/qemu-mig';
import { findDevice, parseVmDescription, walkDevice } from '@cvm/qemu-mig';
import type { DeviceFound, Survey } from './survey.js';

/** A device, decoded if the stream describes it. */
export interface DecodedDevice extends DeviceFound {
	readonly tree?: DeviceTree;
	/** Why it is not decoded. */
	readonly why?: string;
}

/** The description of a stream. */
interface ReadDescription {
	readonly description?: VmDescription;
	/** Why there is none. */
	readonly why?: string;
}

/** Reads the description that a survey found. */
function descriptionOf(survey: Survey): ReadDescription {
	if (survey.description === undefined) return { why: 'the stream has no description' };
	try {
		return { description: parseVmDescription(survey.description.json) };
	} catch (error) {
		return { why: messageOf(error) };
	}
}

/** Decodes all devices that can be. */
export function decodeDevices(survey: Survey): DecodedDevice[] {
	const { description, why } = descriptionOf(survey);
	return survey.devices.map((device) =>
		description === undefined ? { ...device, ...(why !== undefined && { why }) } : decodeDevice(device, description),
	);
}

function decodeDevice(device: DeviceFound, description: VmDescription): DecodedDevice {
	const { section, body } = device;
	if (body === undefined) return { ...device, why: 'too long to be kept' };
	const described = findDevice(description, section.idstr, section.instanceId);
	if (described === undefined) return { ...device, why: 'not described' };
	try {
		return { ...device, tree: walkDevice(described, body, { version: section.version }) };
	} catch (error) {
		return { ...device, why: messageOf(error) };
	}
}

const messageOf = (error: unknown): string => {
	if (error instanceof Error && ['DescriptionError', 'DeviceStateError'].includes(error.name)) return error.message;
	throw error;
};
