import { nobleProvider } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { describe, expect, it } from 'vitest';
import { hasPublicData, NEEDS_PUBLIC_DATA } from './public-data.js';
import { vectorTexts } from './vectors/all-files.js';
import { filesIn, type JsonObject, type VectorCase, type VectorFile } from './vectors/format.js';
import { inputOf, vectorNames, vectorSchema, vectorText } from './vectors/load.js';
import { operations } from './vectors/operations.js';
import { schemaErrors } from './vectors/schema.js';

const names = vectorNames();
const schema = vectorSchema();
const parse = (name: string) => JSON.parse(vectorText(name)) as VectorFile;

describe('vectors/sev', () => {
	it('is what the generator makes', () => {
		const made = vectorTexts();
		expect([...made.keys()].sort()).toEqual(names);
		for (const [name, text] of made) {
			if (vectorText(name) !== text) expect.fail(`vectors/sev/${name} is out of date: run node tools/vectors.mjs`);
		}
	});

	it.each(names)('%s has the form that schema.json says', (name) => {
		expect(schemaErrors(schema, parse(name))).toEqual([]);
	});

	it.each(names)('%s has every id once, and no blob that nobody names', (name) => {
		const { cases, blobs = {} } = parse(name);
		expect(new Set(cases.map(({ id }) => id)).size).toBe(cases.length);
		const used = JSON.stringify(cases);
		expect(Object.keys(blobs).filter((blob) => !used.includes(`{"blob":"${blob}"`))).toEqual([]);
	});

	it('has a case for every operation, and nothing else', () => {
		expect(names.map((name) => parse(name).operation).sort()).toEqual(Object.keys(operations).sort());
	});
});

describe('schema.json', () => {
	const file = parse('policy-mac.json');
	const [first] = file.cases;
	if (first === undefined) throw new Error('policy-mac.json: no case');
	const withCase = (change: JsonObject) => ({ ...file, cases: [{ ...first, ...change }] });

	it.each([
		['another version', { ...file, version: 2 }, '/version: expected 1, got 2'],
		['an unknown operation', { ...file, operation: 'guess' }, '/operation: expected one of kdf'],
		['a field that no file has', { ...file, extra: 1 }, 'unknown field extra'],
		['no cases', { ...file, cases: [] }, '/cases: expected 1 items or more'],
		['a case without provenance', withCase({ provenance: {} }), '/cases/0/provenance: expected field kind'],
		['an input that the operation lacks', withCase({ input: { tik: '' } }), '/cases/0/input: expected field policy'],
		['odd hex', withCase({ input: { tik: 'abc', policy: 0 } }), '/cases/0/input/tik: expected one of several shapes'],
		['a number above 32 bits', withCase({ input: { tik: '', policy: 2 ** 32 } }), 'expected at most 4294967295'],
		['a number that is none', withCase({ input: { tik: '', policy: '0' } }), '/cases/0/input/policy: expected integer'],
		['outputs cut short', withCase({ expect: { status: 'SUCCESS', mac: '00' } }), 'expected one of several shapes'],
		['outputs of a refusal', withCase({ expect: { status: 'UNSUPPORTED', mac: '00' } }), 'one of several shapes'],
	])('refuses %s', (_, value, message) => {
		expect(schemaErrors(schema, value).join('\n')).toContain(message);
	});
});

describe.each(names)('%s', (name) => {
	const file = parse(name);
	const { operation } = file;
	// The one that did not make the outputs, except where a signature has to be deterministic.
	const provider = operation.endsWith('-sign') ? nobleProvider : nodeProvider;
	const run = (c: VectorCase) => expect(operations[operation]?.(provider, inputOf(file, c))).toEqual(c.expect);
	const needsData = (c: VectorCase) => filesIn(c.input).length > 0;

	it.each(file.cases.filter((c) => !needsData(c)))('$id', run);

	const real = file.cases.filter(needsData);
	describe.runIf(hasPublicData && real.length > 0)(NEEDS_PUBLIC_DATA, () => {
		it.each(real)('$id', run);
	});
});
