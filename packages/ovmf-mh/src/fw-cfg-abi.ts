/** I/O ports of the device on x86 (qemu 7.2 docs/specs/fw_cfg.rst). */
export const FwCfgPort = { selector: 0x510, data: 0x511, dmaHigh: 0x514, dmaLow: 0x518 } as const;
export type FwCfgPort = (typeof FwCfgPort)[keyof typeof FwCfgPort];

/** Keys with a fixed meaning; named files start at {@link FIRST_FILE_KEY}. */
export const FwCfgKey = {
	signature: 0x0000,
	id: 0x0001,
	uuid: 0x0002,
	ramSize: 0x0003,
	bootCpus: 0x0005,
	maxCpus: 0x000f,
	directory: 0x0019,
} as const;
export type FwCfgKey = (typeof FwCfgKey)[keyof typeof FwCfgKey];

/** Selector of the first named file. */
export const FIRST_FILE_KEY = 0x20;
