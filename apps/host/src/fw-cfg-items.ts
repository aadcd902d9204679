import { guestCpuView } from '@cvm/kvm/mirror';
import { e820File, type FwCfgOptions } from '@cvm/ovmf-mh/host';
import type { HostOptions } from './options.js';
import { readNamedFile, topologyOf } from './virtual-machine.js';

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
	// The guest's firmware must not look for the mirrors.
	const { bootCpuCount } = guestCpuView(topologyOf(options));
	return {
		files,
		ramBytes: options.memoryBytes,
		bootCpus: new DataView(bootCpuCount.buffer).getUint16(0, true),
		...(uuid.length === 16 && { uuid }),
	};
}
