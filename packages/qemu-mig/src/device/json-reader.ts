import { bytesToName } from '../latin1.js';
import { DescriptionError } from './error.js';

/** Longest string accepted; QEMU's names end at 255. */
const MAX_STRING = 4096;

const ESCAPES: ReadonlyMap<number, string> = new Map([
	[0x22, '"'],
	[0x5c, '\\'],
	[0x2f, '/'],
	[0x62, '\b'],
	[0x66, '\f'],
	[0x6e, '\n'],
	[0x72, '\r'],
	[0x74, '\t'],
]);

const INTEGER = /^-?(?:0|[1-9][0-9]*)$/;
const NUMBER = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/;

/** Caps of a {@link JsonReader}. */
interface JsonLimits {
	/** Objects and arrays inside each other. */
	readonly depth: number;
	/** Values of any kind. */
	readonly values: number;
}

/**
 * Reads RFC 8259 JSON of pure ASCII, as QEMU's qobject/json-writer.c writes it, by pulling: no tree of its own, members in
 * order and repeated ones too. Every fault is a {@link DescriptionError} with its byte.
 */
export class JsonReader {
	readonly #bytes: Uint8Array;
	readonly #limits: JsonLimits;
	#at = 0;
	#depth = 0;
	#values = 0;

	constructor(bytes: Uint8Array, limits: JsonLimits) {
		this.#bytes = bytes;
		this.#limits = limits;
	}

	/** Byte of the next value. */
	get offset(): number {
		this.#space();
		return this.#at;
	}

	/** Reads an object; `member` must read the value of each. @returns the byte it began at */
	object(member: (name: string, offset: number) => void): number {
		const start = this.#open(0x7b, 'an object');
		if (!this.#closed(0x7d)) {
			do {
				const offset = this.offset;
				const name = this.#string();
				this.#expect(0x3a, "':'");
				member(name, offset);
			} while (this.#more(0x7d, "',' or '}'"));
		}
		this.#depth -= 1;
		return start;
	}

