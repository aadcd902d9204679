import { e820File, type FwCfgOptions } from '@cvm/ovmf-mh/host';
import type { HostOptions } from './options.js';
import { readNamedFile } from './virtual-machine.js';

const E820_RAM = 1;
/** What a guest does that was not told what to do. */
const DEFAULT_WORKLOAD = 'ab';
const FILE_LIMIT = 2 ** 20;

/** What this machine's fw_cfg device offers its firmware. */
export function fwCfgItems(options: HostOptions): FwCfgOptions {
	const files: Record<string, Uint8Array> = {
		'etc/e820': e820File([{ addr: 0, size: options.memoryBytes, type: E820_RAM }]),
		'opt/cvm/workload': new TextEncoder().encode(DEFAULT_WORKLOAD),
	};
	for (const { name, value } of options.fwCfg) {
		files[name] =
			'string' in value
				? new TextEncoder().encode(value.string)
				: readNamedFile(`-fw_cfg ${name}`, value.file, FILE_LIMIT);
	}
	const uuid = Uint8Array.from(Buffer.from((options.uuid ?? '').replaceAll('-', ''), 'hex'));
	return {
		files,
		ramBytes: options.memoryBytes,
		bootCpus: options.cpus,
		...(uuid.length === 16 && { uuid }),
	};
}
