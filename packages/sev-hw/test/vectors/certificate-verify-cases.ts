import { fromHex } from '@cvm/layout';
import { FAKE_ARK_KEY, FAKE_ASK_KEY } from '../../src/fake-amd/index.js';
import { join } from '../fake-platform.js';
import { RSA_4096 } from '../rsa-4096.js';
import { amdBinaries } from './amd-cases.js';
import {
	bad,
	blob,
	changed,
	type Draft,
	drawn,
	good,
	privateKey,
	publicFile,
	published,
	repeated,
	vectorFile,
	zeros,
} from './builders.js';
import { platform } from './certificate-cases.js';
import { ecCertificate, signed, signedByAsk, signers } from './certificates.js';
import type { VectorFile } from './format.js';

const NAPLES = 'virtee/sev, tests/naples';
const [SIG1, SIG2] = [0x414, 0x61c];
/** Within a slot. */
const [R, S] = [8, 80];
const N = fromHex('ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973');
const ORDER = join(N.slice().reverse(), zeros(24));
const INVALID = 'INVALID_CERTIFICATE';
const EMPTY_SLOT = join(Uint8Array.of(0, 0x10, 0, 0, 0, 0, 0, 0), zeros(512));

const tag = (usage: number, algo: number) => Uint8Array.of(usage, usage >>> 8, 0, 0, algo, algo >>> 8, 0, 0);
const slotOf = (certificate: Uint8Array, at: number) => certificate.slice(at, at + 520);

/** PEK by OCA: what most checks are shown on. */
const pekByOca = signed(ecCertificate(signers.pek), [signers.oca]);
const verify = { certificate: blob('pek'), signer: blob('oca'), signerFormat: 'sev' };
const patched = (id: string, status: string, comment: string, ...patches: readonly (readonly [number, Uint8Array])[]) =>
	bad(id, status, comment, { ...verify, certificate: changed('pek', patches) });
const bySigner = (id: string, comment: string, at: number, bytes: Uint8Array): Draft =>
	bad(`signer-${id}`, INVALID, comment, { ...verify, signer: changed('oca', [[at, bytes]]) });
/** The slot names the same role and holds no good signature: the signing key comes first. */
const unknownSigner = (id: string, comment: string, usage: number): Draft =>
	bad(`signer-${id}`, INVALID, comment, {
		...{ ...verify, signer: changed('oca', [[8, tag(usage, 2)]]) },
		certificate: changed('pek', [[SIG1, join(tag(usage, 2), repeated(7, 48))]]),
	});
/** Signed with the defect in it, so that nothing but the defect is wrong. */
const resigned = (id: string, comment: string, at: number, bytes: Uint8Array): Draft =>
	bad(`body-${id}`, INVALID, comment, {
		...{ ...verify, certificate: signed(ecCertificate(signers.pek), [signers.oca], [[at, bytes]]) },
	});

const signerCases = (): readonly Draft[] => [
	unknownSigner('usage-unknown', 'The usage of the signing key and of the slot is unknown.', 0x1005),
	unknownSigner('usage-invalid', 'The usage of the signing key and of the slot is INVALID.', 0x1000),
	bySigner('algo-unknown', 'The algorithm of the signing key is unknown.', 12, Uint8Array.of(4)),
	bySigner('curve-p256', 'The signing key is said to be one for P-256.', 0x10, Uint8Array.of(1)),
	bySigner('off-curve', 'The signing key is off the curve.', 0x14, Uint8Array.of((platform.oca[0x14] ?? 0) ^ 1)),
	bySigner('point-at-zero', 'Both coordinates of the signing key are 0.', 0x14, zeros(144)),
	bySigner('coordinate-too-long', 'QY has a non-zero byte above 48.', 0x5c + 71, Uint8Array.of(1)),
	bad('signer-other-role', INVALID, 'The signing key is that of the slot, but in another role.', {
		...{ ...verify, signer: changed('oca', [[8, Uint8Array.of(4)]]) },
	}),
	bad('signer-other-algo', INVALID, 'The signing key is that of the slot, but for SHA-384.', {
		...{ ...verify, signer: changed('oca', [[12, Uint8Array.of(2, 1)]]) },
	}),
	bad('signer-other-key', 'BAD_SIGNATURE', 'Another key in the same role.', {
		...{ ...verify, signer: ecCertificate({ ...signers.oca, privateKey: privateKey('other oca') }) },
	}),
	good('signer-not-judged', "Version and signatures of the signer's certificate are not looked at.", {
		...{
			...verify,
			signer: changed('oca', [
				[0, Uint8Array.of(9)],
				[SIG1, EMPTY_SLOT],
			]),
		},
	}),
];

