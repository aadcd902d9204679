/** `cvm owner` in this process: the command line, with what it writes and where. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inProcess } from './in-process.js';

/** Runs `cvm owner …` here and takes what it says. */
export const owner = (...argv: readonly string[]) => inProcess('owner', ...argv);

/** A folder of one test's files. */
export class Folder {
	readonly path = mkdtempSync(join(tmpdir(), 'cvm-owner-'));

	at = (name: string): string => join(this.path, name);

	/** Writes a file. @returns its path */
	write(name: string, data: Uint8Array | string): string {
		writeFileSync(this.at(name), data);
		return this.at(name);
	}

	read = (name: string): Uint8Array => new Uint8Array(readFileSync(this.at(name)));
	text = (name: string): string => readFileSync(this.at(name), 'utf8');
	names = (): string[] => readdirSync(this.path).sort();
	remove = (): void => rmSync(this.path, { recursive: true, force: true });
}

export const base64 = (data: Uint8Array): string => Buffer.from(data).toString('base64');
export const hex = (data: Uint8Array): string => Buffer.from(data).toString('hex');
export const fromBase64 = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'base64'));
