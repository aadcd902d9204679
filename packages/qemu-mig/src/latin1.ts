/**
 * Names on the wire are bytes. They become strings of the same number of characters (Latin-1), so that any byte
 * survives reading and writing; every name QEMU writes is ASCII.
 */
export function bytesToName(data: Uint8Array): string {
	let text = '';
	for (const byte of data) text += String.fromCharCode(byte);
	return text;
}

/** Writes a text of characters up to U+00FF at `at` and returns the index after it. @throws RangeError on a wider character */
export function nameInto(out: Uint8Array, at: number, text: string): number {
	for (let i = 0; i < text.length; i++) {
		const code = text.charCodeAt(i);
		if (code > 0xff) throw new RangeError(`name: expected characters of one byte, got U+${code.toString(16)}`);
		out[at + i] = code;
	}
	return at + text.length;
}

/** Bytes of a text of characters up to U+00FF. @throws RangeError on a wider character */
export function nameToBytes(text: string): Uint8Array {
	const out = new Uint8Array(text.length);
	nameInto(out, 0, text);
	return out;
}

/** A message in one line, whatever names of others' streams it quotes: control characters become `\xNN`. */
export const oneLine = (message: string): string =>
	message.replace(/\p{Cc}/gu, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`);