const bothByOca = signed(ecCertificate(signers.pek), [signers.oca, signers.oca]);
const [goodSlot, badSlot] = [slotOf(pekByOca, SIG1), join(tag(0x1001, 2), repeated(7, 48), zeros(464))];

const slotCases = (): readonly Draft[] => [
	patched('slots-empty', INVALID, 'Both slots are empty.', [SIG1, EMPTY_SLOT]),
	good('slot-2', 'The only signature is in the second slot.', {
		...{
			...verify,
			certificate: changed('pek', [
				[SIG1, EMPTY_SLOT],
				[SIG2, goodSlot],
			]),
		},
	}),
	patched('slot-other-usage', INVALID, 'The slot names a CEK.', [SIG1, tag(0x1004, 2)]),
	patched('slot-other-algo', INVALID, 'The slot names SHA-384.', [SIG1, tag(0x1001, 0x102)]),
	patched('slot-1-algo-missing', 'BAD_SIGNATURE', 'Slot 1 has a usage and no algorithm.', [SIG1, tag(0x1001, 0)]),
	patched('slot-1-usage-missing', 'BAD_SIGNATURE', 'Slot 1 has an algorithm and no usage.', [SIG1, tag(0x1000, 2)]),
	patched('slot-2-algo-missing', 'BAD_SIGNATURE', 'Slot 1 is good; slot 2 has a usage and no algorithm.', [
		SIG2,
		tag(0x1004, 0),
	]),
	patched('slot-2-usage-missing', 'BAD_SIGNATURE', 'Slot 1 is good; slot 2 has an algorithm and no usage.', [
		SIG2,
		tag(0x1000, 2),
	]),
	good('slots-both-good', 'Both slots hold good signatures of this key.', { ...verify, certificate: bothByOca }),
	patched('slots-good-bad', 'BAD_SIGNATURE', 'Both slots name this key: the verdict of the second stands.', [
		SIG2,
		badSlot,
	]),
	good('slots-bad-good', 'Both slots name this key: the verdict of the second stands.', {
		...{
			...verify,
			certificate: changed('pek', [
				[SIG1, badSlot],
				[SIG2, goodSlot],
			]),
		},
	}),
	good('slot-2-of-another', 'A bad signature of another signer does not count.', {
		...{ ...verify, certificate: changed('pek', [[SIG2, join(tag(0x1004, 2), repeated(7, 48))]]) },
	}),
	bad('slot-of-dh-key', 'UNSUPPORTED', 'The slot names a Diffie-Hellman key, and the signer is it.', {
		certificate: changed('pek', [[SIG1, tag(0x1003, 3)]]),
		...{ signer: blob('pdh'), signerFormat: 'sev' },
	}),
];

const negated = (() => {
	const s = BigInt(
		`0x${[...pekByOca.slice(SIG1 + S, SIG1 + S + 48)]
			.reverse()
			.map((b) => b.toString(16).padStart(2, '0'))
			.join('')}`,
	);
	const n = BigInt(`0x${[...N].map((b) => b.toString(16).padStart(2, '0')).join('')}`);
	return fromHex((n - s).toString(16).padStart(96, '0')).reverse();
})();

