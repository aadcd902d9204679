import { HANDOVER_CAPABILITY, SectionType } from '../abi/stream.js';
import type { Configuration, ConfigurationSubsection } from '../events.js';
import { bytesToName } from '../latin1.js';
import type { Parse, StreamCursor } from './cursor.js';

/** Longest machine type name accepted. */
const MAX_MACHINE_TYPE = 1024;
/** Most capability names accepted; QEMU 7.2 has 21 capabilities. */
const MAX_CAPABILITIES = 64;

/** Reads the configuration section after its type byte, up to the first byte that is not part of it. */
export function* readConfiguration(cursor: StreamCursor): Parse<Configuration> {
	cursor.onTruncation = { qemu: ['Failed to load configuration:len'] };
	const length = yield* cursor.takeU32();
	if (length > MAX_MACHINE_TYPE) {
		throw cursor.fail({
			code: 'too-large',
			message: `configuration: expected a machine type of at most ${MAX_MACHINE_TYPE} bytes, got ${length}`,
		});
	}
	cursor.onTruncation = { qemu: ['Failed to load configuration:name'] };
	const machineType = bytesToName(yield* cursor.take(length));
	cursor.onTruncation = {};
	const subsections: ConfigurationSubsection[] = [];
	while (yield* nextIsSubsection(cursor)) {
		cursor.window.at += 1;
		const name = yield* cursor.takeName();
		if (!name.startsWith('configuration')) {
			// QEMU takes it for something that is not a subsection.
			const message = `configuration: expected a subsection of its own, got '${name}'`;
			throw cursor.fail({ code: 'section', message, qemu: ['Unknown savevm section type 5'] });
		}
		const version = yield* cursor.takeU32();
		if (version > 1) {
			throw cursor.fail({
				code: 'configuration',
				message: `${name}: expected version 1, got ${version}`,
				qemu: [`${name}: incoming version_id ${version} is too new for local version_id 1`],
			});
		}
		subsections.push({ name, version, data: yield* subsectionBody(cursor, name) });
	}
	return { machineType, subsections };
}

function* nextIsSubsection(cursor: StreamCursor): Parse<boolean> {
	return (yield* cursor.reach(1)) && cursor.window.view.getUint8(cursor.window.at) === SectionType.subsection;
}

/** The body has no length of its own: its name decides. QEMU 7.2 migration/savevm.c `vmstate_configuration`. */
function* subsectionBody(cursor: StreamCursor, name: string): Parse<Uint8Array> {
	switch (name) {
		case 'configuration/target-page-bits':
			return (yield* cursor.take(4)).slice();
		case 'configuration/uuid':
			return (yield* cursor.take(16)).slice();
		case 'configuration/capabilities':
			return yield* capabilityBody(cursor);
		default:
			throw cursor.fail({
				code: 'configuration',
				message: `configuration: expected a known subsection, got '${name}'`,
				strerror: 'No such file or directory',
			});
	}
}

/** be32 count and as many cstr8, returned whole. */
function* capabilityBody(cursor: StreamCursor): Parse<Uint8Array> {
	yield* cursor.need(4);
	const count = cursor.window.view.getUint32(cursor.window.at);
	if (count > MAX_CAPABILITIES) {
		throw cursor.fail({
			code: 'too-large',
			message: `configuration/capabilities: expected at most ${MAX_CAPABILITIES} names, got ${count}`,
		});
	}
	let length = 4;
	for (let i = 0; i < count; i++) {
		yield* cursor.need(length + 1);
		length += 1 + cursor.window.view.getUint8(cursor.window.at + length);
	}
	return (yield* cursor.take(length)).slice();
}

/** Names in the subsection `configuration/capabilities`; empty when the stream has none. */
export function capabilitiesOf(configuration: Configuration): readonly string[] {
	const names: string[] = [];
	for (const { name, data } of configuration.subsections) {
		if (name !== 'configuration/capabilities') continue;
		for (let at = 4; at < data.length; ) {
			const length = data[at] ?? 0;
			names.push(bytesToName(data.subarray(at + 1, at + 1 + length)));
			at += 1 + length;
		}
	}
	return names;
}

/** Whether the configuration announces this project's hand-over. */
export const announcesHandover = (configuration: Configuration): boolean =>
	capabilitiesOf(configuration).includes(HANDOVER_CAPABILITY);
