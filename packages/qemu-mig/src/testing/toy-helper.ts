import { PAGE_SIZE } from '@cvm/layout';
import type { EmitHelperPage, PageHelper, PageHelperTarget } from '../ports.js';
import type { PrivateAccess } from './toy-sealing.js';

/** The helper inside the guest, without cryptography: pages go inverted, with a header that says which they are. */
export class ToyHelper implements PageHelper {
	/** Pages sealed. */
	sealed = 0;
	readonly #access: PrivateAccess;

	constructor(access: PrivateAccess) {
		this.#access = access;
	}

	seal(block: number, pages: Uint32Array, count: number, emit: EmitHelperPage): void {
		for (const page of pages.subarray(0, count)) {
			this.sealed++;
			emit(
				block,
				page,
				headerOf(block, page),
				this.#access(block, page).map((byte) => byte ^ 0xff),
			);
		}
	}
}

/** The counterpart of {@link ToyHelper}. @throws Error if a page lands elsewhere */
export class ToyHelperTarget implements PageHelperTarget {
	opened = 0;
	readonly #access: PrivateAccess;

	constructor(access: PrivateAccess) {
		this.#access = access;
	}

	open(block: number, page: number, header: Uint8Array, bytes: Uint8Array): void {
		if (bytes.length !== PAGE_SIZE || headerOf(block, page).some((byte, i) => byte !== header[i])) {
			throw new Error('toy helper: expected the page that the header names');
		}
		this.#access(block, page).set(bytes.map((byte) => byte ^ 0xff));
		this.opened++;
	}
}

const headerOf = (block: number, page: number): Uint8Array => Uint8Array.of(0x4d, block, page >> 8, page & 0xff);
