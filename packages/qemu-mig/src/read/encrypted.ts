import { PAGE_SIZE } from '@cvm/layout';
import {
	BitmapWord,
	EncryptedSubtype,
	MAX_FIRMWARE_BLOB,
	MAX_HELPER_HEADER,
	MAX_HOST_REGIONS,
	RegionListWord,
} from '../abi/stream.js';
import type { DialectRules } from '../dialect.js';
import type { StreamFault } from '../error.js';
import type { BitmapSlot, HostRegionList, StreamHandler } from '../events.js';
import type { SessionPrefix, SharedRegion } from '../ports.js';
import type { Parse, StreamCursor } from './cursor.js';

/** What a slot of the page-encryption bitmap counts for besides its bitmap, in bytes. */
const SLOT_COST = 256;

/** Reads what follows the block name of a record with flag 0x200, in the trees that encrypt pages. */
export class EncryptedReader {
	readonly #cursor: StreamCursor;
	readonly #rules: DialectRules;
	readonly #handler: StreamHandler;
	/** The session prefix was read: it outlives sections, and connections. */
	sessionRead = false;

	constructor(cursor: StreamCursor, rules: DialectRules, handler: StreamHandler) {
		this.#cursor = cursor;
		this.#rules = rules;
		this.#handler = handler;
	}

