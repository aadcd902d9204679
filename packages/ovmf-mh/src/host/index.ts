/**
 * The VMM's end of what firmware reads: the fw_cfg device.
 *
 * ```ts
 * const device = createFwCfgDevice({ files: { 'opt/cvm/seed': text('42') }, ramBytes: 64 << 20, bootCpus: 2 });
 * device.ioWrite(0x510, 2, 0x20);
 * device.ioRead(0x511, 1); // 0x34
 * ```
 *
 * @packageDocumentation
 */
export { FIRST_FILE_KEY, FwCfgKey, FwCfgPort } from '../fw-cfg-abi.js';
export type { E820Range } from './e820.js';
export { e820File } from './e820.js';
export type { DmaMemory, FwCfgDevice, FwCfgOptions } from './fw-cfg.js';
export { createFwCfgDevice } from './fw-cfg.js';
