import { PAGE_SIZE } from '@cvm/layout';
import {
	COMMAND_RULES,
	EncryptedSubtype,
	MAX_COMPRESSED_PAGE,
	MAX_FIRMWARE_BLOB,
	RamFlag,
	SectionType,
} from '../abi/stream.js';
import type { DialectRules } from '../dialect.js';

/** What is known of a stream before a gap in it. */
export interface ScanKnowledge {
	readonly rules: DialectRules;
	/** Bytes of each block; undefined: no list was read, and every name is possible. */
	readonly blocks: ReadonlyMap<string, number> | undefined;
	/** The block named last, which a record with CONTINUE may mean. */
	readonly lastBlock: string | undefined;
	/** Names of the sections introduced so far, by id. */
	readonly sections: ReadonlyMap<number, string>;
}

/** Where reading can go on. */
export interface ResyncPoint {
	readonly at: number;
	/** `record`: a record inside a `ram` section; `element`: a section, or what else may follow a footer. */
	readonly kind: 'record' | 'element';
	/** The record does not name its block; this one is assumed, since it was named last. */
	readonly assumedBlock?: string;
}

/** Records that must follow one another to be believed. */
const CHAIN = 3;
/** Bytes that must be looked at behind a point to judge it: a chain of records of the greatest length. */
export const SCAN_LOOK_AHEAD = 64 * 1024;
/** Version of a section at most; QEMU 7.2 has none above 60. */
const MAX_VERSION = 1000;

/**
 * Finds the first point from `from` on, before `to`, where a stream can be read again. What lies between `to` and the end of
 * the view is only looked at; `final`: the input ends there.
 *
 * A record is believed when three follow one another, or when EOS and the footer of `ram` end the chain; a section when its
 * header is plausible and its id fits what is known; a footer when its id is known and an element follows. Guest memory that
 * itself holds a migration stream can deceive this, which is why whatever is read after a gap is marked.
 */
export function findResync(
	view: DataView,
	from: number,
	to: number,
	final: boolean,
	known: ScanKnowledge,
): ResyncPoint | undefined {
	const scan = new Scan(view, final, known);
	for (let at = from; at < to; at++) {
		const point = scan.pointAt(at);
		if (point !== undefined) return point;
	}
	return undefined;
}

/** The end of a record and its block; `end` of the records with what follows; undefined if it is none. */
type RecordShape = { readonly end: number; readonly block: string | undefined } | 'last' | undefined;

class Scan {
	readonly #view: DataView;
	readonly #end: number;
	readonly #final: boolean;
	readonly #known: ScanKnowledge;
	readonly #ramIds: readonly number[];

	constructor(view: DataView, final: boolean, known: ScanKnowledge) {
		this.#view = view;
		this.#end = view.byteLength;
		this.#final = final;
		this.#known = known;
		this.#ramIds = [...known.sections].filter(([, name]) => name === 'ram').map(([id]) => id);
	}