	/** The usual case without a generator: a sealed page, after the first, that is wholly in the window. */
	sealedPage(block: string, address: number): boolean {
		const { window, place } = this.#cursor;
		const { view, at } = window;
		const left = window.end - at;
		if (!this.sessionRead || left < 8 || view.getUint32(at) !== EncryptedSubtype.page) return false;
		const headerLength = view.getUint32(at + 4);
		if (headerLength > MAX_FIRMWARE_BLOB || left < 12 + headerLength) return false;
		const payloadAt = at + 12 + headerLength;
		const payloadLength = view.getUint32(payloadAt - 4);
		if (payloadLength > MAX_FIRMWARE_BLOB || window.end - payloadAt < payloadLength) return false;
		window.at = payloadAt + payloadLength;
		this.#handler.encryptedPage?.(
			block,
			address,
			window.bytes.subarray(at + 8, payloadAt - 4),
			window.bytes.subarray(payloadAt, payloadAt + payloadLength),
			place,
			undefined,
		);
		return true;
	}

	/** Any other record. */
	*record(block: string, address: number): Parse {
		if (this.#rules.flag200 === 'helper-page') {
			yield* this.#helperPage(block, address, undefined);
			return;
		}
		const subtype = yield* this.#cursor.takeU32();
		if (subtype === EncryptedSubtype.page) yield* this.#page(block, address);
		else if (subtype === EncryptedSubtype.sharedRegions) yield* this.#pageStatus(block, address);
		else if (subtype === EncryptedSubtype.migrationHelperPage && this.#rules.helperPages === true) {
			yield* this.#helperPage(block, address, subtype);
		} else {
			const expected = this.#rules.helperPages === true ? '1, 2 or 4' : '1 or 2';
			throw this.#cursor.fail({
				code: 'encrypted',
				message: `encrypted-data record: expected subtype ${expected}, got ${subtype}`,
				qemu: [`unknown encrypted flag ${subtype.toString(16)}`],
			});
		}
	}

	*#page(block: string, address: number): Parse {
		const cursor = this.#cursor;
		const { window } = cursor;
		const prefix = this.sessionRead ? undefined : yield* this.#sessionPrefix();
		yield* cursor.need(4);
		const headerLength = window.view.getUint32(window.at);
		if (headerLength > MAX_FIRMWARE_BLOB) throw cursor.fail(tooLongBlob(headerLength));
		const payloadAt = 4 + headerLength + 4;
		yield* cursor.need(payloadAt);
		const payloadLength = window.view.getUint32(window.at + 4 + headerLength);
		if (payloadLength > MAX_FIRMWARE_BLOB) throw cursor.fail(tooLongBlob(payloadLength));
		const record = yield* cursor.take(payloadAt + payloadLength);
		const header = record.subarray(4, 4 + headerLength);
		this.#handler.encryptedPage?.(block, address, header, record.subarray(payloadAt), cursor.place, prefix);
	}

	/** Nothing on the wire says that the prefix is there: the first encrypted page of the stream has it. */
	*#sessionPrefix(): Parse<SessionPrefix> {
		const policy = yield* this.#cursor.takeU32();
		const pdh = yield* this.#cursor.takeBlob(MAX_FIRMWARE_BLOB, tooLongBlob);
		const session = yield* this.#cursor.takeBlob(MAX_FIRMWARE_BLOB, tooLongBlob);
		this.sessionRead = true;
		return { policy, pdh, session };
	}

	/**
	 * be32 header length, header, be32 page length, page.
	 *
	 * DEVIATION(qemu-devel "Confidential guest-assisted live migration" v2, patch 2): the target's texts name the guest
	 * physical address, which it asks of KVM; here it is the offset in the block.
	 */
	*#helperPage(block: string, address: number, subtype: 4 | undefined): Parse {
		const cursor = this.#cursor;
		const { window } = cursor;
		yield* cursor.need(4);
		const headerLength = window.view.getUint32(window.at);
		if (headerLength > MAX_HELPER_HEADER) {
			throw cursor.fail(wrongHelperPart('page header', `at most ${MAX_HELPER_HEADER}`, headerLength, address));
		}
		const pageAt = 4 + headerLength + 4;
		yield* cursor.need(pageAt);
		const pageLength = window.view.getUint32(window.at + 4 + headerLength);
		if (pageLength !== PAGE_SIZE) {
			throw cursor.fail(wrongHelperPart('encrypted page', `${PAGE_SIZE}`, pageLength, address));
		}
		const record = yield* cursor.take(pageAt + PAGE_SIZE);
		const header = record.subarray(4, 4 + headerLength);
		this.#handler.migrationHelperPage?.(block, address, header, record.subarray(pageAt), cursor.place, subtype);
	}

	*#pageStatus(block: string, address: number): Parse {
		const { place } = this.#cursor;
		if (this.#rules.pageStatus === 'bitmap') {
			const slots = yield* this.#bitmap();
			this.#handler.encryptedBitmap?.(block, address, slots, place);
		} else if (this.#rules.pageStatus === 'host-regions') {
			const list = yield* this.#hostRegions();
			this.#handler.hostRegions?.(block, address, list, place);
		} else yield* this.#sharedRegions(block, address);
	}

	/** AMDESE/qemu `sev-migration-v1` target/i386/sev.c `sev_load_incoming_bitmap`. */
	*#bitmap(): Parse<BitmapSlot[]> {
		const cursor = this.#cursor;
		const slots: BitmapSlot[] = [];
		let left = cursor.limits.encryptionBitmap;
		for (let word = yield* cursor.takeU32(); word !== BitmapWord.end; word = yield* cursor.takeU32()) {
			const startGpa = yield* cursor.takeU64();
			const pages = yield* cursor.takeU64();
			const size = yield* cursor.takeU64();
			const expected = ((pages + 63n) / 64n) * 8n;
			if (size !== expected) {
				throw cursor.fail({
					code: 'encrypted',
					message: `encryption bitmap: expected ${expected} bytes for ${pages} pages, got ${size}`,
					qemu: [`corrupted bitmap expected size ${expected} got ${size}`],
				});
			}
			// A slot without pages costs memory too.
			left -= SLOT_COST + Math.min(Number(size), Number.MAX_SAFE_INTEGER);
			if (left < 0) {
				throw cursor.fail({
					code: 'too-large',
					message: `encryption bitmap: expected at most ${cursor.limits.encryptionBitmap} bytes in all, got more`,
				});
			}
			slots.push({ word, startGpa, pages, bitmap: (yield* cursor.take(Number(size))).slice() });
		}
		return slots;
	}

	/** AMDESE/qemu `build33` target/i386/sev.c `sev_load_incoming_shared_regions_list`. */
	*#hostRegions(): Parse<HostRegionList> {
		const cursor = this.#cursor;
		const start = yield* cursor.takeU32();
		if (start !== RegionListWord.entry) return { start, regions: [], end: undefined };
		const count = yield* cursor.takeU32();
		if (count > MAX_HOST_REGIONS) {
			throw cursor.fail({
				code: 'too-large',
				message: `region list: expected at most ${MAX_HOST_REGIONS} entries, got ${count}`,
			});
		}
		const { window } = cursor;
		const regions: { gfnStart: bigint; gfnEnd: bigint }[] = [];
		for (let i = 0; i < count; i++) {
			yield* cursor.need(16);
			const gfnStart = window.view.getBigUint64(window.at, true);
			regions.push({ gfnStart, gfnEnd: window.view.getBigUint64(window.at + 8, true) });
			window.at += 16;
		}
		return { start, regions, end: yield* cursor.takeU32() };
	}

	*#sharedRegions(block: string, address: number): Parse {
		const cursor = this.#cursor;
		const regions: SharedRegion[] = [];
		let word = yield* cursor.takeU32();
		while (word === RegionListWord.entry) {
			if (regions.length === cursor.limits.sharedRegions) {
				throw cursor.fail({
					code: 'too-large',
					message: `shared-region list: expected at most ${cursor.limits.sharedRegions} entries, got more`,
				});
			}
			regions.push({ gfnStart: yield* cursor.takeU32(), gfnEnd: yield* cursor.takeU32() });
			word = yield* cursor.takeU32();
		}
		this.#handler.sharedRegions?.(block, address, regions, word, cursor.place);
	}
}

/** AMDESE/qemu `sev_live_migration_v4` target/i386/sev.c. */
const tooLongBlob = (length: number): StreamFault => ({
	code: 'encrypted',
	message: `encrypted page: expected a blob of at most ${MAX_FIRMWARE_BLOB} bytes, got ${length}`,
	qemu: [`invalid length max=${MAX_FIRMWARE_BLOB} got=${length}`],
});

/** qemu-devel "Confidential guest-assisted live migration" v2, patch 2: the same text for too small a page. */
const wrongHelperPart = (part: string, expected: string, got: number, address: number): StreamFault => ({
	code: 'encrypted',
	message: `migration-helper page: expected ${part} of ${expected} bytes, got ${got}`,
	qemu: [`confidential-ram: ${part} is too large (${got | 0} bytes) when loading gpa 0x${address.toString(16)}`],
});
