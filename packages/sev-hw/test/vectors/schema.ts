import type { Json, JsonObject } from './format.js';

/** What `schema.json` uses of JSON Schema 2020-12; any other keyword is an error, so that none goes unchecked. */
const KEYWORDS = [
	...['type', 'const', 'enum', 'pattern', 'minimum', 'maximum', 'items', 'minItems', 'properties', 'required'],
	...[
		'additionalProperties',
		'anyOf',
		'allOf',
		'if',
		'then',
		'$ref',
		'$defs',
		'$schema',
		'$id',
		'title',
		'description',
	],
];

const isObject = (value: Json | undefined): value is JsonObject =>
	typeof value === 'object' && value !== null && !Array.isArray(value);

function typeOf(value: Json): string {
	if (value === null) return 'null';
	if (Array.isArray(value)) return 'array';
	return Number.isInteger(value) ? 'integer' : typeof value;
}

/** Where `value` breaks a schema, one line for each place; empty if nowhere. */
export function schemaErrors(root: JsonObject, value: unknown): readonly string[] {
	const errors: string[] = [];

	function check(schema: JsonObject, at: string, v: Json): void {
		const fail = (expected: string) =>
			errors.push(`${at}: expected ${expected}, got ${JSON.stringify(v).slice(0, 60)}`);
		const unknown = Object.keys(schema).find((keyword) => !KEYWORDS.includes(keyword));
		if (unknown !== undefined) throw new Error(`schema at ${at}: unknown keyword ${unknown}`);
		if (typeof schema['$ref'] === 'string') check(resolve(schema['$ref']), at, v);
		const { type, pattern, minimum, maximum, anyOf } = { ...schema } as Record<string, Json>;
		if (type !== undefined && type !== typeOf(v)) return void fail(`${type}`);
		if (schema['const'] !== undefined && v !== schema['const']) fail(`${schema['const']}`);
		if (Array.isArray(schema['enum']) && !schema['enum'].includes(v)) fail(`one of ${schema['enum'].join(', ')}`);
		if (typeof v === 'string' && typeof pattern === 'string' && !new RegExp(pattern).test(v)) fail(`/${pattern}/`);
		if (typeof v === 'number' && typeof minimum === 'number' && v < minimum) fail(`at least ${minimum}`);
		if (typeof v === 'number' && typeof maximum === 'number' && v > maximum) fail(`at most ${maximum}`);
		if (Array.isArray(anyOf) && !anyOf.some((s: Json) => isObject(s) && fits(s, at, v))) fail('one of several shapes');
		if (Array.isArray(schema['allOf']))
			for (const s of schema['allOf'] as readonly Json[]) if (isObject(s)) check(s, at, v);
		if (isObject(schema['if']) && isObject(schema['then']) && fits(schema['if'], at, v)) check(schema['then'], at, v);
		if (Array.isArray(v)) checkList(schema, at, v);
		else if (isObject(v)) checkFields(schema, at, v);
	}

	function fits(schema: JsonObject, at: string, v: Json): boolean {
		const before = errors.length;
		check(schema, at, v);
		return errors.splice(before).length === 0;
	}

	function checkList(schema: JsonObject, at: string, list: readonly Json[]): void {
		const { items, minItems } = { ...schema } as Record<string, Json>;
		if (typeof minItems === 'number' && list.length < minItems)
			errors.push(`${at}: expected ${minItems} items or more`);
		if (isObject(items)) for (const [i, item] of list.entries()) check(items, `${at}/${i}`, item);
	}

	function checkFields(schema: JsonObject, at: string, fields: JsonObject): void {
		const properties = isObject(schema['properties']) ? schema['properties'] : {};
		const required = Array.isArray(schema['required']) ? schema['required'] : [];
		for (const name of required) if (fields[name] === undefined) errors.push(`${at}: expected field ${name}`);
		for (const [name, field] of Object.entries(fields)) {
			const known = properties[name] ?? schema['additionalProperties'] ?? true;
			if (known === false) errors.push(`${at}: unknown field ${name}`);
			else if (isObject(known)) check(known, `${at}/${name}`, field);
		}
	}

	function resolve(reference: string): JsonObject {
		const definitions = root['$defs'];
		const found = isObject(definitions) ? definitions[reference.replace('#/$defs/', '')] : undefined;
		if (!isObject(found)) throw new Error(`schema: no ${reference}`);
		return found;
	}

	check(root, '', value as Json);
	return errors;
}