	/** Reads an array; `item` must read each value. */
	array(item: () => void): void {
		this.#open(0x5b, 'an array');
		if (!this.#closed(0x5d)) {
			do item();
			while (this.#more(0x5d, "',' or ']'"));
		}
		this.#depth -= 1;
	}

	string(): string {
		this.#count();
		return this.#string();
	}

	/** An integer of at least `least` and at most `most`. */
	integer(least: number, most = Number.MAX_SAFE_INTEGER): number {
		this.#count();
		const start = this.offset;
		const text = this.#word();
		const value = Number(text);
		if (INTEGER.test(text) && value >= least && value <= most) return value === 0 ? 0 : value;
		throw this.fail('shape', start, `expected an integer from ${least} to ${most}, got ${text || this.#shown(start)}`);
	}

	/** Reads any value. @returns its text, as it stands */
	raw(): string {
		const start = this.offset;
		this.#any();
		return bytesToName(this.#bytes.subarray(start, this.#at));
	}

	/** Nothing but white space may be left. */
	end(): void {
		const at = this.offset;
		if (at < this.#bytes.length) throw this.fail('syntax', at, `expected the end, got ${this.#shown(at)}`);
	}

	fail(code: DescriptionError['code'], offset: number, message: string): DescriptionError {
		return new DescriptionError(code, offset, message);
	}

	#any(): void {
		const at = this.offset;
		switch (this.#bytes[at]) {
			case 0x7b:
				this.object(() => this.#any());
				return;
			case 0x5b:
				this.array(() => this.#any());
				return;
			case 0x22:
				this.string();
				return;
			default: {
				this.#count();
				const word = this.#word();
				if (NUMBER.test(word) || word === 'true' || word === 'false' || word === 'null') return;
				throw this.fail('syntax', at, `expected a value, got ${this.#shown(at)}`);
			}
		}
	}

	#space(): void {
		for (let byte = this.#bytes[this.#at]; ; byte = this.#bytes[++this.#at]) {
			if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return;
		}
	}

	#count(): void {
		this.#values += 1;
		if (this.#values <= this.#limits.values) return;
		throw this.fail('too-large', this.#at, `expected at most ${this.#limits.values} values, got more`);
	}

	#open(mark: number, what: string): number {
		this.#count();
		const start = this.offset;
		if (this.#bytes[start] !== mark) {
			throw this.fail(this.#isValue(start) ? 'shape' : 'syntax', start, `expected ${what}, got ${this.#shown(start)}`);
		}
		this.#at += 1;
		this.#depth += 1;
		if (this.#depth <= this.#limits.depth) return start;
		throw this.fail('too-deep', start, `expected nesting of at most ${this.#limits.depth}, got ${this.#depth}`);
	}

	/** Whether a value could begin here, so that JSON is right but the description is not. */
	#isValue(at: number): boolean {
		return /[[{"\-0-9tfn]/.test(String.fromCharCode(this.#bytes[at] ?? 0));
	}

	#closed(mark: number): boolean {
		if (this.#bytes[this.offset] !== mark) return false;
		this.#at += 1;
		return true;
	}

	#more(close: number, what: string): boolean {
		if (this.#closed(close)) return false;
		this.#expect(0x2c, what);
		return true;
	}

	#expect(mark: number, what: string): void {
		const at = this.offset;
		if (this.#bytes[at] !== mark) throw this.fail('syntax', at, `expected ${what}, got ${this.#shown(at)}`);
		this.#at += 1;
	}

	/** A number or literal: what stands up to the next separator. */
	#word(): string {
		const start = this.offset;
		let end = start;
		while (end < this.#bytes.length && end - start < 64 && !isSeparator(this.#bytes[end] ?? 0)) end += 1;
		this.#at = end;
		return bytesToName(this.#bytes.subarray(start, end));
	}

	#string(): string {
		const start = this.offset;
		if (this.#bytes[start] !== 0x22) {
			throw this.fail(this.#isValue(start) ? 'shape' : 'syntax', start, `expected a string, got ${this.#shown(start)}`);
		}
		let text = '';
		let plain = start + 1;
		for (let at = plain; ; at++) {
			const byte = this.#bytes[at];
			if (at - start > MAX_STRING) {
				throw this.fail('too-large', start, `expected a string of at most ${MAX_STRING} bytes, got more`);
			}
			if (byte === undefined || byte < 0x20 || byte > 0x7f) {
				throw this.fail('syntax', at, `expected printable ASCII or '"', got ${this.#shown(at)}`);
			}
			if (byte === 0x22) {
				this.#at = at + 1;
				return text + bytesToName(this.#bytes.subarray(plain, at));
			}
			if (byte !== 0x5c) continue;
			text += bytesToName(this.#bytes.subarray(plain, at)) + this.#escape(at + 1);
			at += this.#bytes[at + 1] === 0x75 ? 5 : 1;
			plain = at + 1;
		}
	}

	/** What follows a backslash: one character, or `u` and four hexadecimal digits. */
	#escape(at: number): string {
		const simple = ESCAPES.get(this.#bytes[at] ?? 0);
		if (simple !== undefined) return simple;
		const digits = bytesToName(this.#bytes.subarray(at + 1, at + 5));
		if (this.#bytes[at] === 0x75 && /^[0-9a-fA-F]{4}$/.test(digits)) {
			return String.fromCharCode(Number.parseInt(digits, 16));
		}
		throw this.fail('syntax', at, `expected an escape, got ${this.#shown(at)}`);
	}

	#shown(at: number): string {
		const byte = this.#bytes[at];
		if (byte === undefined) return 'the end';
		return byte > 0x20 && byte < 0x7f ? `'${String.fromCharCode(byte)}'` : `0x${byte.toString(16).padStart(2, '0')}`;
	}
}

/** White space, and what separates values. */
const isSeparator = (byte: number): boolean =>
	byte <= 0x20 || byte === 0x2c || byte === 0x5d || byte === 0x7d || byte === 0x3a || byte === 0x22;
