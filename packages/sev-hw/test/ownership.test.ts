import { seededRandom } from '@cvm/crypto';
import { describe, expect, it } from 'vitest';
import { splitAmdCertificates } from '../src/certificates/amd-certificate.js';
import { verifyOwnerChain, verifyPlatformChain } from '../src/certificates/chain.js';
import {
	CertAlgo,
	CertUsage,
	readSevCertificate,
	SEV_CERT_BODY_SIZE,
	SEV_CERT_SIZE,
	sevCertificate,
	signSevCertificate,
} from '../src/certificates/sev-certificate.js';
import { createOca, type Oca } from '../src/owner/oca.js';
import { expectRefusal, FORBIDDEN } from './refusal.js';
import {
	certificatesOf,
	createRig,
	GuestState,
	guestIn,
	initialised,
	memoryStorage,
	provider,
	type Rig,
	receiveStartFields,
} from './rig.js';

const ocaOf = (seed: string): Oca => createOca({ provider, random: seededRandom(seed) });
const ALICE = ocaOf('alice');
const BOB = ocaOf('bob');

/** The platform's signing request. */
function csrOf(rig: Rig): Uint8Array {
	const csrPaddr = BigInt(rig.allocate(SEV_CERT_SIZE));
	expect(rig.must('PEK_CSR', { csrPaddr, csrLen: SEV_CERT_SIZE })).toMatchObject({ csrLen: SEV_CERT_SIZE });
	return rig.at(csrPaddr, SEV_CERT_SIZE);
}

function signedBy({ privateKey }: Oca, cert: Uint8Array, usage: CertUsage = CertUsage.OCA): Uint8Array {
	const signed = cert.slice();
	signSevCertificate(provider, signed, { usage, algo: CertAlgo.ECDSA_SHA256, privateKey });
	return signed;
}

/** Fields of PEK_CERT_IMPORT. */
const importOf = (rig: Rig, pek: Uint8Array, oca: Uint8Array) => ({
	pekPaddr: rig.put(pek),
	pekLen: pek.length,
	ocaPaddr: rig.put(oca),
	ocaLen: oca.length,
});

/** Makes somebody the platform's owner. */
function giveTo(rig: Rig, oca: Oca): void {
	rig.must('PEK_CERT_IMPORT', importOf(rig, signedBy(oca, csrOf(rig)), oca.cert));
}

const ownerOf = (rig: Rig) => rig.must('PLATFORM_STATUS')['owner'];
const part = (chain: Uint8Array, i: number) => chain.slice(SEV_CERT_SIZE * i, SEV_CERT_SIZE * (i + 1));
const flipped = (data: Uint8Array, at: number) => data.map((b, i) => (i === at ? b ^ 1 : b));

/** PEK, OCA, CEK and PDH of a platform. */
function parts(rig: Rig) {
	const { pdh, exported } = certificatesOf(rig);
	return { pdh, pek: part(exported, 0), oca: part(exported, 1), cek: part(exported, 2) };
}

/** Both chains of a platform as everybody can check them. */
function chainVerdicts(rig: Rig) {
	const { pdh, platform, amd } = certificatesOf(rig);
	const [pek, oca, cek] = [part(platform, 0), part(platform, 1), part(platform, 2)];
	const roots = splitAmdCertificates(amd);
	if (roots === undefined) throw new Error('roots');
	return [verifyPlatformChain(provider, { pdh, pek, cek, ...roots }), verifyOwnerChain(provider, { pdh, pek, oca })];
}

const GOOD = [{ status: 0 }, { status: 0 }];

describe('PEK_CSR', () => {
	it('answers a short buffer with the length, before it looks at the address', () => {
		const answers = { csrLen: SEV_CERT_SIZE };
		expectRefusal(initialised(), 'PEK_CSR', { csrPaddr: 0xa0000n, csrLen: 2083 }, 'INVALID_LENGTH', answers);
	});
	it.each(FORBIDDEN)('refuses an address %s', (_, csrPaddr) => {
		expectRefusal(initialised(), 'PEK_CSR', { csrPaddr, csrLen: SEV_CERT_SIZE }, 'INVALID_ADDRESS');
	});
	it('writes the PEK certificate with two empty slots, also while guests run', () => {
		const rig = initialised();
		guestIn(rig, GuestState.RUNNING);
		const csr = csrOf(rig);
		const { pek } = parts(rig);
		expect(csr.slice(0, SEV_CERT_BODY_SIZE)).toEqual(pek.slice(0, SEV_CERT_BODY_SIZE));
		const empty = { usage: CertUsage.INVALID, algo: CertAlgo.INVALID, signature: new Uint8Array(512) };
		expect(readSevCertificate(csr).slots).toEqual([empty, empty]);
	});
	it('says how long the request is in a longer buffer, and writes no more', () => {
		const rig = initialised();
		rig.machine.dram.fill(0xee, 0x200000, 0x201000);
		expect(rig.must('PEK_CSR', { csrPaddr: 0x200000n, csrLen: 4096 })).toMatchObject({ csrLen: SEV_CERT_SIZE });
		expect(rig.at(0x200000 + SEV_CERT_SIZE, 4)).toEqual(Uint8Array.of(0xee, 0xee, 0xee, 0xee));
	});
});

