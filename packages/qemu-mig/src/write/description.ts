import { PAGE_SIZE } from '@cvm/layout';
import { nameToBytes } from '../latin1.js';

/** A FULL section as the description names it. */
export interface DescribedSection {
	readonly idstr: string;
	readonly instanceId: number;
	/** Bytes of the body. */
	readonly size: number;
}

/**
 * The VMDESCRIPTION text for opaque sections, in the form QEMU 7.2 writes for old-style devices: one field `data` of
 * type `buffer`. Separators ", " and ": ", ASCII, one line.
 */
export function describeSections(sections: readonly DescribedSection[]): Uint8Array {
	const devices = sections.map(
		({ idstr, instanceId, size }) =>
			`{"name": ${quoted(idstr)}, "instance_id": ${instanceId}, "size": ${size}, ` +
			`"fields": [{"name": "data", "size": ${size}, "type": "buffer"}]}`,
	);
	let text = `{"page_size": ${PAGE_SIZE}, "devices": [${devices.join(', ')}]}`;
	// scripts/analyze-migration.py looks for '{' after the last NUL, which is in the length: no byte of it may be '{'.
	while (hasBrace(text.length)) text += ' ';
	return nameToBytes(text);
}

function hasBrace(length: number): boolean {
	for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) if (rest % 256 === 0x7b) return true;
	return false;
}

/** JSON string, pure ASCII. */
function quoted(text: string): string {
	let out = '';
	for (const character of JSON.stringify(text)) {
		const code = character.charCodeAt(0);
		out += code < 0x7f ? character : `\\u${code.toString(16).padStart(4, '0')}`;
	}
	return out;
}
