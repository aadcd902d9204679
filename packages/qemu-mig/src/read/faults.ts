import type { StreamFault } from '../error.js';
import type { SectionInfo } from '../events.js';

/** What QEMU 7.2 says where the input ends or is wrong. migration/savevm.c. */
type Said = Pick<StreamFault, 'qemu' | 'strerror'>;

export const BAD_MAGIC = { qemu: ['Not a migration stream'], strerror: 'Invalid argument' } as const;
export const BAD_VERSION = {
	qemu: ['Unsupported migration stream version'],
	strerror: 'Operation not supported',
} as const;
export const OBSOLETE_VERSION = {
	qemu: ["SaveVM v2 format is obsolete and don't work anymore"],
	strerror: 'Operation not supported',
} as const;
export const NO_CONFIGURATION = { qemu: ['Configuration section missing'], strerror: 'Invalid argument' } as const;
export const NO_FOOTER = {
	qemu: ['check_section_footer: Read section footer failed: -5'],
	strerror: 'Invalid argument',
} as const;
export const NO_VERSION = { qemu: ['qemu_loadvm_section_start_full: Failed to read instance/version ID: -5'] };
export const NO_PART_ID = { qemu: ['qemu_loadvm_section_part_end: Failed to read section ID: -5'] };

/** QEMU 7.2 migration/savevm.c `qemu_loadvm_section_start_full`. */
export const noIdstr = (id: number): Said => ({
	qemu: [`Unable to read ID string for section ${id}`],
	strerror: 'Invalid argument',
});

/** QEMU 7.2 migration/savevm.c `check_section_footer`. */
export const wrongFooterId = ({ id, idstr }: SectionInfo, got: number): Said => ({
	qemu: [`Mismatched section id in footer for ${idstr} - read 0x${got.toString(16)} expected 0x${id.toString(16)}`],
	strerror: 'Invalid argument',
});
