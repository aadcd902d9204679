import { seededRandom } from '@cvm/crypto';
import { nodeProvider as provider } from '@cvm/crypto/node';
import { hva } from '@cvm/layout';
import { GuestState, Status } from '@cvm/sev-hw/abi';
import { createLaunchSession, launchDigest, packageSecret, verifyMeasurement } from '@cvm/sev-hw/owner';
import { describe, expect, it } from 'vitest';
import { bootHost, decrypted, PAGE, pattern, vmWithRam } from './host.js';

const SECRET = Uint8Array.from({ length: 64 }, (_, i) => 200 - i);

/** A guest in LSECRET that an owner launched, and what the owner knows. */
function launched() {
	const host = bootHost();
	const random = seededRandom('owner');
	const { vm, ram } = vmWithRam(host);
	const platformPdh = host.kvm.sevDevice.pdhCertExport().pdh;
	const { dhCert, session, keys } = createLaunchSession({ provider, random, platformPdh, policy: 0 });
	ram.bytes.set(pattern(2 * PAGE));
	expect(vm.sev.launchStart({ policy: 0, dhCert, session })).toEqual({ ret: 0, error: 0 });
	vm.sev.launchUpdateData({ uaddr: ram.hva, len: 2 * PAGE });
	const { measurement } = vm.sev.launchMeasure();
	const packet = packageSecret({ provider, random, keys, measure: measurement.slice(0, 32), secret: SECRET });
	return { host, vm, ram, keys, measurement, packet };
}

describe('a launch with a guest owner', () => {
	it('gives the owner the measurement of what was loaded', () => {
		const { keys, measurement } = launched();
		const digest = launchDigest(provider, [pattern(2 * PAGE)]);
		const expected = { tik: keys.tik, version: { major: 0, minor: 24, build: 15 }, policy: 0, digest };
		expect(verifyMeasurement(provider, measurement, expected)).toBe(Status.SUCCESS);
	});

	it('puts the owner’s secret where the host says, and nowhere else', () => {
		const { host, vm, ram, packet } = launched();
		const guestUaddr = hva(ram.hva + PAGE + 32);
		expect(vm.sev.launchSecret({ header: packet.header, guestUaddr, data: packet.payload })).toEqual({
			ret: 0,
			error: 0,
		});
		expect(vm.sev.launchFinish().ret).toBe(0);
		const expected = pattern(2 * PAGE);
		expected.set(SECRET, PAGE + 32);
		expect(decrypted(host, vm, ram).slice(0, 2 * PAGE)).toEqual(expected);
		expect(vm.sev.guestStatus().state).toBe(GuestState.RUNNING);
	});

	it('refuses a secret that was changed on the way', () => {
		const { vm, ram, packet } = launched();
		const data = packet.payload.slice();
		data[0] = (data[0] ?? 0) ^ 1;
		const answer = vm.sev.launchSecret({ header: packet.header, guestUaddr: ram.hva, data });
		expect(answer).toEqual({ ret: -5, error: Status.BAD_MEASUREMENT });
	});
});
