import { PAGE_SIZE } from '@cvm/layout';
import type { ImageBlock, StreamImage } from './content.js';
import { ImageError } from './error.js';
import type { KindRun } from './facts.js';
import { isMissing, isSealed, isZeroKind } from './page-kind.js';
import type { RamStore } from './store.js';

/** The store of an image. @throws ImageError `store` if it was opened without one */
export function storeOf(image: StreamImage): RamStore {
	if (image.store !== undefined) return image.store;
	throw new ImageError('store', 'image: expected page contents, but it was opened without a store');
}

/** The block of a name. @throws ImageError `argument` */
export function blockOf(image: StreamImage, idstr: string): ImageBlock {
	const block = image.blocks.find((one) => one.idstr === idstr);
	if (block !== undefined) return block;
	const names = image.blocks.map((one) => `'${one.idstr}'`).join(', ');
	throw new ImageError('argument', `block: expected one of ${names || 'none'}, got '${idstr}'`);
}

/** Final content of page number `page`; zeros for one that never came. `into`: 4096 bytes. */
export function pageAt(
	image: StreamImage,
	block: ImageBlock,
	page: number,
	into = new Uint8Array(PAGE_SIZE),
): Uint8Array {
	storeOf(image).read(block.index, page * PAGE_SIZE, into);
	return into;
}

/** Header of a sealed page, as on the wire. */
export function sealedHeader(image: StreamImage, block: ImageBlock, page: number): Uint8Array {
	const slots = block.headers;
	if (slots === undefined)
		throw new ImageError('store', `block '${block.idstr}': expected headers of sealed pages, got none`);
	const slot = new Uint8Array(slots.stride);
	storeOf(image).read(slots.block, page * slots.stride, slot);
	return slot.subarray(2, 2 + new DataView(slot.buffer).getUint16(0));
}

/** What to do about pages that cannot be given as they are in the guest. */
export interface PagePolicy {
	/** Pages that never came. Default `refuse`. */
	readonly missing?: 'refuse' | 'zero';
	/** Pages that are ciphertext. Default `refuse`. */
	readonly sealed?: 'refuse' | 'zero';
}

/** Checks a block against a policy. @throws ImageError `missing-pages` or `encrypted`, naming the first page */
export function checkPages(block: ImageBlock, { missing = 'refuse', sealed = 'refuse' }: PagePolicy): void {
	for (const run of block.facts.runs()) {
		const where = `block '${block.idstr}': ${range(run)}`;
		if (missing === 'refuse' && isMissing(run.kind)) {
			throw new ImageError('missing-pages', `${where} never arrived`);
		}
		if (sealed === 'refuse' && isSealed(run.kind)) {
			throw new ImageError('encrypted', `${where} is encrypted: it has no plain content here`);
		}
	}
}

const range = ({ start, end }: KindRun): string =>
	`0x${(start * PAGE_SIZE).toString(16)}..0x${(end * PAGE_SIZE).toString(16)}`;

/** Whether pages of a run are given as zeros. */
export const readsZero = ({ kind }: Pick<KindRun, 'kind'>): boolean =>
	isMissing(kind) || isZeroKind(kind) || isSealed(kind);
