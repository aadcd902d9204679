import { PAGE_SIZE } from '@cvm/layout';
import { DIALECTS } from '../dialect.js';
import { StreamError } from '../error.js';
import type { Place, StreamHandler } from '../events.js';
import type { RamBlock } from '../ports.js';
import { hostPageSize } from '../postcopy/host-page.js';
import type { PageSizeListed } from '../read/options.js';
import type { LoaderOptions, LoadPart } from './options.js';
import { LOAD_PARTS } from './options.js';

const notHandled = (what: string, at: Place): never => {
	throw new StreamError(
		{ code: 'unsupported', message: `urgent pages: expected pages that a running guest can take, got a ${what}` },
		at,
	);
};

/** Legal in some dialect, but not on the connection of urgent pages. */
export const NOT_URGENT: StreamHandler = {
	encryptedPage: (_block, _address, _header, _payload, at) => notHandled('page sealed by SEV firmware', at),
	sharedRegions: (_block, _address, _regions, _word, at) => notHandled('list of shared regions', at),
	encryptedBitmap: (_block, _address, _slots, at) => notHandled('bitmap of encrypted pages', at),
	hostRegions: (_block, _address, _list, at) => notHandled('region list in host order', at),
};

/** With postcopy the source lists a page size for blocks whose host pages are not the usual ones, which both sides agree on. */
export const pageSizeListed =
	(blocks: readonly RamBlock[]): PageSizeListed =>
	(idstr) => {
		const block = blocks.find((local) => local.idstr === idstr);
		return block === undefined ? undefined : hostPageSize(block) !== PAGE_SIZE;
	};

/** Parts that a complete stream of this kind holds and that did not arrive. */
export function missingParts(
	arrived: ReadonlyMap<LoadPart, number>,
	expected: { readonly description: boolean; readonly sharedRegions: boolean },
): LoadPart[] {
	return LOAD_PARTS.filter((part) => {
		if (part === 'shared-regions' && !expected.sharedRegions) return false;
		if (part === 'description' && !expected.description) return false;
		return !arrived.has(part);
	});
}

/** @throws RangeError if postcopy is asked for where it cannot work */
export function checkPostcopy({ handover, reply, multifd, sink, dialect, postcopy, preempt }: LoaderOptions): void {
	if (postcopy === undefined) {
		if (preempt) throw new RangeError('Postcopy preempt requires postcopy-ram');
		return;
	}
	if (handover) refuse('expected it without hand-over, got both');
	if (multifd !== undefined) refuse('expected it without multifd, got both');
	if (sink.helper?.message !== undefined) refuse('expected a helper that takes no messages, got one that does');
	if (reply === undefined) refuse('expected a transport with a reverse direction, got none');
	if (sink.opener !== undefined && DIALECTS[dialect].pageStatus !== undefined && sink.helper === undefined) {
		refuse(
			'expected pages that can be put into a running guest, got an opener: RECEIVE_UPDATE_DATA is not allowed after ' +
				'RECEIVE_FINISH, and a guest runs only after that',
		);
	}
}

function refuse(what: string): never {
	throw new RangeError(`postcopy: ${what}`);
}
