import { nodeProvider as provider } from '@cvm/crypto/node';
import { Status } from '@cvm/sev-hw/abi';
import { launchDigest, readAttestationReport, verifyAttestation } from '@cvm/sev-hw/owner';
import { describe, expect, it } from 'vitest';
import { bootHost, certificatesOf, count, PAGE, pattern, runningVm, vmWithRam } from './host.js';

const mnonce = Uint8Array.from({ length: 16 }, (_, i) => 3 * i + 1);
const EMPTY = new Uint8Array(0);

describe('KVM_SEV_GET_ATTESTATION_REPORT', () => {
	it('gives a report that the owner can verify', () => {
		const host = bootHost();
		const { vm } = runningVm(host, 0, PAGE);
		const { report, ...result } = vm.sev.getAttestationReport({ mnonce });
		expect(result).toEqual({ ret: 0, error: 0, len: 208 });
		const pek = certificatesOf(host).platCerts.slice(0, 2084);
		const digest = launchDigest(provider, [pattern(PAGE)]);
		const verdict = verifyAttestation(provider, { report, pek, expected: { mnonce, digest, policy: 0 } });
		expect(verdict.status).toBe(Status.SUCCESS);
	});

	it('tells the length if it is 0: 208, with EIO and INVALID_LENGTH', () => {
		const { vm } = runningVm(bootHost());
		const answer = vm.sev.getAttestationReport({ mnonce, len: 0 });
		expect(answer).toEqual({ ret: -5, error: Status.INVALID_LENGTH, report: EMPTY, len: 208 });
	});

	it('writes the length back after success, and not after a refusal of a length that is not 0', () => {
		const { vm } = runningVm(bootHost());
		expect(vm.sev.getAttestationReport({ mnonce, len: 0x4000 })).toMatchObject({ ret: 0, len: 208 });
		const short = vm.sev.getAttestationReport({ mnonce, len: 207 });
		expect(short).toEqual({ ret: -5, error: Status.INVALID_LENGTH, report: EMPTY, len: 207 });
	});

	it('without a buffer is refused by the firmware, whatever the length', () => {
		const { vm } = runningVm(bootHost());
		const answer = vm.sev.getAttestationReport({ mnonce, len: 0x4001, hasBuffer: false });
		expect(answer).toEqual({ ret: -5, error: Status.INVALID_LENGTH, report: EMPTY, len: 0x4001 });
	});

	it('is EINVAL above 0x4000 bytes, ENOTTY without SEV, EBADF before a start; the firmware is not reached', () => {
		const host = bootHost();
		const { vm } = runningVm(host);
		expect(vm.sev.getAttestationReport({ mnonce, len: 0x4001 })).toMatchObject({ ret: -22, error: 0 });
		expect(host.kvm.createVm().sev.getAttestationReport({ mnonce })).toMatchObject({ ret: -25, error: 0 });
		expect(vmWithRam(host).vm.sev.getAttestationReport({ mnonce })).toMatchObject({ ret: -9, error: 0 });
		expect(count(host, 'ATTESTATION')).toBe(0);
	});

	it('is EIO before the launch is measured, and for a SEV-ES guest as for any', () => {
		const host = bootHost();
		const { vm } = vmWithRam(host);
		vm.sev.launchStart({ policy: 0 });
		const early = vm.sev.getAttestationReport({ mnonce });
		expect(early).toMatchObject({ ret: -5, error: Status.INVALID_GUEST_STATE, report: EMPTY });
		const es = host.kvm.createVm();
		es.sev.esInit();
		es.sev.launchStart({ policy: 4 });
		es.sev.launchMeasure();
		const { report } = es.sev.getAttestationReport({ mnonce });
		expect(readAttestationReport(report)).toMatchObject({ mnonce, policy: 4 });
	});

	it('is unknown to Linux 5.12', () => {
		const { vm } = runningVm(bootHost({ release: '5.12' }));
		expect(vm.sev.getAttestationReport({ mnonce })).toMatchObject({ ret: -22, error: 0 });
		expect(() => vm.sev.getAttestationReport({ mnonce })).not.toThrow();
	});

	it('takes nonces of 16 bytes', () => {
		const { vm } = runningVm(bootHost());
		expect(() => vm.sev.getAttestationReport({ mnonce: new Uint8Array(15) })).toThrow('expected 16 bytes, got 15');
	});
});
