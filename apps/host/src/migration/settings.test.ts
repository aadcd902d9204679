import { MIGRATION_CAPABILITIES } from '@cvm/qmp';
import { describe, expect, it } from 'vitest';
import { HANDOVER, HELPER } from '../qmp-schema.js';
import { decodeBlob, MigrationSettings } from './settings.js';

const base64 = (length: number) => Buffer.alloc(length, 7).toString('base64');

describe('parameters', () => {
	it("begin as QEMU 7.2's, with no certificates", () => {
		expect(new MigrationSettings().shown).toEqual({
			'max-bandwidth': 134217728,
			'downtime-limit': 300,
			'sev-pdh': '',
			'sev-plat-cert': '',
			'sev-amd-cert': '',
		});
	});

	it('keep what is not given', () => {
		const settings = new MigrationSettings();
		settings.setParameters({ 'max-bandwidth': 0n });
		settings.setParameters({ 'downtime-limit': 2000000n, 'sev-pdh': base64(3) });
		expect(settings.shown).toMatchObject({
			'max-bandwidth': 0,
			'downtime-limit': 2000000,
			'sev-pdh': base64(3),
			'sev-plat-cert': '',
		});
		expect(settings.parameters).toMatchObject({ maxBandwidth: 0, downtimeLimit: 2000000 });
	});

	it.each([
		[
			{ 'downtime-limit': 2000001n },
			`Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms`,
		],
		[
			{ 'max-bandwidth': 2n ** 53n },
			`Parameter 'max_bandwidth' expects an integer in the range of 0 to 9007199254740991 bytes/second`,
		],
		[{ 'sev-pdh': 'AAA' }, `Parameter 'sev-pdh' expects base64 text`],
		[{ 'sev-plat-cert': 'A=AA' }, `Parameter 'sev-plat-cert' expects base64 text`],
		[{ 'sev-amd-cert': base64(0x4001) }, `Parameter 'sev-amd-cert' expects at most 16384 bytes, got 16385`],
	])('refuse %o and then change nothing', (wrong, words) => {
		const settings = new MigrationSettings();
		const before = settings.shown;
		expect(() => settings.setParameters({ 'max-bandwidth': 1n, 'downtime-limit': 1n, ...wrong })).toThrow(words);
		expect(settings.shown).toEqual(before);
	});
});

describe('capabilities', () => {
	it('are all off at first, QEMU’s and ours', () => {
		const { capabilities } = new MigrationSettings();
		expect(capabilities.map((c) => c.capability)).toEqual([...MIGRATION_CAPABILITIES, HANDOVER, HELPER]);
		expect(capabilities.every((c) => !c.state)).toBe(true);
	});

	it('are on from the beginning for a machine with helpers: theirs', () => {
		const settings = new MigrationSettings(true);
		expect(settings.has(HELPER)).toBe(true);
		settings.setCapabilities([{ capability: HELPER, state: false }]);
		expect(settings.has(HELPER)).toBe(false);
	});

	it('are refused without helpers: theirs', () => {
		const settings = new MigrationSettings();
		expect(() => settings.setCapabilities([{ capability: HELPER, state: true }])).toThrow(
			`Capability 'x-migration-helper' needs mirror vCPUs: -smp N,mirrorvcpus=M`,
		);
		settings.setCapabilities([{ capability: HELPER, state: false }]);
		expect(settings.has(HELPER)).toBe(false);
	});

	it('can be set and cleared where they are supported', () => {
		const settings = new MigrationSettings();
		for (const capability of ['events', 'return-path', 'x-handover-commit']) {
			settings.setCapabilities([{ capability, state: true }]);
			expect(settings.has(capability)).toBe(true);
			settings.setCapabilities([{ capability, state: false }]);
			expect(settings.has(capability)).toBe(false);
		}
	});

	it('are refused together when one is not supported', () => {
		const settings = new MigrationSettings();
		const list = [
			{ capability: 'events', state: true },
			{ capability: 'multifd', state: true },
		];
		expect(() => settings.setCapabilities(list)).toThrow(`Capability 'multifd' is not supported by this model`);
		expect(settings.has('events')).toBe(false);
	});

	it('may be set to what they are', () => {
		const settings = new MigrationSettings();
		settings.setCapabilities([{ capability: 'multifd', state: false }]);
		expect(settings.has('multifd')).toBe(false);
	});
});

describe("a target's certificates", () => {
	it('are decoded', () => {
		const settings = new MigrationSettings();
		settings.setParameters({ 'sev-pdh': base64(1), 'sev-plat-cert': base64(2), 'sev-amd-cert': base64(3) });
		expect(settings.target()).toEqual({
			pdh: new Uint8Array(1).fill(7),
			platform: new Uint8Array(2).fill(7),
			amd: new Uint8Array(3).fill(7),
		});
	});

	it.each(['sev-pdh', 'sev-plat-cert', 'sev-amd-cert'] as const)('are all needed: not without %s', (missing) => {
		const settings = new MigrationSettings();
		settings.setParameters({
			'sev-pdh': base64(1),
			'sev-plat-cert': base64(2),
			'sev-amd-cert': base64(3),
			[missing]: '',
		});
		expect(() => settings.target()).toThrow(`SEV: missing remote PDH or PLAT_CERT: Parameter '${missing}' is not set`);
	});
});

describe('decodeBlob', () => {
	it.each(['AA==', 'AAA=', 'AAAA', '+/+/', ''])('reads %j', (text) => {
		expect(Buffer.from(decodeBlob('x', text)).toString('base64')).toBe(text);
	});

	it.each(['A', 'AA', 'AA=', 'A===', 'AA=A', 'AA\n=', '-_-_', ' AAA'])('refuses %j', (text) => {
		expect(() => decodeBlob('x', text)).toThrow(`Parameter 'x' expects base64 text`);
	});
});