const signatureCases = (): readonly Draft[] => [
	patched('version-changed', 'BAD_SIGNATURE', 'VERSION is 2, unsigned: the signature is tested first.', [
		0,
		Uint8Array.of(2),
	]),
	patched('api-version-changed', 'BAD_SIGNATURE', 'API_MINOR is another.', [5, Uint8Array.of(25)]),
	patched('usage-changed', 'BAD_SIGNATURE', 'A PEK is made a CEK.', [8, Uint8Array.of(4)]),
	patched('key-changed', 'BAD_SIGNATURE', 'The key is another, and off the curve: the signature is tested first.', [
		0x14,
		repeated(1, 4),
	]),
	patched('body-last-byte', 'BAD_SIGNATURE', 'The last byte of the body is another.', [0x413, Uint8Array.of(1)]),
	patched('r-changed', 'BAD_SIGNATURE', 'A bit of R is another.', [
		SIG1 + R,
		Uint8Array.of((pekByOca[SIG1 + R] ?? 0) ^ 1),
	]),
	patched('s-changed', 'BAD_SIGNATURE', 'A bit of S is another.', [
		SIG1 + S,
		Uint8Array.of((pekByOca[SIG1 + S] ?? 0) ^ 1),
	]),
	patched('r-zero', 'BAD_SIGNATURE', 'R is 0.', [SIG1 + R, zeros(72)]),
	patched('s-zero', 'BAD_SIGNATURE', 'S is 0.', [SIG1 + S, zeros(72)]),
	patched('r-is-n', 'BAD_SIGNATURE', 'R is the order of the group.', [SIG1 + R, ORDER]),
	patched('s-is-n', 'BAD_SIGNATURE', 'S is the order of the group.', [SIG1 + S, ORDER]),
	patched('r-too-long', 'BAD_SIGNATURE', 'R has a non-zero byte above 48.', [SIG1 + R + 48, Uint8Array.of(1)]),
	patched('s-too-long', 'BAD_SIGNATURE', 'S has a non-zero byte above 48.', [SIG1 + S + 71, Uint8Array.of(1)]),
	patched('r-and-s-swapped', 'BAD_SIGNATURE', 'R and S are swapped.', [
		SIG1 + R,
		join(pekByOca.slice(SIG1 + S, SIG1 + S + 72), pekByOca.slice(SIG1 + R, SIG1 + R + 72)),
	]),
	patched('big-endian', 'BAD_SIGNATURE', 'R and S are stored big-endian.', [
		SIG1 + R,
		join(
			pekByOca.slice(SIG1 + R, SIG1 + R + 48).reverse(),
			zeros(24),
			pekByOca.slice(SIG1 + S, SIG1 + S + 48).reverse(),
		),
	]),
	good('s-negated', 'ECDSA takes n - S as well as S.', {
		...verify,
		certificate: changed('pek', [[SIG1 + S, negated]]),
	}),
	good('by-sha384', 'An OCA for SHA-384 signs over SHA-384.', {
		certificate: signed(ecCertificate(signers.pek), [signers.oca384]),
		...{ signer: ecCertificate(signers.oca384), signerFormat: 'sev' },
	}),
];

