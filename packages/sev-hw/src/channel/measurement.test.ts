import { nobleProvider } from '@cvm/crypto';
import { fromHex, toHex } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { measurement } from './measurement.js';

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
