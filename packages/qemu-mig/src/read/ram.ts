import { PAGE_SIZE } from '@cvm/layout';
import { EncryptedSubtype, MAX_FIRMWARE_BLOB, RamFlag, RegionListWord } from '../abi/stream.js';
import type { DialectRules } from '../dialect.js';
import type { StreamFault } from '../error.js';
import type { StreamBlock, StreamHandler } from '../events.js';
import { bytesToName } from '../latin1.js';
import type { SessionPrefix, SharedRegion } from '../ports.js';
import type { Parse, StreamCursor } from './cursor.js';

/** Words of record addresses above this have no exact `number`. */
const MAX_HIGH_WORD = 0x1fffff;

/** Reads bodies of the `ram` section. One per stream: CONTINUE and the session prefix outlive a section. */
export class RamReader {
	readonly #cursor: StreamCursor;
	readonly #rules: DialectRules;
	readonly #handler: StreamHandler;
	/** The block list holds an address for each block: capability `x-ignore-shared`. */
	addressesListed = false;
	#block: string | undefined;
	#blockBytes: Uint8Array = new Uint8Array(0);
	#sessionRead = false;

	constructor(cursor: StreamCursor, rules: DialectRules, handler: StreamHandler) {
		this.#cursor = cursor;
		this.#rules = rules;
		this.#handler = handler;
	}