const bodyCases = (): readonly Draft[] => [
	resigned('version-0', 'VERSION is 0.', 0, Uint8Array.of(0)),
	resigned('version-2', 'VERSION is 2.', 0, Uint8Array.of(2)),
	resigned('usage-unknown', 'The usage of its key is unknown.', 8, Uint8Array.of(5)),
	resigned('usage-invalid', 'The usage of its key is INVALID.', 8, Uint8Array.of(0)),
	resigned('algo-unknown', 'The algorithm of its key is unknown.', 12, Uint8Array.of(4)),
	resigned('algo-invalid', 'The algorithm of its key is 0.', 12, Uint8Array.of(0)),
	resigned('curve-p256', 'Its key is said to be one for P-256.', 0x10, Uint8Array.of(1)),
	resigned('off-curve', 'Its key is off the curve.', 0x14, Uint8Array.of((pekByOca[0x14] ?? 0) ^ 1)),
	resigned('point-at-zero', 'Both coordinates of its key are 0.', 0x14, zeros(144)),
	resigned('coordinate-too-long', 'QX has a non-zero byte above 48.', 0x14 + 48, Uint8Array.of(1)),
	good('body-api-version', 'The API version is not judged.', {
		...{ ...verify, certificate: signed(ecCertificate(signers.pek), [signers.oca], [[4, Uint8Array.of(255, 255)]]) },
	}),
];

function roleCases(): readonly Draft[] {
	const { oca, cek, pek, pdh } = signers;
	const all = { oca, cek, pek, pdh };
	const allowed = ['oca by oca', 'pek by oca', 'pek by cek', 'pdh by pek'];
	return Object.entries(all).flatMap(([subject, key]) =>
		Object.entries({ oca, cek, pek }).map(([by, signer]) => {
			const input = {
				certificate: signed(ecCertificate(key), [signer]),
				signer: ecCertificate(signer),
				signerFormat: 'sev',
			};
			const [id, comment] = [`role-${subject}-by-${by}`, `${subject.toUpperCase()} signed by ${by.toUpperCase()}.`];
			return allowed.includes(`${subject} by ${by}`) ? good(id, comment, input) : bad(id, INVALID, comment, input);
		}),
	);
}

const asked = { certificate: blob('cek'), signer: blob('ask'), signerFormat: 'amd' };
const cekBy4096 = signedByAsk(ecCertificate(signers.cek), RSA_4096);
const cekWith = (choice: Parameters<typeof signedByAsk>[2]) =>
	signedByAsk(ecCertificate(signers.cek), FAKE_ASK_KEY, choice);
const cekPatched = (id: string, comment: string, at: number, bytes: Uint8Array) =>
	bad(id, 'BAD_SIGNATURE', comment, { ...asked, certificate: changed('cek', [[at, bytes]]) });

