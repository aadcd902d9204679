import { readBatchHeader } from '@cvm/ovmf-mh/host';
import type { EmitHelperPage, PageHelper } from '@cvm/qemu-mig';
import type { HelperProfile } from '../options.js';

/** What the migration helpers of a source have put into the stream, repeats included. */
export type HelperFigures = {
	readonly helpers: number;
	/** Of the hardened helper: up to 64 pages each, sealed together. Of the posted one: a page each. */
	readonly records: number;
	readonly pages: number;
	/** Of these: all zeros, of which only a bit travels. The posted helper makes no difference. */
	readonly 'zero-pages': number;
};

/** Counts what one migration's helpers emit, by what their headers tell anyone. */
export class HelperTally {
	readonly #helpers: number;
	readonly #profile: HelperProfile;
	#records = 0;
	#pages = 0;
	#zeroPages = 0;

	constructor(helpers: number, profile: HelperProfile) {
		this.#helpers = helpers;
		this.#profile = profile;
	}

	get figures(): HelperFigures {
		return { helpers: this.#helpers, records: this.#records, pages: this.#pages, 'zero-pages': this.#zeroPages };
	}

	/** The same helper, counted. */
	over(helper: PageHelper): PageHelper {
		const { seal, flush } = helper;
		const counted =
			(emit: EmitHelperPage): EmitHelperPage =>
			(block, page, header, bytes) => {
				emit(block, page, header, bytes);
				this.#count(header);
			};
		return {
			...helper,
			seal: (block, pages, count, emit) => seal(block, pages, count, counted(emit)),
			...(flush && { flush: (emit: EmitHelperPage) => flush(counted(emit)) }),
		};
	}

	#count(header: Uint8Array): void {
		const record = this.#profile === 'rfc-2021' ? { count: 1, withBody: { length: 1 } } : readBatchHeader(header);
		// The bodies of a record after the first come with a short header of their own.
		if (!record) return;
		this.#records++;
		this.#pages += record.count;
		this.#zeroPages += record.count - record.withBody.length;
	}
}
