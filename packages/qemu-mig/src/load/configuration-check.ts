import { HANDOVER_CAPABILITY, IGNORE_SHARED_CAPABILITY, MAPPED_RAM_CAPABILITY } from '../abi/stream.js';
import { StreamError } from '../error.js';
import type { Configuration, Place } from '../events.js';
import { capabilitiesOf } from '../read/configuration.js';

/** What the local side is. */
export interface LocalConfiguration {
	readonly machineType: string;
	readonly uuid?: Uint8Array;
	readonly handover: boolean;
	/** Capability `mapped-ram`; absent: unknown here, as before QEMU 9.0. */
	readonly mappedRam?: boolean;
}

/**
 * Compares a stream's configuration with ours and returns what QEMU would warn about.
 *
 * @throws StreamError with QEMU's text. QEMU 7.2 migration/savevm.c `configuration_post_load`
 */
export function checkConfiguration(configuration: Configuration, local: LocalConfiguration, at: Place): string[] {
	const { machineType } = configuration;
	// QEMU compares over the received length only, so that a prefix passes.
	if (!local.machineType.startsWith(machineType)) {
		throw refused(
			at,
			`machine type: expected '${local.machineType}', got '${machineType}'`,
			`Machine type received is '${machineType}' and local is '${local.machineType}'`,
		);
	}
	checkCapabilities(capabilitiesOf(configuration), local, at);
	return checkUuid(configuration, local, at);
}

function checkCapabilities(received: readonly string[], local: LocalConfiguration, at: Place): void {
	const here = new Map([
		[IGNORE_SHARED_CAPABILITY, false],
		[HANDOVER_CAPABILITY, local.handover],
		...(local.mappedRam === undefined ? [] : [[MAPPED_RAM_CAPABILITY, local.mappedRam] as const]),
	]);
	for (const name of received) {
		if (here.has(name)) continue;
		throw refused(
			at,
			`capabilities: expected known names, got '${name}'`,
			`Received unknown capability ${name}`,
			'Failed to load configuration/capabilities:capabilities',
		);
	}
	for (const [name, on] of here) {
		const there = received.includes(name);
		if (there === on) continue;
		throw refused(
			at,
			`capability ${name}: expected ${onOff(on)}, got ${onOff(there)}`,
			`Capability ${name} is ${onOff(on)}, but received capability is ${onOff(there)}`,
		);
	}
}

function checkUuid(configuration: Configuration, local: LocalConfiguration, at: Place): string[] {
	const received = configuration.subsections.find(({ name }) => name === 'configuration/uuid')?.data;
	if (received === undefined) return [];
	const there = uuidText(received);
	if (local.uuid === undefined) return [`UUID is received ${there}, but local uuid isn't set`];
	const here = uuidText(local.uuid);
	if (here === there) return [];
	throw refused(at, `uuid: expected ${here}, got ${there}`, `UUID received is ${there} and local is ${here}`);
}

const onOff = (value: boolean): string => (value ? 'on' : 'off');

export const uuidText = (uuid: Uint8Array): string =>
	Array.from(uuid, (byte, i) => ([4, 6, 8, 10].includes(i) ? '-' : '') + byte.toString(16).padStart(2, '0')).join('');

const refused = (at: Place, message: string, ...qemu: string[]): StreamError =>
	new StreamError({ code: 'configuration', message, qemu }, at);
