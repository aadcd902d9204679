import { ATTESTATION_SIGNED_SIZE, attestationReport } from '../../src/abi/attestation.js';
import { toLittleEndian } from '../../src/certificates/byte-order.js';
import { CertAlgo, CertUsage } from '../../src/certificates/sev-certificate.js';
import { verifyAttestation } from '../../src/owner/attestation.js';
import {
	expectedMeasurement,
	kernelHashesTable,
	launchDigest,
	secretTable,
	verifyMeasurement,
} from '../../src/owner/index.js';
import { initialVmsa } from '../../src/owner/initial-vmsa.js';
import type { Input } from './format.js';
import { type Operation, success, verdict } from './outcome.js';

const ascii = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));

const bootOf = (input: Input) => ({
	kernel: input.bytes('kernel'),
	initrd: input.bytes('initrd'),
	commandLine: ascii(input.text('commandLine')),
});

function launchOf(input: Input) {
	const version = input.object('version');
	return {
		tik: input.bytes('tik'),
		version: { major: version.number('major'), minor: version.number('minor'), build: version.number('build') },
		policy: input.number('policy'),
		digest: input.bytes('digest'),
	};
}

function saveArea(cpu: Input): Uint8Array {
	const [apResetVector, signature] = [cpu.number('resetVector'), cpu.number('cpuSignature')];
	// Any but the first takes the vector that it is given.
	return initialVmsa({ vcpu: 1, apResetVector, signature, fpuInit: cpu.flag('fpuInit') });
}

/** What a guest owner computes about a launch, and what follows from it. */
export const launchOperations: Readonly<Record<string, Operation>> = {
	measurement: (provider, input) =>
		success({ measure: expectedMeasurement(provider, { ...launchOf(input), mnonce: input.bytes('mnonce') }) }),

	'measurement-verify': (provider, input) =>
		verdict(verifyMeasurement(provider, input.bytes('answer'), launchOf(input))),

	'kernel-hashes': (provider, input) => success({ table: kernelHashesTable(provider, bootOf(input)) }),

	'initial-vmsa': (_, input) => success({ vmsa: saveArea(input) }),

	'launch-digest': (provider, input) => {
		const boot = input.has('boot') ? [kernelHashesTable(provider, bootOf(input.object('boot')))] : [];
		const cpus = input.has('vcpus') ? input.list('vcpus').map(saveArea) : [];
		return success({ digest: launchDigest(provider, [input.bytes('firmware'), ...boot, ...cpus]) });
	},

	'secret-table': (_, input) => {
		const entries = input.list('entries').map((e) => ({ guid: e.text('guid'), data: e.bytes('data') }));
		return success({ table: secretTable(entries) });
	},

	'attestation-sign': (provider, input) => {
		const fields = {
			mnonce: input.bytes('mnonce'),
			launchDigest: input.bytes('launchDigest'),
			policy: input.number('policy'),
			sigUsage: CertUsage.PEK,
			sigAlgo: CertAlgo.ECDSA_SHA256,
		};
		const body = attestationReport.encode(fields).subarray(0, ATTESTATION_SIGNED_SIZE);
		const { r, s } = provider.p384.sign(input.bytes('pekPrivateKey'), body, 'sha256');
		return success({
			report: attestationReport.encode({ ...fields, sigR: toLittleEndian(r, 72), sigS: toLittleEndian(s, 72) }),
		});
	},

	'attestation-verify': (provider, input) => {
		const expected = {
			...(input.has('mnonce') && { mnonce: input.bytes('mnonce') }),
			...(input.has('launchDigest') && { digest: input.bytes('launchDigest') }),
			...(input.has('policy') && { policy: input.number('policy') }),
		};
		const { status } = verifyAttestation(provider, {
			report: input.bytes('report'),
			pek: input.bytes('pek'),
			expected,
		});
		return verdict(status);
	},
};