describe('PEK_CERT_IMPORT', () => {
	/** A rig and what makes Alice its owner. */
	function offer() {
		const rig = initialised();
		const csr = csrOf(rig);
		return { rig, csr, fields: importOf(rig, signedBy(ALICE, csr), ALICE.cert) };
	}

	it('refuses a platform that has an owner, before it looks at lengths', () => {
		const rig = initialised();
		giveTo(rig, ALICE);
		expectRefusal(rig, 'PEK_CERT_IMPORT', { pekLen: 0 }, 'ALREADY_OWNED');
		const fields = importOf(rig, signedBy(BOB, csrOf(rig)), BOB.cert);
		expectRefusal(rig, 'PEK_CERT_IMPORT', fields, 'ALREADY_OWNED');
	});

	it.each([
		['a PEK that is too short', { pekLen: 2083 }],
		['a PEK that is too long', { pekLen: 2085 }],
		['an OCA that is too short', { ocaLen: 2083 }],
		['an OCA that is too long', { ocaLen: 2085 }],
	])('refuses %s', (_, change) => {
		const { rig, fields } = offer();
		expectRefusal(rig, 'PEK_CERT_IMPORT', { ...fields, ...change }, 'INVALID_LENGTH');
	});

	it.each(FORBIDDEN)('refuses addresses %s', (_, address) => {
		const { rig, fields } = offer();
		expectRefusal(rig, 'PEK_CERT_IMPORT', { ...fields, pekPaddr: address }, 'INVALID_ADDRESS');
		expectRefusal(rig, 'PEK_CERT_IMPORT', { ...fields, ocaPaddr: address }, 'INVALID_ADDRESS');
	});

	const unsignedOca = (change: Parameters<typeof sevCertificate.patch>[1]) => {
		const oca = ALICE.cert.slice();
		const none = { sig1Usage: CertUsage.INVALID, sig1Algo: 0, sig1: new Uint8Array(512) };
		sevCertificate.patch(oca, { ...none, ...change });
		return oca;
	};
	it.each<[string, Uint8Array, string]>([
		['whose signature is not its own', flipped(ALICE.cert, 0x41c), 'BAD_SIGNATURE'],
		['whose body was changed', flipped(ALICE.cert, 0x5), 'BAD_SIGNATURE'],
		['that nobody signed', unsignedOca({}), 'INVALID_CERTIFICATE'],
		['that another one signed', signedBy(BOB, unsignedOca({})), 'BAD_SIGNATURE'],
		['of another format version', signedBy(ALICE, unsignedOca({ version: 2 })), 'INVALID_CERTIFICATE'],
		[
			'that is a self-signed PEK',
			signedBy(ALICE, unsignedOca({ usage: CertUsage.PEK }), CertUsage.PEK),
			'INVALID_CERTIFICATE',
		],
		['of zeros', new Uint8Array(SEV_CERT_SIZE), 'INVALID_CERTIFICATE'],
	])('refuses an OCA %s', (_, oca, status) => {
		const { rig, fields } = offer();
		expectRefusal(rig, 'PEK_CERT_IMPORT', { ...fields, ocaPaddr: rig.put(oca) }, status);
	});

	const changedBody = (cert: Uint8Array) => {
		const other = cert.slice();
		sevCertificate.patch(other, { apiMinor: 23 });
		return other;
	};
	it.each<[string, (csr: Uint8Array) => Uint8Array, string]>([
		['that nobody signed', (csr) => csr, 'INVALID_CERTIFICATE'],
		['that another owner signed', (csr) => signedBy(BOB, csr), 'BAD_SIGNATURE'],
		['that was changed after it was signed', (csr) => changedBody(signedBy(ALICE, csr)), 'BAD_SIGNATURE'],
		['that was changed before it was signed', (csr) => signedBy(ALICE, changedBody(csr)), 'INVALID_CERTIFICATE'],
		['with the role of a CEK', (csr) => signedBy(ALICE, csr, CertUsage.CEK), 'INVALID_CERTIFICATE'],
		['of another platform', () => signedBy(ALICE, csrOf(initialised({ seed: 'other' }))), 'INVALID_CERTIFICATE'],
		[
			'without room for the signature of the CEK',
			(csr) => signedBy(ALICE, signedBy(ALICE, csr)),
			'INVALID_CERTIFICATE',
		],
	])('refuses a PEK %s', (_, pekFrom, status) => {
		const { rig, csr, fields } = offer();
		expectRefusal(rig, 'PEK_CERT_IMPORT', { ...fields, pekPaddr: rig.put(pekFrom(csr)) }, status);
	});

	it('checks the OCA before the PEK', () => {
		const { rig, csr, fields } = offer();
		const both = { ...fields, ocaPaddr: rig.put(flipped(ALICE.cert, 0x41c)), pekPaddr: rig.put(csr) };
		expectRefusal(rig, 'PEK_CERT_IMPORT', both, 'BAD_SIGNATURE');
	});

	it('keeps the old owner and all old keys when the flash cannot be written', () => {
		const { rig, fields } = offer();
		rig.nv.save = () => {
			throw new Error('worn out');
		};
		expectRefusal(rig, 'PEK_CERT_IMPORT', fields, 'HWERROR_PLATFORM');
		expect([ownerOf(rig), chainVerdicts(rig)]).toEqual([0, GOOD]);
	});

	it('makes the OCA the owner: its signature, then that of the CEK, and a new PDH', () => {
		const rig = initialised();
		const before = parts(rig);
		giveTo(rig, ALICE);
		const after = parts(rig);
		expect(ownerOf(rig)).toBe(1);
		expect(after.oca).toEqual(ALICE.cert);
		expect(after.cek).toEqual(before.cek);
		expect(after.pdh).not.toEqual(before.pdh);
		expect(after.pek.slice(0, SEV_CERT_BODY_SIZE)).toEqual(before.pek.slice(0, SEV_CERT_BODY_SIZE));
		const [owner, chip] = readSevCertificate(after.pek).slots;
		expect([owner.usage, chip.usage]).toEqual([CertUsage.OCA, CertUsage.CEK]);
		expect(chip).toEqual(readSevCertificate(before.pek).slots[1]);
		expect(chainVerdicts(rig)).toEqual(GOOD);
		expect(rig.platform.identity?.oca.privateKey).toBeUndefined();
	});

	it('puts the signature of the CEK into slot 1 when the owner took slot 2', () => {
		const { rig, csr, fields } = offer();
		const { slots } = readSevCertificate(signedBy(ALICE, csr));
		const pek = csr.slice();
		sevCertificate.patch(pek, { sig2Usage: slots[0].usage, sig2Algo: slots[0].algo, sig2: slots[0].signature });
		rig.must('PEK_CERT_IMPORT', { ...fields, pekPaddr: rig.put(pek) });
		expect(readSevCertificate(parts(rig).pek).slots.map((s) => s.usage)).toEqual([CertUsage.CEK, CertUsage.OCA]);
		expect(chainVerdicts(rig)).toEqual(GOOD);
	});

	it('forgets the old keys of OCA and PDH, and draws one candidate and the IV of what it stores', () => {
		const { rig, fields } = offer();
		const { oca, pek, pdh } = rig.platform.identity ?? {};
		const pekKey = pek?.privateKey.slice();
		const [key, iv] = [new Uint8Array(48).fill(0x41), new Uint8Array(12).fill(0x42)];
		rig.random.script.push(key, iv);
		rig.must('PEK_CERT_IMPORT', fields);
		expect([oca?.privateKey, pdh?.privateKey]).toEqual([new Uint8Array(48), new Uint8Array(48)]);
		expect(rig.platform.identity).toMatchObject({ pek: { privateKey: pekKey }, pdh: { privateKey: key } });
		expect(rig.nv.content?.subarray(8, 20)).toEqual(iv);
	});

	it('makes session buffers for the old PDH worthless', () => {
		const rig = initialised();
		const old = receiveStartFields(rig, 0);
		giveTo(rig, ALICE);
		expectRefusal(rig, 'RECEIVE_START', old, 'BAD_MEASUREMENT');
		rig.must('RECEIVE_START', receiveStartFields(rig, 0));
	});
});

