import { nobleProvider, seededRandom } from '@cvm/crypto';
import { toHex } from '@cvm/layout';
import { generateP384PrivateKey } from '../../src/certificates/key-generation.js';
import { filesIn, Input, type JsonObject, type VectorCase, type VectorFile } from './format.js';
import { operations } from './operations.js';
import { PUBLIC_FILES } from './public-files.js';

/** The only provider that generation uses: its signatures are deterministic (RFC 6979). */
export const provider = nobleProvider;

/** All secrets and nonces of the computed cases come from here, each by its name. */
const SEED = 'cvm-sev-vectors-1';
const seed = seededRandom(SEED);
const COMPUTED = { kind: 'computed', source: `own computation; keys and nonces from the seed ${SEED}` } as const;
const FIXED = { kind: 'computed', source: 'own computation with the inputs written here' } as const;

/** `length` bytes that depend on the seed and a name only. */
export const drawn = (name: string, length = 16): Uint8Array => seed.fork(name).bytes(length);
/** A valid P-384 private key that depends on the seed and a name only. */
export const privateKey = (name: string): Uint8Array => generateP384PrivateKey(provider, seed.fork(name));

export const zeros = (length: number): Uint8Array => new Uint8Array(length);
export const repeated = (byte: number, length: number): Uint8Array => new Uint8Array(length).fill(byte);
export const counting = (from: number, length = 16): Uint8Array => Uint8Array.from({ length }, (_, i) => from + i);
export const ascii = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));
export const fromBase64 = (text: string): Uint8Array => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** A case as it is written down: bytes still as bytes, and only such outputs as are known beforehand. */
export interface Draft {
	readonly id: string;
	readonly comment: string;
	readonly input: DraftFields;
	readonly expect: DraftFields & { readonly status: string };
	readonly provenance: VectorCase['provenance'];
}
type DraftValue = undefined | boolean | number | string | Uint8Array | readonly DraftFields[] | DraftFields;
export interface DraftFields {
	readonly [name: string]: DraftValue;
}

/** A case that gives `known` outputs, and others that only the generator computes. */
export const good = (id: string, comment: string, input: DraftFields, known: DraftFields = {}): Draft => ({
	...{ id, comment, input, provenance: COMPUTED },
	expect: { status: 'SUCCESS', ...known },
});
/** A case that is refused with a status, and perhaps says more. */
export const bad = (
	id: string,
	status: string,
	comment: string,
	input: DraftFields,
	more: DraftFields = {},
): Draft => ({
	...{ id, comment, input, provenance: COMPUTED },
	expect: { status, ...more },
});
/** The same case, from a public source. */
export const published = (source: string, draft: Draft): Draft => ({
	...draft,
	provenance: { kind: 'published', source },
});
/** The same case, where every input is plain to see. */
export const fixed = (draft: Draft): Draft => ({ ...draft, provenance: FIXED });

/** A named blob, changed: bytes replaced at offsets, or another length. */
export function changed(blob: string, patches: readonly (readonly [at: number, bytes: Uint8Array])[], length?: number) {
	const patch = patches.map(([at, bytes]) => ({ at, hex: toHex(bytes) }));
	return { blob, ...(patch.length > 0 && { patch }), ...(length !== undefined && { length }) };
}
export const blob = (name: string) => ({ blob: name });
/** A file of public data. */
export function publicFile(file: string) {
	const sha256 = PUBLIC_FILES[file];
	if (sha256 === undefined) throw new Error(`${file}: no public file`);
	return { file, sha256 };
}

function plain(value: DraftValue): JsonObject[string] {
	if (value instanceof Uint8Array) return toHex(value);
	if (Array.isArray(value)) return value.map((item: DraftFields) => plain(item));
	if (typeof value !== 'object') return value ?? null;
	const fields = Object.entries(value).filter(([, field]) => field !== undefined);
	return Object.fromEntries(fields.map(([name, field]) => [name, plain(field)]));
}

/**
 * A vector file of these cases. Runs each, where no public data is needed, to fill in the outputs.
 *
 * @throws Error if a case does not give the status and outputs that its draft says
 */
export function vectorFile(
	operation: string,
	description: string,
	drafts: readonly Draft[],
	binaries: Readonly<Record<string, Uint8Array>> = {},
): VectorFile {
	const blobs = Object.fromEntries(Object.entries(binaries).map(([name, bytes]) => [name, toHex(bytes)]));
	const cases = drafts.map((draft) => finished(operation, draft, blobs));
	const head = { format: 'cvm-sev-vectors', version: 1, operation, description } as const;
	return { ...head, ...(Object.keys(blobs).length > 0 && { blobs }), cases };
}

function finished(operation: string, draft: Draft, blobs: Readonly<Record<string, string>>): VectorCase {
	const input = plain(draft.input) as JsonObject;
	const known = plain(draft.expect) as VectorCase['expect'];
	const { id, comment, provenance } = draft;
	if (filesIn(input).length > 0) return { id, comment, provenance, input, expect: known };
	const file = () => {
		throw new Error('no public data here');
	};
	const outcome = operations[operation]?.(provider, new Input(input, { blobs, file }));
	for (const [name, value] of Object.entries(known)) {
		const got = outcome?.[name];
		if (got !== value) throw new Error(`${operation} ${id}: ${name}: expected ${value}, got ${got}`);
	}
	return { id, comment, provenance, input, expect: { ...outcome, status: known.status } };
}
