import { nobleProvider, seededRandom } from '@cvm/crypto';
import { describe, expect, it } from 'vitest';
import { fakePlatform, flipBit, scalar } from '../../test/fake-platform.js';
import { checkLaunchSession, createLaunchSession, type SessionEvidence, Status } from './index.js';

const provider = nobleProvider;

describe('checkLaunchSession', () => {
	const { pdh } = fakePlatform(provider);
	const privateKey = scalar(0x41);
	const made = (policy = 1, key = privateKey) =>
		createLaunchSession({ provider, random: seededRandom('check'), platformPdh: pdh, policy, privateKey: key });
	const sound = { ...made(), policy: 1 };
	const wrap = { privateKey, platformPdh: pdh };
	const check = (change: Partial<SessionEvidence>) => checkLaunchSession(provider, { ...sound, ...change });

	it('accepts what createLaunchSession made, with the wrapping or without', () => {
		expect(check({})).toEqual({ status: Status.SUCCESS });
		expect(check({ wrap })).toEqual({ status: Status.SUCCESS });
	});

	it.each<[string, Partial<SessionEvidence>, string, Status]>([
		['a malformed certificate', { dhCert: flipBit(sound.dhCert, 0) }, 'dh-cert', Status.INVALID_CERTIFICATE],
		['a session of another length', { session: sound.session.subarray(1) }, 'session', Status.INVALID_LENGTH],
		['another policy', { policy: 0 }, 'policy', Status.BAD_MEASUREMENT],
		['another TIK', { keys: { ...sound.keys, tik: new Uint8Array(16) } }, 'policy', Status.BAD_MEASUREMENT],
	])('refuses %s, with the wrapping or without', (_, change, failed, status) => {
		expect(check(change)).toEqual({ status, failed });
		expect(check({ ...change, wrap })).toEqual({ status, failed });
	});

	it.each<[string, Partial<SessionEvidence>, string, Status]>([
		['another TEK', { keys: { ...sound.keys, tek: new Uint8Array(16) } }, 'keys', Status.BAD_MEASUREMENT],
		['changed wrapped keys', { session: flipBit(sound.session, 8 * 0x10) }, 'session', Status.BAD_MEASUREMENT],
		['a changed wrapping IV', { session: flipBit(sound.session, 8 * 0x30) }, 'keys', Status.BAD_MEASUREMENT],
		['another owner key', { dhCert: made(1, scalar(0x42)).dhCert }, 'dh-cert', Status.INVALID_CERTIFICATE],
	])('refuses %s where the wrapping is looked at, and only there', (_, change, failed, status) => {
		expect(check(change)).toEqual({ status: Status.SUCCESS });
		expect(check({ ...change, wrap })).toEqual({ status, failed });
	});

	it('refuses a platform without a Diffie-Hellman key, a key that is none, and a session for another platform', () => {
		const { pek } = fakePlatform(provider);
		expect(check({ wrap: { privateKey, platformPdh: pek } })).toEqual({
			status: Status.INVALID_CERTIFICATE,
			failed: 'platform-pdh',
		});
		for (const bad of [new Uint8Array(48), new Uint8Array(0)]) {
			const verdict = check({ wrap: { privateKey: bad, platformPdh: pdh } });
			expect(verdict).toEqual({ status: Status.INVALID_CERTIFICATE, failed: 'dh-cert' });
		}
		const other = made(1, scalar(0x43)).dhCert;
		expect(check({ wrap: { privateKey, platformPdh: other } })).toEqual({
			status: Status.BAD_MEASUREMENT,
			failed: 'session',
		});
	});
});
