import type { Block, CodeFragment } from '@cvm/kvm/vcpu';
import { FwCfgKey, FwCfgPort } from '../fw-cfg-abi.js';
import { handlerSettings } from '../fw-cfg-names.js';
import { encodeHobs, HANDLER_HOBS } from '../uefi/hob.js';
import { encodePcds } from '../uefi/pcd.js';
import type { FirmwareOptions } from './options.js';
import {
	CODE_BASE,
	FILE_BYTES,
	FILES,
	FirmwareMemory,
	fileContents,
	fileEntry,
	hasFile,
	setFileEntry,
	setWorkWord,
} from './work-area.js';

const { directoryEntry, files } = FirmwareMemory;
const DIRECTORY_ENTRY_BYTES = 64;
/** More entries than any machine has: an endless directory must not stop the boot. */
const MAX_DIRECTORY = 1024;

/**
 * Reads fw_cfg through its I/O ports, a byte at a time: DMA would need shared memory. Items are found by name, because
 * selectors are not stable. R13 counts directory entries left, R14 the file at hand; RDI and RCX are the destination and
 * count of `fw.cfg.read`.
 */
const peiBlocks = ({ helper = 'none' }: FirmwareOptions): Record<string, Block> => ({
	// Selects key RAX. Clobbers nothing else.
	'fw.cfg.select': (cpu) => cpu.out(FwCfgPort.selector, 2, 'fw.cfg.return'),
	'fw.cfg.return': (cpu) => cpu.ret(),
	// Reads RCX bytes to RDI. Clobbers RAX.
	'fw.cfg.read': (cpu) => (cpu.num('rcx') === 0 ? cpu.ret() : cpu.in(FwCfgPort.data, 1, 'fw.cfg.byte')),
	'fw.cfg.byte': (cpu) => {
		cpu.storeU8(cpu.num('rdi'), Number(cpu.reg('rax') & 0xffn));
		cpu.setNum('rdi', cpu.num('rdi') + 1);
		cpu.setNum('rcx', cpu.num('rcx') - 1);
		return cpu.jump('fw.cfg.read');
	},

	'fw.pei': (cpu) => {
		cpu.setNum('rax', FwCfgKey.signature);
		return cpu.call('fw.cfg.select', 'fw.pei.signature');
	},
	'fw.pei.signature': (cpu) => {
		cpu.setNum('rdi', directoryEntry);
		cpu.setNum('rcx', 4);
		return cpu.call('fw.cfg.read', 'fw.pei.signature_read');
	},
	'fw.pei.signature_read': (cpu) => {
		if (cpu.loadU32(directoryEntry) !== 0x554d4551) return cpu.jump('fw.dead');
		cpu.setNum('rax', FwCfgKey.ramSize);
		return cpu.call('fw.cfg.select', 'fw.pei.ram');
	},
	'fw.pei.ram': (cpu) => {
		cpu.setNum('rdi', directoryEntry);
		cpu.setNum('rcx', 8);
		return cpu.call('fw.cfg.read', 'fw.pei.ram_read');
	},
	'fw.pei.ram_read': (cpu) => {
		setWorkWord(cpu, 'ramBytes', cpu.loadU64(directoryEntry));
		cpu.setNum('rax', FwCfgKey.bootCpus);
		return cpu.call('fw.cfg.select', 'fw.pei.cpus');
	},
	'fw.pei.cpus': (cpu) => {
		cpu.setNum('rdi', directoryEntry);
		cpu.setNum('rcx', 2);
		return cpu.call('fw.cfg.read', 'fw.pei.cpus_read');
	},
	'fw.pei.cpus_read': (cpu) => {
		setWorkWord(cpu, 'cpus', BigInt(cpu.loadU16(directoryEntry)));
		cpu.setNum('rax', FwCfgKey.directory);
		return cpu.call('fw.cfg.select', 'fw.pei.directory');
	},
	'fw.pei.directory': (cpu) => {
		cpu.setNum('rdi', directoryEntry);
		cpu.setNum('rcx', 4);
		return cpu.call('fw.cfg.read', 'fw.pei.directory_count');
	},
	'fw.pei.directory_count': (cpu) => {
		const count = new Uint8Array(4);
		cpu.load(directoryEntry, count);
		cpu.setNum('r13', Math.min(new DataView(count.buffer).getUint32(0), MAX_DIRECTORY));
		return cpu.jump('fw.pei.next_entry');
	},
	'fw.pei.next_entry': (cpu) => {
		if (cpu.num('r13') === 0) {
			cpu.setNum('r14', 0);
			return cpu.jump('fw.pei.next_file');
		}
		cpu.setNum('rdi', directoryEntry);
		cpu.setNum('rcx', DIRECTORY_ENTRY_BYTES);
		return cpu.call('fw.cfg.read', 'fw.pei.entry_read');
	},
	'fw.pei.entry_read': (cpu) => {
		const entry = new Uint8Array(DIRECTORY_ENTRY_BYTES);
		cpu.load(directoryEntry, entry);
		const [name] = String.fromCharCode(...entry.subarray(8)).split('\0', 1);
		const names: readonly string[] = FILES;
		const file = names.indexOf(name ?? '');
		const view = new DataView(entry.buffer);
		const size = view.getUint32(0);
		// Some other size is not what this firmware knows; better the default than half a file.
		if (file >= 0 && size <= FILE_BYTES) setFileEntry(cpu, file, size, view.getUint16(4));
		cpu.setNum('r13', cpu.num('r13') - 1);
		return cpu.jump('fw.pei.next_entry');
	},
	'fw.pei.next_file': (cpu) => {
		const file = cpu.num('r14');
		if (file === FILES.length) return cpu.jump(helper === 'none' ? 'fw.dxe' : 'fw.pei.handler');
		const { key } = fileEntry(cpu, file);
		if (key === 0) return cpu.jump('fw.pei.file_done');
		cpu.setNum('rax', key);
		return cpu.call('fw.cfg.select', 'fw.pei.file');
	},
	'fw.pei.file': (cpu) => {
		const file = cpu.num('r14');
		cpu.setNum('rdi', files + FILE_BYTES * file);
		cpu.setNum('rcx', fileEntry(cpu, file).size);
		return cpu.call('fw.cfg.read', 'fw.pei.file_done');
	},
	'fw.pei.file_done': (cpu) => {
		cpu.setNum('r14', cpu.num('r14') + 1);
		return cpu.jump('fw.pei.next_file');
	},
	// PlatformPei, between AmdSevInitialize and MiscInitialization, then ConfidentialMigrationPei.
	'fw.pei.handler': (cpu) => {
		const { start, target } = handlerSettings((name) => {
			const file = FILES.find((wanted) => wanted === name);
			return file !== undefined && hasFile(cpu, file) ? fileContents(cpu, file) : undefined;
		});
		const pcds = { PcdStartConfidentialMigrationHandler: start, PcdIsConfidentialMigrationTarget: target };
		cpu.store(FirmwareMemory.pcdDatabase, encodePcds(pcds));
		cpu.store(FirmwareMemory.hobList, encodeHobs(HANDLER_HOBS));
		return cpu.jump('fw.dxe');
	},

	// No fw_cfg device: there is nothing to boot and nobody to tell.
	'fw.dead': (cpu) => cpu.hlt('fw.dead'),
});

/** Reads the machine's description, the workload's parameters, and what the migration handler is to do, from fw_cfg. */
export const peiFragment = (options: FirmwareOptions): CodeFragment => ({
	name: 'ovmf-pei',
	base: CODE_BASE + 0x1000,
	blocks: peiBlocks(options),
});
