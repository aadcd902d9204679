import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { publicFile } from '../public-data.js';
import { Input, type JsonObject, type VectorCase, type VectorFile } from './format.js';

const folder = fileURLToPath(new URL('../../../../vectors', import.meta.url));

/** Names of the committed vector files. */
export const vectorNames = (): readonly string[] =>
	readdirSync(`${folder}/sev`)
		.filter((name) => name.endsWith('.json'))
		.sort();

/** The text of a committed vector file. */
export const vectorText = (name: string): string => readFileSync(`${folder}/sev/${name}`, 'utf8');

/** The schema of vector files. */
export const vectorSchema = (): JsonObject => JSON.parse(readFileSync(`${folder}/schema.json`, 'utf8'));

/** The committed cases of an operation. */
export const readVectors = (operation: string): VectorFile => JSON.parse(vectorText(`${operation}.json`));

/** The input of a case, with all that it names. */
export function inputOf({ blobs = {} }: VectorFile, { input }: VectorCase): Input {
	const file = (path: string, sha256: string) => {
		const data = publicFile(...path.split('/'));
		const got = createHash('sha256').update(data).digest('hex');
		if (got !== sha256) throw new Error(`${path}: expected SHA-256 ${sha256}, got ${got}`);
		return data;
	};
	return new Input(input, { blobs, file });
}

/** One case by its id: its input, and its outputs as hex. */
export function vector(operation: string, id: string): { input: Input; output: (name: string) => string } {
	const file = readVectors(operation);
	const found = file.cases.find((c) => c.id === id);
	if (found === undefined) throw new Error(`${operation}: no case ${id}`);
	return { input: inputOf(file, found), output: (name) => `${found.expect[name]}` };
}
