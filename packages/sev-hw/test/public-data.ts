import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const { CVM_PUBLIC_DATA: folder } = process.env;

/** Whether the folder of real certificates and published inputs was named; without it those tests are skipped. */
export const hasPublicData = folder !== undefined && folder !== '';

/** For the title of a suite that may be skipped: says what it needs. */
export const NEEDS_PUBLIC_DATA = '(needs CVM_PUBLIC_DATA, the folder of public data)';

/** A file of that folder. */
export function publicFile(...path: string[]): Uint8Array {
	if (folder === undefined) throw new Error('CVM_PUBLIC_DATA: expected a folder, got nothing');
	return Uint8Array.from(readFileSync(join(folder, ...path)));
}

export const PRODUCTS = ['naples', 'rome', 'milan', 'genoa', 'turin'] as const;