	/** Records up to and including EOS. The loop allocates nothing but the view of each page. */
	*body(): Parse {
		const { window, place } = this.#cursor;
		const { namedFlags } = this.#rules;
		const handler = this.#handler;
		for (;;) {
			place.offset = window.offset;
			if (window.end - window.at < 8) yield* this.#word();
			const high = window.view.getUint32(window.at);
			const low = window.view.getUint32(window.at + 4);
			window.at += 8;
			const flags = low & 0xfff;
			const kind = flags & ~RamFlag.continue;
			const address = high * 0x100000000 + (low - flags);
			place.continued = (flags & RamFlag.continue) !== 0;
			if ((kind & namedFlags) !== 0) {
				if (!place.continued) yield* this.#name();
				const block = this.#block;
				if (block === undefined) throw this.#unnamed(high, low);
				if (high > MAX_HIGH_WORD) throw this.#beyond(high, low);
				if (kind === RamFlag.page) {
					if (window.end - window.at < PAGE_SIZE) yield* this.#cursor.need(PAGE_SIZE);
					const page = window.bytes.subarray(window.at, window.at + PAGE_SIZE);
					window.at += PAGE_SIZE;
					handler.rawPage?.(block, address, page, place);
					continue;
				}
				if (kind === RamFlag.zero) {
					if (window.end - window.at < 1) yield* this.#cursor.need(1);
					const fill = window.view.getUint8(window.at++);
					handler.zeroPage?.(block, address, fill, place);
					continue;
				}
				if (kind === RamFlag.encryptedData) {
					if (!this.#sealedPage(block, address)) yield* this.#encrypted(block, address);
					continue;
				}
				throw this.#unknownFlags(flags);
			}
			if (high > MAX_HIGH_WORD) throw this.#beyond(high, low);
			if (kind === RamFlag.endOfSection) {
				handler.endOfRecords?.(address, place);
				return;
			}
			if (kind !== RamFlag.memSize) throw this.#unknownFlags(flags);
			yield* this.#blockList(address);
		}
	}

	/** Waits for a record's word. QEMU takes missing bytes for zeroes and stumbles over the flags. */
	*#word(): Parse {
		const before = this.#cursor.onTruncation;
		this.#cursor.onTruncation = {
			qemu: ['Unknown combination of migration flags: 0x0'],
			strerror: 'Invalid argument',
		};
		yield* this.#cursor.need(8);
		this.#cursor.onTruncation = before;
	}

	/** The block name of a record; the same name again costs no new string. */
	*#name(): Parse {
		const length = yield* this.#cursor.takeU8();
		const bytes = yield* this.#cursor.take(length);
		const known = this.#blockBytes;
		let same = this.#block !== undefined && known.length === length;
		for (let i = 0; same && i < length; i++) same = known[i] === bytes[i];
		if (same) return;
		this.#blockBytes = bytes.slice();
		this.#block = bytesToName(bytes);
	}

	/** The usual case without a generator: a sealed page, after the first, that is wholly in the window. */
	#sealedPage(block: string, address: number): boolean {
		const { window, place } = this.#cursor;
		const { view, at } = window;
		const left = window.end - at;
		if (!this.#sessionRead || left < 8 || view.getUint32(at) !== EncryptedSubtype.page) return false;
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

	/** An encrypted-data record after its block name. */
	*#encrypted(block: string, address: number): Parse {
		const cursor = this.#cursor;
		const { window, place } = cursor;
		if (window.end - window.at < 4) yield* cursor.need(4);
		const subtype = window.view.getUint32(window.at);
		window.at += 4;
		if (subtype === EncryptedSubtype.sharedRegions) {
			yield* this.#sharedRegions(block, address);
			return;
		}
		if (subtype !== EncryptedSubtype.page) {
			throw cursor.fail({
				code: 'encrypted',
				message: `encrypted-data record: expected subtype 1 or 2, got ${subtype}`,
				qemu: [`unknown encrypted flag ${subtype.toString(16)}`],
			});
		}
		const prefix = this.#sessionRead ? undefined : yield* this.#sessionPrefix();
		if (window.end - window.at < 4) yield* cursor.need(4);
		const headerLength = window.view.getUint32(window.at);
		if (headerLength > MAX_FIRMWARE_BLOB) throw cursor.fail(tooLongBlob(headerLength));
		const payloadAt = 4 + headerLength + 4;
		if (window.end - window.at < payloadAt) yield* cursor.need(payloadAt);
		const payloadLength = window.view.getUint32(window.at + 4 + headerLength);
		if (payloadLength > MAX_FIRMWARE_BLOB) throw cursor.fail(tooLongBlob(payloadLength));
		const total = payloadAt + payloadLength;
		if (window.end - window.at < total) yield* cursor.need(total);
		const start = window.at;
		window.at += total;
		this.#handler.encryptedPage?.(
			block,
			address,
			window.bytes.subarray(start + 4, start + 4 + headerLength),
			window.bytes.subarray(start + payloadAt, start + total),
			place,
			prefix,
		);
	}

	/** Nothing on the wire says that the prefix is there: the first encrypted page of the stream has it. */
	*#sessionPrefix(): Parse<SessionPrefix> {
		const policy = yield* this.#cursor.takeU32();
		const pdh = yield* this.#cursor.takeBlob(MAX_FIRMWARE_BLOB, tooLongBlob);
		const session = yield* this.#cursor.takeBlob(MAX_FIRMWARE_BLOB, tooLongBlob);
		this.#sessionRead = true;
		return { policy, pdh, session };
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

	*#blockList(total: number): Parse {
		const cursor = this.#cursor;
		const blocks: StreamBlock[] = [];
		for (let left = total; left > 0; ) {
			if (blocks.length === cursor.limits.blocks) {
				throw cursor.fail({
					code: 'too-large',
					message: `block list: expected at most ${cursor.limits.blocks} blocks, got more`,
				});
			}
			const idstr = yield* cursor.takeName();
			const length = yield* cursor.takeU64();
			// QEMU subtracts without looking and reads on; a list whose sum is not the total has no end of its own.
			if (length > BigInt(left)) {
				throw cursor.fail({
					code: 'block-list',
					message: `block list: expected at most ${left} bytes left for '${idstr}', got ${length}`,
				});
			}
			const usedLength = Number(length);
			blocks.push(
				this.addressesListed ? { idstr, usedLength, address: yield* cursor.takeU64() } : { idstr, usedLength },
			);
			left -= usedLength;
		}
		this.#handler.blockList?.(blocks, total, cursor.place);
	}

	#unknownFlags(flags: number) {
		// QEMU refuses capability-bound records before it looks at the combination. QEMU 7.2 migration/ram.c.
		const compressed = (flags & RamFlag.compressPage) !== 0;
		const hook = !compressed && (flags & RamFlag.hook) !== 0;
		const xbzrle = (flags & ~RamFlag.continue) === RamFlag.xbzrle;
		return this.#cursor.fail({
			code: compressed || hook || xbzrle ? 'unsupported' : 'record',
			message: `RAM record: expected a record of this dialect, got flags 0x${flags.toString(16)}`,
			qemu: compressed
				? ['Received an unexpected compressed page']
				: hook || xbzrle
					? []
					: [`Unknown combination of migration flags: 0x${flags.toString(16)}`],
		});
	}

	#unnamed(high: number, low: number) {
		return this.#cursor.fail({
			code: 'continue',
			message: 'RAM record: expected a block name in the first record, got CONTINUE',
			qemu: ['Ack, bad migration stream!', `Illegal RAM offset ${addressText(high, low)}`],
		});
	}

	#beyond(high: number, low: number) {
		const text = addressText(high, low);
		return this.#cursor.fail({
			code: 'offset',
			message: `RAM record: expected an offset inside the block, got 0x${text}`,
			qemu: [`Illegal RAM offset ${text}`],
		});
	}
}

const addressText = (high: number, low: number): string =>
	((BigInt(high) << 32n) | BigInt((low & ~0xfff) >>> 0)).toString(16);

/** AMDESE/qemu `sev_live_migration_v4` target/i386/sev.c. */
const tooLongBlob = (length: number): StreamFault => ({
	code: 'encrypted',
	message: `encrypted page: expected a blob of at most ${MAX_FIRMWARE_BLOB} bytes, got ${length}`,
	qemu: [`invalid length max=${MAX_FIRMWARE_BLOB} got=${length}`],
});
