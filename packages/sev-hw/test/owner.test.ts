import { seededRandom } from '@cvm/crypto';
import { describe, expect, it } from 'vitest';
import { SEV_CERT_SIZE } from '../src/certificates/sev-certificate.js';
import { chipIdentity, createKeyServer } from '../src/fake-amd/index.js';
import {
	CPU_SIGNATURES,
	checkLaunchSession,
	createLaunchSession,
	createOca,
	guestLaunchDigest,
	initialVmsa,
	packageSecret,
	Status,
	secretTable,
	sevctl,
	signPekCsr,
	verifyAttestation,
	verifyMeasurement,
	verifyPlatform,
} from '../src/owner/index.js';
import { scalar } from './fake-platform.js';
import { ASID, certificatesOf, controllerOf, ES_ASID, initialised, patternPage, provider, type Rig } from './rig.js';

const ES_POLICY = 0x00000004;
const signature = CPU_SIGNATURES['EPYC-Milan'];

function evidenceOf(rig: Rig) {
	const { pdh, exported, amd } = certificatesOf(rig);
	const { id } = chipIdentity(provider, 'rig');
	return { pdh, chain: exported, cek: createKeyServer(provider).cek(id), askArk: amd, trust: 'fake' as const };
}

/** A launch by the functions of an owner, up to the measurement. */
function launched(rig: Rig, policy: number) {
	const { pdh } = evidenceOf(rig);
	const random = seededRandom('owner');
	const { dhCert, session, keys } = createLaunchSession({
		provider,
		random,
		platformPdh: pdh,
		policy,
		privateKey: scalar(0x41),
	});
	const { handle } = rig.must('LAUNCH_START', {
		policy,
		dhCertPaddr: rig.put(dhCert),
		dhCertLen: dhCert.length,
		sessionPaddr: rig.put(session),
		sessionLen: session.length,
	});
	const isEs = (policy & ES_POLICY) !== 0;
	const asid = isEs ? ES_ASID : ASID;
	rig.must('ACTIVATE', { handle: Number(handle), asid });
	const page = rig.put(patternPage());
	rig.must('LAUNCH_UPDATE_DATA', { handle: Number(handle), paddr: page, length: 4096 });
	const areas = isEs ? [0, 1].map((vcpu) => initialVmsa({ vcpu, signature, apResetVector: 0x80b004 })) : [];
	for (const area of areas)
		rig.must('LAUNCH_UPDATE_VMSA', { handle: Number(handle), paddr: rig.put(area), length: 4096 });
	const at = BigInt(rig.allocate(48));
	rig.must('LAUNCH_MEASURE', { handle: Number(handle), paddr: at, length: 48 });
	const firmware = patternPage();
	const vcpus = { count: 2, signature, apResetVector: 0x80b004 };
	const digest = guestLaunchDigest(provider, { firmware, ...(isEs && { vcpus }) });
	return { handle: Number(handle), asid, keys, dhCert, session, random, blob: rig.at(at, 48), digest, pdh };
}