const askCases = (): readonly Draft[] => [
	good('cek-by-ask-2048', 'A CEK by an ASK of 2048 bits: PSS with SHA-256.', asked),
	good('cek-by-ask-4096', 'A CEK by an ASK of 4096 bits: PSS with SHA-384.', {
		...{ certificate: cekBy4096, signer: blob('ask-4096'), signerFormat: 'amd' },
	}),
	cekPatched('cek-body-changed', 'API_MINOR is another.', 5, Uint8Array.of(25)),
	cekPatched(
		'cek-signature-first-byte',
		'The lowest byte of the signature is another.',
		SIG1 + 8,
		Uint8Array.of((platform.cek[SIG1 + 8] ?? 0) ^ 1),
	),
	cekPatched(
		'cek-signature-last-byte',
		'The highest byte of the signature is another.',
		SIG1 + 8 + 255,
		Uint8Array.of((platform.cek[SIG1 + 8 + 255] ?? 0) ^ 1),
	),
	cekPatched('cek-signature-zero', 'The signature is 0.', SIG1 + 8, zeros(256)),
	cekPatched('cek-signature-too-large', 'The signature is not below the modulus.', SIG1 + 8, repeated(0xff, 256)),
	good('cek-salt-empty', 'Any length of salt is taken: none.', { ...asked, certificate: cekWith({ salt: zeros(0) }) }),
	good('cek-salt-20', 'Any length of salt is taken: 20 bytes.', {
		...asked,
		certificate: cekWith({ salt: drawn('salt', 20) }),
	}),
	good('cek-salt-longest', 'Any length of salt is taken: the longest that fits.', {
		...asked,
		certificate: cekWith({ salt: drawn('salt', 222) }),
	}),
	bad('cek-pss-sha384', 'BAD_SIGNATURE', 'PSS with SHA-384 by an ASK of 2048 bits.', {
		...asked,
		certificate: cekWith({ hash: 'sha384', salt: zeros(48) }),
	}),
	bad('cek-unsigned', INVALID, 'A CEK as PDH_CERT_EXPORT gives it.', {
		...asked,
		certificate: ecCertificate(signers.cek),
	}),
	bad('cek-slot-sha384', INVALID, 'The slot names SHA-384, the ASK has 2048 bits.', {
		...{ ...asked, certificate: changed('cek', [[SIG1, tag(0x13, 0x101)]]) },
	}),
	bad('cek-by-other-ask', 'BAD_SIGNATURE', 'Another ASK of 2048 bits.', { ...asked, signer: blob('other-ask') }),
	bad('cek-by-ark', INVALID, 'The root signs a CEK, in its own role.', {
		certificate: signedByAsk(ecCertificate(signers.cek), FAKE_ARK_KEY, { usage: 0 }),
		...{ signer: blob('ark'), signerFormat: 'amd' },
	}),
	bad('pek-by-ask', INVALID, 'An ASK signs a PEK.', {
		...asked,
		certificate: signedByAsk(ecCertificate(signers.pek), FAKE_ASK_KEY),
	}),
	bad('oca-by-ask', INVALID, 'An ASK signs an OCA.', {
		...asked,
		certificate: signedByAsk(ecCertificate(signers.oca), FAKE_ASK_KEY),
	}),
	bad('body-usage-ask', INVALID, 'An ASK in this form is signed by an OCA: no such role.', {
		...{ ...verify, certificate: signed(ecCertificate(signers.pek), [signers.oca], [[8, Uint8Array.of(0x13, 0)]]) },
	}),
];

const naples = (name: string) => publicFile(`sev/naples/${name}.cert`);
const realCases = (): readonly Draft[] =>
	[
		good('naples-cek', 'A real CEK by the real ASK.', {
			certificate: naples('cek'),
			signer: publicFile('sev/roots/naples-ask.cert'),
			signerFormat: 'amd',
		}),
		good('naples-oca', 'A real OCA by itself.', {
			certificate: naples('oca'),
			signer: naples('oca'),
			signerFormat: 'sev',
		}),
		good('naples-pek-by-oca', 'A real PEK by its OCA.', {
			certificate: naples('pek'),
			signer: naples('oca'),
			signerFormat: 'sev',
		}),
		good('naples-pek-by-cek', 'A real PEK by its CEK.', {
			certificate: naples('pek'),
			signer: naples('cek'),
			signerFormat: 'sev',
		}),
		good('naples-pdh', 'A real PDH by its PEK.', {
			certificate: naples('pdh'),
			signer: naples('pek'),
			signerFormat: 'sev',
		}),
		bad('naples-pdh-by-cek', INVALID, 'No slot names the CEK.', {
			certificate: naples('pdh'),
			signer: naples('cek'),
			signerFormat: 'sev',
		}),
	].map((draft) => published(NAPLES, draft));

/** Verification, check by check. */
export function verifyCases(): VectorFile {
	const { ask, ark, 'ask-4096': ask4096, 'other-ask': otherAsk } = amdBinaries();
	return vectorFile(
		'certificate-verify',
		'Whether a key signed an SEV certificate and may sign for its role.',
		[
			good('pek-by-oca', 'A PEK by its OCA.', verify),
			...[signerCases, slotCases, signatureCases, bodyCases, roleCases, askCases, realCases].flatMap((cases) =>
				cases(),
			),
		],
		{
			pek: pekByOca,
			oca: platform.oca,
			pdh: platform.pdh,
			cek: platform.cek,
			ask,
			'ask-4096': ask4096,
			'other-ask': otherAsk,
			ark,
		},
	);
}
