import { PAGE_SIZE } from '@cvm/layout';
import type { RamBlock } from '../ports.js';

/** Bytes of the host pages of a block. */
export const hostPageSize = ({ pageSize }: RamBlock): number => pageSize ?? PAGE_SIZE;

/** Bitwise OR of the host page sizes of all blocks: what both sides compare. QEMU 7.2 `ram_pagesize_summary`. */
export const pageSizeSummary = (blocks: readonly RamBlock[]): bigint =>
	blocks.reduce((sizes, block) => sizes | BigInt(hostPageSize(block)), 0n);
