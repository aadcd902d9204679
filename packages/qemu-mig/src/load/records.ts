import type { StreamHandler } from '../events.js';
import { DEFAULT_LIMITS } from '../read/options.js';
import type { LoaderOptions, LoadPart } from './options.js';
import type { RamLoader } from './ram.js';
import { regionsOfBitmap, regionsOfHostList } from './status-lists.js';

/** Records of pages that can come on any connection. */
export const pageRecords = (ram: RamLoader): StreamHandler => ({
	rawPage: (block, address, page, at) => ram.rawPage(block, address, page, at),
	zeroPage: (block, address, fill, at) => ram.zeroPage(block, address, fill, at),
	encodedPage: (kind, block, address, data, at) => ram.encodedPage(kind, block, address, data, at),
	migrationHelperPage: (block, address, header, page, at) => ram.helperPage(block, address, header, page, at),
});

/** Records of the main stream's `ram` section. */
export function ramRecords(
	ram: RamLoader,
	{ limits }: LoaderOptions,
	arrived: (part: LoadPart, at: Parameters<NonNullable<StreamHandler['blockList']>>[2]) => void,
): StreamHandler {
	const most = limits?.sharedRegions ?? DEFAULT_LIMITS.sharedRegions;
	return {
		...pageRecords(ram),
		blockList: (blocks, _total, at) => {
			ram.blockList(blocks, at);
			arrived('block-list', at);
		},
		encryptedPage: (block, address, header, payload, at, prefix) =>
			ram.encryptedPage(block, address, header, payload, at, prefix),
		sharedRegions: (block, address, regions, _terminator, at) => {
			ram.sharedRegions(block, address, regions, at);
			arrived('shared-regions', at);
		},
		hostRegions: (block, address, list, at) => {
			ram.sharedRegions(block, address, regionsOfHostList(list, at), at);
			arrived('shared-regions', at);
		},
		encryptedBitmap: (block, address, slots, at) => {
			ram.sharedRegions(block, address, regionsOfBitmap(slots, most, at), at);
			arrived('shared-regions', at);
		},
		// Each block comes with its pages, in the order of the file, so that nothing has to be sought.
		mappedBlock: (block, _bitmap, at) => ram.blockList([block], at),
		mappedPage: (block, address, page, present, at) => {
			if (present) ram.rawPage(block, address, page, at);
			else ram.zeroPage(block, address, 0, at);
		},
		mappedListEnd: (_blocks, _total, at) => arrived('block-list', at),
	};
}
