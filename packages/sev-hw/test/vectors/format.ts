import { fromHex } from '@cvm/layout';

/** A JSON value. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };
export type JsonObject = { readonly [name: string]: Json };

/** One case of a vector file: see `vectors/README.md`. */
export interface VectorCase {
	readonly id: string;
	readonly comment: string;
	readonly provenance: { readonly kind: 'published' | 'computed'; readonly source: string };
	readonly input: JsonObject;
	readonly expect: JsonObject & { readonly status: string };
}

/** A vector file: cases of one operation. */
export interface VectorFile {
	readonly format: 'cvm-sev-vectors';
	readonly version: 1;
	readonly operation: string;
	readonly description: string;
	readonly blobs?: Readonly<Record<string, string>>;
	readonly cases: readonly VectorCase[];
}

/** Where a case finds the bytes that it only names. */
export interface Binaries {
	readonly blobs: Readonly<Record<string, string>>;
	/** Contents of a file of public data, whose hash the caller has checked. */
	readonly file: (path: string, sha256: string) => Uint8Array;
}

const isObject = (value: Json | undefined): value is JsonObject =>
	typeof value === 'object' && value !== null && !Array.isArray(value);

/** The files of public data that a value names. */
export function filesIn(value: Json): readonly string[] {
	if (Array.isArray(value)) return value.flatMap(filesIn);
	if (!isObject(value)) return [];
	return typeof value['file'] === 'string' ? [value['file']] : Object.values(value).flatMap(filesIn);
}

/** The fields of a case's input, read by kind; a missing or unfit one fails with its name. */
export class Input {
	private readonly fields: JsonObject;
	private readonly binaries: Binaries;

	constructor(fields: JsonObject, binaries: Binaries) {
		this.fields = fields;
		this.binaries = binaries;
	}

	has(name: string): boolean {
		return this.fields[name] !== undefined;
	}

	number(name: string): number {
		const value = this.fields[name];
		return typeof value === 'number' ? value : this.unfit(name, 'a number');
	}

	flag(name: string): boolean {
		const value = this.fields[name];
		return typeof value === 'boolean' ? value : this.unfit(name, 'true or false');
	}

	text(name: string): string {
		const value = this.fields[name];
		return typeof value === 'string' ? value : this.unfit(name, 'a text');
	}

	object(name: string): Input {
		const value = this.fields[name];
		return isObject(value) ? new Input(value, this.binaries) : this.unfit(name, 'an object');
	}

	list(name: string): readonly Input[] {
		const value = this.fields[name];
		if (!Array.isArray(value)) return this.unfit(name, 'a list');
		return value.map((item: Json) =>
			isObject(item) ? new Input(item, this.binaries) : this.unfit(name, 'a list of objects'),
		);
	}

	bytes(name: string): Uint8Array {
		const value = this.fields[name];
		if (typeof value === 'string') return fromHex(value);
		if (!isObject(value)) return this.unfit(name, 'bytes');
		const { blob, file, sha256 } = value;
		if (typeof file === 'string' && typeof sha256 === 'string') return this.binaries.file(file, sha256);
		const hex = typeof blob === 'string' ? this.binaries.blobs[blob] : undefined;
		if (hex === undefined) return this.unfit(name, 'a blob of this file');
		return this.patched(fromHex(hex), new Input(value, this.binaries));
	}

	private patched(original: Uint8Array, change: Input): Uint8Array {
		const out = new Uint8Array(change.has('length') ? change.number('length') : original.length);
		out.set(original.subarray(0, out.length));
		if (change.has('patch')) for (const patch of change.list('patch')) out.set(patch.bytes('hex'), patch.number('at'));
		return out;
	}

	private unfit(name: string, expected: string): never {
		throw new Error(`input ${name}: expected ${expected}, got ${JSON.stringify(this.fields[name])?.slice(0, 60)}`);
	}
}
