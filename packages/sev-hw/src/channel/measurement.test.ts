import { nobleProvider } from '@cvm/crypto';
import { fromHex, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { bindsVersionAndMeasure, measurement } from './measurement.js';

const provider = nobleProvider;
const published = {
	tik: fromHex('66320db73158a35a255d051758e95ed4'),
	version: { major: 0, minor: 18, build: 15 },
	policy: 0,
	digest: provider.digest('sha256'),
	mnonce: fromHex('4fbe0bedbad6c86ae8f68971d103e554'),
};

describe('measurement', () => {
	it('reproduces the published value (AMDESE/sev-tool `tests.cpp`)', () => {
		expect(toHex(measurement(provider, published))).toBe(
			'6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea',
		);
	});

	it.each([
		['key', { tik: new Uint8Array(16) }],
		['major version', { version: { major: 1, minor: 18, build: 15 } }],
		['minor version', { version: { major: 0, minor: 19, build: 15 } }],
		['build', { version: { major: 0, minor: 18, build: 16 } }],
		['policy', { policy: 1 }],
		['policy version', { policy: 0x01000000 }],
		['digest', { digest: new Uint8Array(32) }],
		['nonce', { mnonce: new Uint8Array(16) }],
	])('differs for another %s', (_, change) => {
		expect(measurement(provider, { ...published, ...change })).not.toEqual(measurement(provider, published));
	});
});

describe('the form before API 0.17', () => {
	const old = { ...published, version: { major: 0, minor: 16, build: 15 } };

	it('covers policy, digest and nonce, in this order (AMDESE/sev-tool `calculate_measurement`)', () => {
		const policy = Uint8Array.of(0x05, 0, 0x10, 0);
		const expected = provider.hmacSha256(old.tik, policy, old.digest, old.mnonce);
		expect(measurement(provider, { ...old, policy: 0x00100005 })).toEqual(expected);
	});

	it('does not depend on the version that makes it', () => {
		const older = { ...old, version: { major: 0, minor: 0, build: 1 } };
		expect(measurement(provider, older)).toEqual(measurement(provider, old));
	});

	it('ends with 0.16', () => {
		const versions = [0, 16, 17, 18, 255].map((minor) => ({ major: 0, minor }));
		expect(versions.map(bindsVersionAndMeasure)).toEqual([false, false, true, true, true]);
		expect(bindsVersionAndMeasure({ major: 1, minor: 0 })).toBe(true);
	});
});