	pointAt(at: number): ResyncPoint | undefined {
		switch (this.#view.getUint8(at)) {
			case 0:
				if (this.#isEnd(at)) return { at, kind: 'element' };
				return this.#recordPoint(at);
			case SectionType.start:
			case SectionType.full:
				return this.#introduces(at) ? { at, kind: 'element' } : undefined;
			case SectionType.part:
			case SectionType.end:
				return this.#continues(at) ? { at, kind: 'element' } : undefined;
			case SectionType.footer: {
				if (at + 5 > this.#end || !this.#known.sections.has(this.#view.getUint32(at + 1))) return undefined;
				return this.#isElement(at + 5) ? { at: at + 5, kind: 'element' } : undefined;
			}
			default:
				return undefined;
		}
	}

	#recordPoint(at: number): ResyncPoint | undefined {
		// Addresses stay below 2^48; this alone rules out most bytes of most pages.
		if (at + 8 > this.#end || this.#view.getUint16(at) !== 0) return undefined;
		const low = this.#view.getUint32(at + 4);
		if ((low & 0xfff) === 0) return undefined;
		const continued = (low & RamFlag.continue) !== 0;
		const lastBlock = this.#known.lastBlock;
		if (!this.#isChain(at)) return undefined;
		const names = (low & 0xfff & ~RamFlag.continue & this.#known.rules.namedFlags) !== 0;
		return continued && names && lastBlock !== undefined
			? { at, kind: 'record', assumedBlock: lastBlock }
			: { at, kind: 'record' };
	}

	#isChain(at: number): boolean {
		let block = this.#known.lastBlock;
		for (let count = 0; count < CHAIN; count++) {
			const shape = this.#record(at, block);
			if (shape === 'last') return true;
			if (shape === undefined) return false;
			at = shape.end;
			block = shape.block;
		}
		return true;
	}

	#record(at: number, lastBlock: string | undefined): RecordShape {
		const view = this.#view;
		if (at + 8 > this.#end || view.getUint16(at) !== 0) return undefined;
		const low = view.getUint32(at + 4);
		const flags = low & 0xfff;
		const kind = flags & ~RamFlag.continue;
		const address = view.getUint32(at) * 2 ** 32 + (low - flags);
		const { rules, blocks } = this.#known;
		if (kind === RamFlag.endOfSection) return address === 0 && this.#isRamFooter(at + 8) ? 'last' : undefined;
		if (kind === RamFlag.multifdFlush && rules.flag200 === 'multifd-flush') {
			return address === 0 ? { end: at + 8, block: lastBlock } : undefined;
		}
		if ((kind & rules.namedFlags) !== kind || (kind & (kind - 1)) !== 0 || kind === 0) return undefined;
		let block = lastBlock;
		let body = at + 8;
		if ((flags & RamFlag.continue) === 0) {
			block = this.#name(body);
			body += 1 + (block?.length ?? 0);
		}
		if (block === undefined) return undefined;
		const length = blocks === undefined ? Number.POSITIVE_INFINITY : blocks.get(block);
		if (length === undefined || address >= length) return undefined;
		const end = this.#bodyEnd(kind, body);
		return end === undefined || end > this.#end ? undefined : { end, block };
	}

	#bodyEnd(kind: number, at: number): number | undefined {
		switch (kind) {
			case RamFlag.page:
				return at + PAGE_SIZE;
			case RamFlag.zero:
				// Every source sends 0.
				return at < this.#end && this.#view.getUint8(at) === 0 ? at + 1 : undefined;
			case RamFlag.xbzrle: {
				if (at + 3 > this.#end || this.#view.getUint8(at) !== 1) return undefined;
				const length = this.#view.getUint16(at + 1);
				return length >= 3 && length <= PAGE_SIZE ? at + 3 + length : undefined;
			}
			case RamFlag.compressPage: {
				if (at + 5 > this.#end || this.#view.getUint8(at + 4) !== 0x78) return undefined;
				const length = this.#view.getUint32(at);
				return length <= MAX_COMPRESSED_PAGE ? at + 4 + length : undefined;
			}
			default:
				return this.#sealedEnd(at);
		}
	}

	/** An encrypted page without session prefix, or a migration helper's. */
	#sealedEnd(at: number): number | undefined {
		let body = at;
		if (this.#known.rules.flag200 === 'encrypted-data') {
			const subtype = this.#word(at);
			const helper = subtype === EncryptedSubtype.migrationHelperPage && this.#known.rules.helperPages === true;
			if (subtype !== EncryptedSubtype.page && !helper) return undefined;
			body += 4;
		}
		const header = this.#word(body);
		if (header === undefined || header > MAX_FIRMWARE_BLOB) return undefined;
		return this.#word(body + 4 + header) === PAGE_SIZE ? body + 8 + header + PAGE_SIZE : undefined;
	}

	#word(at: number): number | undefined {
		return at + 4 > this.#end ? undefined : this.#view.getUint32(at);
	}

	/** A name of 1 to 255 printable characters, of the list if there is one. */
	#name(at: number, listed = true): string | undefined {
		if (at >= this.#end) return undefined;
		const length = this.#view.getUint8(at);
		if (length === 0 || at + 1 + length > this.#end) return undefined;
		let name = '';
		for (let i = at + 1; i <= at + length; i++) {
			const code = this.#view.getUint8(i);
			if (code < 0x20 || code > 0x7e) return undefined;
			name += String.fromCharCode(code);
		}
		return !listed || this.#known.blocks?.has(name) !== false ? name : undefined;
	}

	/** The footer of `ram`; with an unknown id, an element must follow. */
	#isRamFooter(at: number): boolean {
		if (at + 5 > this.#end || this.#view.getUint8(at) !== SectionType.footer) return false;
		return this.#ramIds.length > 0 ? this.#ramIds.includes(this.#view.getUint32(at + 1)) : this.#isElement(at + 5);
	}

	#introduces(at: number): boolean {
		if (at + 6 > this.#end) return false;
		const id = this.#view.getUint32(at + 1);
		const name = this.#name(at + 5, false);
		if (name === undefined || name.length < 2) return false;
		const user = this.#known.sections.get(id);
		if (user !== undefined && user !== name) return false;
		const fields = at + 6 + name.length;
		const [instance, version] = [this.#word(fields), this.#word(fields + 4)];
		if (instance === undefined || version === undefined) return false;
		return (instance < 0x10000 || instance === 0xffffffff) && version <= MAX_VERSION;
	}

	#continues(at: number): boolean {
		if (at + 5 > this.#end) return false;
		const id = this.#view.getUint32(at + 1);
		const name = this.#known.sections.get(id);
		if (name === 'ram') return this.#record(at + 5, this.#known.lastBlock) !== undefined;
		// Without a START of `ram`, its PARTs are known by their records alone.
		return name === undefined && this.#ramIds.length === 0 && this.#isChain(at + 5);
	}

	/** EOF and a description. */
	#isEnd(at: number): boolean {
		if (at + 8 > this.#end || this.#view.getUint8(at + 1) !== SectionType.vmDescription) return false;
		return this.#view.getUint16(at + 6) === 0x7b22;
	}

	#isElement(at: number): boolean {
		if (at >= this.#end) return this.#final;
		const type = this.#view.getUint8(at);
		switch (type) {
			case SectionType.eof:
				return this.#isEnd(at) || (this.#final && at + 1 === this.#end);
			case SectionType.start:
			case SectionType.full:
				return this.#introduces(at);
			case SectionType.part:
			case SectionType.end:
				return at + 5 <= this.#end && this.#known.sections.has(this.#view.getUint32(at + 1));
			case SectionType.command:
				return at + 3 <= this.#end && COMMAND_RULES.has(this.#view.getUint16(at + 1));
			default:
				return false;
		}
	}
}