describe('an owner and a platform', () => {
	it('agree on who owns the platform', () => {
		const rig = initialised();
		const oca = createOca({ provider, random: seededRandom('owner') });
		const csrPaddr = BigInt(rig.allocate(SEV_CERT_SIZE));
		rig.must('PEK_CSR', { csrPaddr, csrLen: SEV_CERT_SIZE });
		const signed = signPekCsr({ provider, csr: rig.at(csrPaddr, SEV_CERT_SIZE), oca });
		rig.must('PEK_CERT_IMPORT', {
			pekPaddr: rig.put(signed),
			pekLen: SEV_CERT_SIZE,
			ocaPaddr: rig.put(oca.cert),
			ocaLen: SEV_CERT_SIZE,
		});
		const evidence = evidenceOf(rig);
		expect(verifyPlatform(provider, evidence)).toEqual({ status: Status.SUCCESS });
		expect(evidence.chain.slice(SEV_CERT_SIZE, 2 * SEV_CERT_SIZE)).toEqual(oca.cert);
		const [pek, ours] = [0, 1].map((i) => evidence.chain.slice(i * SEV_CERT_SIZE, (i + 1) * SEV_CERT_SIZE));
		const file = sevctl.encodeChain({ ...evidence, pek: pek ?? oca.cert, oca: ours ?? oca.cert });
		expect(sevctl.decodeChain(file)).toMatchObject({ pdh: evidence.pdh, oca: oca.cert, cek: evidence.cek });
	});

	it.each([
		['SEV', 0, { major: 0, minor: 24, build: 10 }],
		['SEV-ES with two virtual CPUs', ES_POLICY, { major: 0, minor: 24, build: 10 }],
		['SEV before API 0.17', 0, { major: 0, minor: 16, build: 7 }],
	])('agree on keys, measurement and secret of a launch: %s', (_, policy, version) => {
		const rig = initialised({ version, es: policy === ES_POLICY });
		const { handle, asid, keys, dhCert, session, random, blob, digest, pdh } = launched(rig, policy);
		const wrap = { privateKey: scalar(0x41), platformPdh: pdh };
		expect(checkLaunchSession(provider, { dhCert, session, keys, policy, wrap })).toEqual({ status: Status.SUCCESS });
		const expected = { tik: keys.tik, version, policy, digest };
		expect(verifyMeasurement(provider, blob, expected)).toBe(Status.SUCCESS);
		const other = { ...version, minor: version.minor < 17 ? 17 : 16 };
		expect(verifyMeasurement(provider, blob, { ...expected, version: other })).toBe(Status.BAD_MEASUREMENT);

		const data = Uint8Array.of(1, 2, 3);
		const secret = secretTable([{ guid: '736869e5-84f0-4973-92ec-06879ce3da0b', data }]);
		const guestPaddr = BigInt(rig.allocate(4096));
		const inject = (as: { major: number; minor: number }) => {
			const { header, payload } = packageSecret({
				provider,
				random,
				keys,
				measure: blob.subarray(0, 32),
				secret,
				version: as,
			});
			const fields = { hdrLen: header.length, guestPaddr, guestLen: payload.length, transLen: payload.length };
			const at = { hdrPaddr: rig.put(header), transPaddr: rig.put(payload) };
			return rig.command('LAUNCH_SECRET', { handle, ...fields, ...at }).status;
		};
		expect(inject(other)).toBe('BAD_MEASUREMENT');
		expect(inject(version)).toBe('SUCCESS');
		rig.must('LAUNCH_FINISH', { handle });
		const seen = new Uint8Array(secret.length);
		controllerOf(rig).read(asid, Number(guestPaddr), seen);
		expect(seen).toEqual(secret);
	});

	it('agree on an attestation report, and not on that of another guest', () => {
		const rig = initialised();
		const { handle, digest } = launched(rig, 1);
		const mnonce = new Uint8Array(16).fill(0x5a);
		const paddr = BigInt(rig.allocate(208));
		rig.must('ATTESTATION', { handle, paddr, mnonce, length: 208 });
		const report = rig.at(paddr, 208);
		const pek = evidenceOf(rig).chain.slice(0, SEV_CERT_SIZE);
		const verify = (change: { mnonce?: Uint8Array; digest?: Uint8Array; policy?: number }) =>
			verifyAttestation(provider, { report, pek, expected: { mnonce, digest, policy: 1, ...change } });
		expect(verify({})).toEqual({ status: Status.SUCCESS });
		expect(verify({ mnonce: digest.slice(0, 16) }).failed).toBe('mnonce');
		expect(verify({ digest: new Uint8Array(32) }).failed).toBe('digest');
		expect(verify({ policy: 0 }).failed).toBe('policy');
		const other = initialised({ seed: 'another chip' });
		const foreign = certificatesOf(other).exported.slice(0, SEV_CERT_SIZE);
		expect(verifyAttestation(provider, { report, pek: foreign }).failed).toBe('signature');
	});
});
