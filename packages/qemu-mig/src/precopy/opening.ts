import { PAGE_SIZE } from '@cvm/layout';
import { Command, HANDOVER_CAPABILITY } from '../abi/stream.js';
import { encodeCommand } from '../command.js';
import type { ConfigurationSubsection, StreamBlock } from '../events.js';
import { nameToBytes } from '../latin1.js';
import { hostPageSize, pageSizeSummary } from '../postcopy/host-page.js';
import type { StreamWriter } from '../write/writer.js';
import type { PrecopyOptions } from './options.js';

/** Header and configuration. */
export function writeHead(writer: StreamWriter, options: PrecopyOptions): void {
	writer.header();
	writer.configuration({ machineType: options.machineType, subsections: subsectionsOf(options) });
}

/** The commands before the `ram` section. QEMU 7.2 migration/migration.c `migration_thread`. */
export function writeOpeningCommands(writer: StreamWriter, { returnPath, capabilities, source }: PrecopyOptions): void {
	if (returnPath !== undefined && returnPath !== 'none') {
		writer.command(Command.openReturnPath, new Uint8Array(0));
		writer.command(Command.ping, encodeCommand({ command: Command.ping, value: 1 }));
	}
	if (!capabilities?.postcopyRam) return;
	const command = Command.postcopyAdvise;
	const pageSizes = pageSizeSummary(source.blocks);
	writer.command(command, encodeCommand({ command, pageSizes, targetPageSize: BigInt(PAGE_SIZE) }));
}

/** The blocks as listed. Page sizes are told only in postcopy, and only unusual ones. */
export function listedBlocks({ source, capabilities }: PrecopyOptions): StreamBlock[] {
	return source.blocks.map((block) => {
		const { idstr, usedLength } = block;
		const pageSize = hostPageSize(block);
		return capabilities?.postcopyRam && pageSize !== PAGE_SIZE
			? { idstr, usedLength, pageSize }
			: { idstr, usedLength };
	});
}

function subsectionsOf({ returnPath, uuid, subsections }: PrecopyOptions): ConfigurationSubsection[] {
	const all: ConfigurationSubsection[] = [];
	if (returnPath === 'handover') {
		const name = nameToBytes(HANDOVER_CAPABILITY);
		const data = Uint8Array.of(0, 0, 0, 1, name.length, ...name);
		all.push({ name: 'configuration/capabilities', version: 1, data });
	}
	if (uuid !== undefined) all.push({ name: 'configuration/uuid', version: 1, data: uuid });
	return subsections === undefined ? all : [...all, ...subsections];
}