describe('an owned platform', () => {
	it('stays so after SHUTDOWN and INIT, and after a restart with the same flash', () => {
		const rig = initialised();
		giveTo(rig, ALICE);
		const owned = certificatesOf(rig);
		rig.must('SHUTDOWN');
		expect(ownerOf(rig)).toBe(0);
		rig.must('INIT');
		expect([ownerOf(rig), certificatesOf(rig)]).toEqual([1, owned]);
		const nv = memoryStorage();
		nv.content = rig.nv.content;
		const restarted = createRig({ nv, random: createRig({ seed: 'another boot' }).random });
		restarted.must('INIT');
		expect([ownerOf(restarted), certificatesOf(restarted)]).toEqual([1, owned]);
		expectRefusal(restarted, 'PEK_CERT_IMPORT', {}, 'ALREADY_OWNED');
	});

	it('can make new PDHs, which its PEK signs', () => {
		const rig = initialised();
		giveTo(rig, ALICE);
		const before = parts(rig);
		rig.must('PDH_GEN');
		const { pdh, ...rest } = parts(rig);
		expect(pdh).not.toEqual(before.pdh);
		expect({ ...rest, pdh: before.pdh }).toEqual(before);
		expect([ownerOf(rig), chainVerdicts(rig)]).toEqual([1, GOOD]);
	});

	it('owns itself again after PEK_GEN, and can get another owner', () => {
		const rig = initialised();
		giveTo(rig, ALICE);
		rig.must('PEK_GEN');
		expect([ownerOf(rig), chainVerdicts(rig)]).toEqual([0, GOOD]);
		expect(parts(rig).oca).not.toEqual(ALICE.cert);
		giveTo(rig, BOB);
		expect([ownerOf(rig), chainVerdicts(rig), parts(rig).oca]).toEqual([1, GOOD, BOB.cert]);
	});

	it('owns itself again after PLATFORM_RESET and INIT', () => {
		const rig = initialised();
		giveTo(rig, ALICE);
		const owned = parts(rig);
		rig.must('SHUTDOWN');
		rig.must('PLATFORM_RESET');
		rig.must('INIT');
		const { cek, ...anew } = parts(rig);
		expect([ownerOf(rig), chainVerdicts(rig)]).toEqual([0, GOOD]);
		expect(cek).toEqual(owned.cek);
		for (const name of ['pek', 'oca', 'pdh'] as const) expect(anew[name]).not.toEqual(owned[name]);
	});

	it('takes the same owner twice only with the PEK of the time', () => {
		const rig = initialised();
		const stale = importOf(rig, signedBy(ALICE, csrOf(rig)), ALICE.cert);
		rig.must('PEK_GEN');
		expectRefusal(rig, 'PEK_CERT_IMPORT', stale, 'INVALID_CERTIFICATE');
		giveTo(rig, ALICE);
	});
});

