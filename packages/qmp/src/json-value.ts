/** A JSON value. Integers read from the wire may be `bigint`, see `integers` of `createJsonStream`. */
export type JsonValue =
	| null
	| boolean
	| number
	| bigint
	| string
	| readonly JsonValue[]
	| { readonly [key: string]: JsonValue };
/** A JSON object. */
export type JsonObject = { readonly [key: string]: JsonValue };

/** Whether a value is an object, not an array and not null. */
export const isJsonObject = (value: JsonValue | undefined): value is JsonObject =>
	typeof value === 'object' && value !== null && !Array.isArray(value);

const SHORT: Readonly<Record<string, string>> = {
	'"': '\\"',
	'\\': '\\\\',
	'\b': '\\b',
	'\f': '\\f',
	'\n': '\\n',
	'\r': '\\r',
	'\t': '\\t',
};
const hex4 = (c: string) => c.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0');
const quoted = (text: string) => `"${text.replace(/["\\]|[^ -~]/g, (c) => SHORT[c] ?? `\\u${hex4(c)}`)}"`;
// JSON has no infinity; a number too large to hold reads back as one.
const numeral = (n: number) => (Number.isFinite(n) ? String(n) : Number.isNaN(n) ? 'null' : n < 0 ? '-1e999' : '1e999');

/** One line of JSON as QEMU writes it: `", "` and `": "` between members, ASCII only (qemu 7.2 qobject/qjson.c). */
export function jsonText(value: JsonValue): string {
	if (value === null || typeof value === 'boolean' || typeof value === 'bigint') return String(value);
	if (typeof value === 'number') return numeral(value);
	if (typeof value === 'string') return quoted(value);
	if (Array.isArray(value)) return `[${value.map(jsonText).join(', ')}]`;
	const members = Object.entries(value).filter(([, v]) => v !== undefined);
	return `{${members.map(([k, v]) => `${quoted(k)}: ${jsonText(v)}`).join(', ')}}`;
}
