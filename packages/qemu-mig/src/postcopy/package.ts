import { Command } from '../abi/stream.js';
import { encodeCommand } from '../command.js';
import type { DeviceSection } from '../ports.js';
import type { Output } from '../precopy/output.js';
import { StreamWriter } from '../write/writer.js';

/** Bytes of the command before the package. */
const COMMAND_BYTES = 9;
const NOTHING = new Uint8Array(0);

/** Bytes of the command that ends it. */
const RUN_BYTES = 5;

/**
 * Sends the devices as one package, which QEMU's target reads whole before it acts on any of it, so that it can read pages
 * while devices load. Still missing is its last element, POSTCOPY_RUN: until that is written nothing runs on the target.
 * QEMU 7.2 migration/migration.c `postcopy_start`.
 */
export async function writePackage(output: Output, devices: readonly DeviceSection[]): Promise<void> {
	const { writer } = output;
	const chunks: Uint8Array[] = [];
	const inner = new StreamWriter({
		write: (chunk) => {
			chunks.push(chunk.slice());
		},
	});
	inner.command(Command.postcopyListen, NOTHING);
	const base = writer.position + COMMAND_BYTES;
	for (const [index, device] of devices.entries()) output.device(device, index, inner, base);
	inner.command(Command.ping, encodeCommand({ command: Command.ping, value: 3 }));
	await inner.flush();
	writer.packaged(inner.position + RUN_BYTES);
	for (const chunk of chunks) writer.opaqueBody(chunk);
}