describe('PEK_GEN', () => {
	it('makes a new OCA, PEK and PDH, and stores them', () => {
		const rig = initialised();
		const before = parts(rig);
		rig.must('PEK_GEN');
		const after = parts(rig);
		for (const name of ['pek', 'oca', 'pdh'] as const) expect(after[name]).not.toEqual(before[name]);
		expect(after.cek).toEqual(before.cek);
		expect(chainVerdicts(rig)).toEqual(GOOD);
		rig.must('SHUTDOWN');
		rig.must('INIT');
		expect(parts(rig)).toEqual(after);
	});

	it('keeps the old keys, in use and stored, when the flash cannot be written', () => {
		const rig = initialised();
		const before = parts(rig);
		const { save } = rig.nv;
		rig.nv.save = () => {
			throw new Error('worn out');
		};
		expectRefusal(rig, 'PEK_GEN', {}, 'HWERROR_PLATFORM');
		rig.nv.save = save;
		rig.must('PDH_GEN');
		rig.must('SHUTDOWN');
		rig.must('INIT');
		expect({ ...parts(rig), pdh: before.pdh }).toEqual(before);
	});

	it('draws candidates for OCA, PEK and PDH, in this order, then the IV of what it stores', () => {
		const rig = initialised();
		const keys = [0x31, 0x32, 0x33].map((byte) => new Uint8Array(48).fill(byte));
		rig.random.script.push(...keys, new Uint8Array(12).fill(0x34));
		rig.must('PEK_GEN');
		const { oca, pek, pdh } = rig.platform.identity ?? {};
		expect([oca, pek, pdh].map((key) => key?.privateKey)).toEqual(keys);
		expect(rig.nv.content?.subarray(8, 20)).toEqual(new Uint8Array(12).fill(0x34));
	});
});
