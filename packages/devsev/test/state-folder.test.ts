import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fileStorage, openSettings, replaceFile } from '../src/node/state-folder.js';
import { temporaryFolder } from './rig.js';

const parent = temporaryFolder();
const fresh = () => mkdtempSync(join(parent, 'state-'));
const settingsFile = (folder: string) => join(folder, 'platform.json');

describe('the settings of a platform', () => {
	it('are made at first use and kept', () => {
		const folder = fresh();
		const made = openSettings(folder, {});
		expect(made).toMatchObject({ generation: 'milan', version: { major: 0, minor: 24, build: 15 } });
		expect(made.chipSeed).toMatch(/^[0-9a-f]{64}$/);
		expect(openSettings(folder, {})).toEqual(made);
		expect(openSettings(fresh(), {}).chipSeed).not.toBe(made.chipSeed);
	});

	it('are those asked for', () => {
		const wanted = { chipSeed: 'a', generation: 'naples', version: { major: 0, minor: 16, build: 2 } } as const;
		const folder = fresh();
		expect(openSettings(folder, wanted)).toEqual(wanted);
		expect(openSettings(folder, wanted)).toEqual(wanted);
	});

	it.each([
		[{ generation: 'naples' }, 'generation: expected milan, as this platform was made, got naples'],
		[
			{ version: { major: 0, minor: 24, build: 16 } },
			'version: expected 0.24 build 15, as this platform was made, got 0.24 build 16',
		],
		[{ chipSeed: 'b' }, 'chip seed: expected the recorded one, as this platform was made, got another'],
	] as const)('do not change to %o', (wanted, complaint) => {
		const folder = fresh();
		openSettings(folder, { chipSeed: 'a' });
		expect(() => openSettings(folder, wanted)).toThrow(`${folder}: ${complaint}`);
	});

	it.each([
		['nothing', ''],
		['no JSON', '{'],
		['null', 'null'],
		['another format', '{"format":2}'],
		['no seed', '{"format":1,"generation":"milan","version":{"major":0,"minor":24,"build":15}}'],
		['an unknown generation', '{"format":1,"chipSeed":"a","generation":"toString"}'],
		['no version', '{"format":1,"chipSeed":"a","generation":"milan"}'],
	])('are not taken from a file with %s, which stays', (_, content) => {
		const folder = fresh();
		writeFileSync(settingsFile(folder), content);
		expect(() => openSettings(folder, {})).toThrow(/platform\.json: .*is this a state folder\?$/);
		expect(readFileSync(settingsFile(folder), 'utf8')).toBe(content);
	});
});

describe('a replaced file', () => {
	it('has the new content and leaves nothing beside it', () => {
		const folder = fresh();
		replaceFile(folder, 'a', Buffer.from('a long first content'));
		replaceFile(folder, 'a', Buffer.from('second'));
		expect(readFileSync(join(folder, 'a'), 'utf8')).toBe('second');
		expect(readdirSync(folder)).toEqual(['a']);
	});

	it('does not mind what a crash left', () => {
		const folder = fresh();
		writeFileSync(join(folder, 'a.new'), 'a torn content, longer than the next');
		replaceFile(folder, 'a', Buffer.from('whole'));
		expect(readFileSync(join(folder, 'a'), 'utf8')).toBe('whole');
	});
});

describe('the flash', () => {
	it('is empty at first, then what was saved last', () => {
		const folder = fresh();
		expect(fileStorage(folder).load()).toBeUndefined();
		fileStorage(folder).save(Uint8Array.of(1, 2, 3));
		expect(fileStorage(folder).load()).toEqual(Uint8Array.of(1, 2, 3));
	});
});
