/** Returned for a sequence that is not the shortest form of a Unicode character that may be interchanged. */
export const INVALID = -1;

/** Whether UTF-8 text may hold this code point: no surrogate, no noncharacter (qemu 7.2 util/unicode.c). */
export const isCharacter = (point: number): boolean =>
	point >= 0 &&
	point <= 0x10ffff &&
	!(point >= 0xd800 && point <= 0xdfff) &&
	!(point >= 0xfdd0 && point <= 0xfdef) &&
	(point & 0xfffe) !== 0xfffe;

/** The code point that starts at `at`, or {@link INVALID}, and how many bytes it took (at least 1). */
export function codePointAt(text: Uint8Array, at: number): { point: number; length: number } {
	const lead = text[at] ?? 0;
	if (lead < 0x80) return { point: lead, length: 1 };
	const following = lead >= 0xfc || lead < 0xc0 ? 0 : lead >= 0xf8 ? 4 : lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
	if (following === 0) return { point: INVALID, length: 1 };
	let point = lead & (0x3f >> following);
	for (let i = 1; i <= following; i++) {
		const byte = text[at + i] ?? 0;
		if ((byte & 0xc0) !== 0x80) return { point: INVALID, length: i };
		point = point * 64 + (byte & 0x3f);
	}
	const shortest = [0, 0x80, 0x800, 0x10000, 0x200000][following] ?? 0;
	// C0 80 is how QEMU keeps a NUL inside a C string.
	const overlong = point < shortest && !(following === 1 && point === 0);
	return { point: overlong || !isCharacter(point) ? INVALID : point, length: following + 1 };
}

/** Text for a message: what is not UTF-8 becomes U+FFFD, and a NUL ends it, as in a C string. */
export function readableText(text: Uint8Array): string {
	let out = '';
	for (let at = 0; at < text.length && text[at] !== 0; ) {
		const { point, length } = codePointAt(text, at);
		out += String.fromCodePoint(point === INVALID ? 0xfffd : point);
		at += length;
	}
	return out;
}

/** The bytes of a text that is known to be ASCII: everything this package writes is. */
export const asciiBytes = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));
