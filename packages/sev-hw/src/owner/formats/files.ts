import { OwnerError } from '../error.js';

/** Files of a public tool: name (without a folder) → contents. */
export type Files = Readonly<Record<string, Uint8Array>>;

/** The file with a name. @throws OwnerError `file` if it is missing or not `size` bytes long */
export function fileOf(files: Files, name: string, size?: number): Uint8Array {
	const data = Object.hasOwn(files, name) ? files[name] : undefined;
	if (data === undefined) throw new OwnerError('file', `${name}: expected a file, got none`);
	return size === undefined ? data : sized(data, name, size);
}

/** The bytes themselves. @throws OwnerError `file` if there are not `size` */
export function sized(data: Uint8Array, what: string, size: number): Uint8Array {
	if (data.length !== size) throw new OwnerError('file', `${what}: expected ${size} bytes, got ${data.length}`);
	return data;
}

/** ASCII text as bytes. */
export const ascii = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** Text of at most `limit` ASCII bytes. @throws OwnerError `file` */
export function asciiText(data: Uint8Array, what: string, limit: number): string {
	if (data.length > limit) {
		throw new OwnerError('file', `${what}: expected at most ${limit} bytes, got ${data.length}`);
	}
	const bad = data.findIndex((byte) => byte > 0x7e);
	if (bad >= 0) throw new OwnerError('file', `${what}: expected ASCII text, got byte 0x${data[bad]?.toString(16)}`);
	return Array.from(data, (byte) => String.fromCharCode(byte)).join('');
}
