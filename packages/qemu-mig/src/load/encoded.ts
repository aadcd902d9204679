import { PAGE_SIZE } from '@cvm/layout';
import { isCodecError } from '../codec/error.js';
import { decodeXbzrle } from '../codec/xbzrle.js';
import { inflatePage } from '../codec/zlib.js';
import type { StreamFault } from '../error.js';
import { StreamError } from '../error.js';
import type { PageEncoding, Place } from '../events.js';

/** Decodes pages as QEMU's target does, with its texts. The result is valid until the next call. */
export class PageDecoder {
	readonly #page = new Uint8Array(PAGE_SIZE);

	/** @param contents what an XBZRLE page is encoded against. @throws StreamError */
	decode(kind: PageEncoding, address: number, data: Uint8Array, contents: () => Uint8Array, at: Place): Uint8Array {
		const page = this.#page;
		try {
			if (kind === 'zlib') inflatePage(data, page);
			else {
				page.set(contents());
				decodeXbzrle(data, page);
			}
		} catch (cause) {
			if (!isCodecError(cause)) throw cause;
			const fault: StreamFault = { code: 'record', message: cause.message, qemu: cause.qemu, cause };
			if (kind === 'zlib') throw new StreamError({ ...fault, strerror: 'Operation not permitted' }, at);
			const where = `Failed to decompress XBZRLE page at ${address.toString(16)}`;
			throw new StreamError({ ...fault, qemu: [...cause.qemu, where] }, at);
		}
		return page;
	}
}
