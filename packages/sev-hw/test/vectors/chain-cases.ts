import { FAKE_ARK_KEY, FAKE_ASK_KEY } from '../../src/fake-amd/index.js';
import { amdBinaries } from './amd-cases.js';
import {
	bad,
	blob,
	changed,
	type Draft,
	type DraftFields,
	good,
	privateKey,
	publicFile,
	published,
	repeated,
	vectorFile,
	zeros,
} from './builders.js';
import { platform } from './certificate-cases.js';
import { amdCertificate, dhCertificate, ecCertificate, signed, signers } from './certificates.js';
import type { VectorFile } from './format.js';

const NAPLES = 'virtee/sev, tests/naples and src/certs/sev/builtin';
const INVALID = 'INVALID_CERTIFICATE';
const file = (name: string) => publicFile(`sev/${name}.cert`);
const naples = { pek: file('naples/pek'), pdh: file('naples/pdh') };
const [SIG1, SIG2] = [0x414, 0x61c];
/** Any byte of a signature, so that only its own check fails. */
const SPOILT = repeated(0x5a, 4);

const broken =
	(chain: DraftFields) =>
	(failed: string, id: string, status: string, comment: string, certificate: DraftFields | Uint8Array): Draft =>
		bad(id, status, comment, { ...chain, [failed]: certificate }, { failed });

function platformCases(): VectorFile {
	const { ark, ask } = amdBinaries();
	const names = { ark: blob('ark'), ask: blob('ask'), cek: blob('cek'), pek: blob('pek'), pdh: blob('pdh') };
	const fails = broken(names);
	const otherCek = { ...signers.cek, privateKey: privateKey('other cek') };
	const otherPek = { ...signers.pek, privateKey: privateKey('other pek') };
	const root = { version: 1, keyId: ark.slice(4, 20), certifyingId: ark.slice(4, 20) };
	const real = { ark: file('roots/naples-ark'), ask: file('roots/naples-ask'), cek: file('naples/cek'), ...naples };
	return vectorFile(
		'platform-chain',
		'ARK, ASK, CEK, PEK, PDH as SEND_START checks them under POLICY.SEV, in this order.',
		[
			good('good', 'Every link holds.', names),
			fails(
				'ark',
				'ark-signature',
				'BAD_SIGNATURE',
				"The root's signature is spoilt.",
				changed('ark', [[576, SPOILT]]),
			),
			fails(
				'ark',
				'ark-usage',
				INVALID,
				'The root is a self-signed signing key.',
				amdCertificate({ ...root, usage: 0x13, key: FAKE_ARK_KEY, signer: FAKE_ARK_KEY }),
			),
			fails(
				'ask',
				'ask-signature',
				'BAD_SIGNATURE',
				"The signing key's signature is spoilt.",
				changed('ask', [[576, SPOILT]]),
			),
			fails(
				'ask',
				'ask-usage',
				INVALID,
				'The root signed the signing key as a root.',
				amdCertificate({ ...root, usage: 0, key: FAKE_ASK_KEY, signer: FAKE_ARK_KEY }),
			),
			fails(
				'cek',
				'cek-signature',
				'BAD_SIGNATURE',
				"The CEK's signature is spoilt.",
				changed('cek', [[SIG1 + 8, SPOILT]]),
			),
			fails(
				'cek',
				'cek-unsigned',
				INVALID,
				'The CEK is as the platform exported it: unsigned.',
				ecCertificate(signers.cek),
			),
			fails(
				'pek',
				'pek-cek-signature',
				'BAD_SIGNATURE',
				"The CEK's signature of the PEK is spoilt.",
				changed('pek', [[SIG2 + 8, SPOILT]]),
			),
			good('pek-oca-signature', "The owner's signature of the PEK does not matter here.", {
				...names,
				pek: changed('pek', [[SIG1 + 8, SPOILT]]),
			}),
			fails(
				'pek',
				'pek-by-oca-only',
				INVALID,
				'Only its owner signed the PEK.',
				signed(ecCertificate(signers.pek), [signers.oca]),
			),
			fails(
				'pek',
				'pek-by-other-cek',
				'BAD_SIGNATURE',
				'The CEK of another chip signed the PEK.',
				signed(ecCertificate(signers.pek), [signers.oca, otherCek]),
			),
			fails(
				'pdh',
				'pdh-signature',
				'BAD_SIGNATURE',
				"The PDH's signature is spoilt.",
				changed('pdh', [[SIG1 + 8, SPOILT]]),
			),
			fails('pdh', 'pdh-unsigned', INVALID, 'Nobody signed the PDH.', dhCertificate('pdh')),
			fails(
				'pdh',
				'pdh-by-other-pek',
				'BAD_SIGNATURE',
				'The PEK of another platform signed the PDH.',
				signed(ecCertificate(signers.pdh), [otherPek]),
			),
			fails(
				'pdh',
				'pdh-by-cek',
				INVALID,
				'The CEK signed the PDH, past the PEK.',
				signed(ecCertificate(signers.pdh), [signers.cek]),
			),
			bad(
				'first-failure',
				'BAD_SIGNATURE',
				'Every certificate is spoilt: the root is checked first.',
				{
					...{
						ark: changed('ark', [[576, SPOILT]]),
						ask: changed('ask', [[576, SPOILT]]),
						cek: ecCertificate(signers.cek),
					},
					...{ pek: changed('pek', [[0, zeros(4)]]), pdh: dhCertificate('pdh') },
				},
				{ failed: 'ark' },
			),
			bad(
				'cek-before-pek',
				INVALID,
				'CEK and PEK are bad: the CEK is checked first.',
				{
					...{ ...names, cek: ecCertificate(signers.cek), pek: changed('pek', [[SIG2 + 8, SPOILT]]) },
				},
				{ failed: 'cek' },
			),
			published(NAPLES, good('naples', 'A real platform.', real)),
			published(
				NAPLES,
				bad(
					'naples-under-rome',
					INVALID,
					'A real platform under the roots of another product: the slot names another hash.',
					{ ...real, ark: file('roots/rome-ark'), ask: file('roots/rome-ask') },
					{ failed: 'cek' },
				),
			),
		],
		{ ark, ask, cek: platform.cek, pek: platform.pek, pdh: platform.pdh },
	);
}

function ownerCases(): VectorFile {
	const names = { oca: blob('oca'), pek: blob('pek'), pdh: blob('pdh') };
	const fails = broken(names);
	const otherOca = { ...signers.oca, privateKey: privateKey('other oca') };
	return vectorFile(
		'owner-chain',
		'OCA, PEK, PDH as SEND_START checks them under POLICY.DOMAIN, in this order.',
		[
			good('good', 'Every link holds.', names),
			fails(
				'oca',
				'oca-signature',
				'BAD_SIGNATURE',
				"The OCA's signature is spoilt.",
				changed('oca', [[SIG1 + 8, SPOILT]]),
			),
			fails('oca', 'oca-unsigned', INVALID, 'Nobody signed the OCA.', ecCertificate(signers.oca)),
			fails('oca', 'oca-is-pek', INVALID, 'A PEK in place of the OCA: no slot names its own key.', platform.pek),
			fails(
				'pek',
				'pek-oca-signature',
				'BAD_SIGNATURE',
				"The owner's signature of the PEK is spoilt.",
				changed('pek', [[SIG1 + 8, SPOILT]]),
			),
			good('pek-cek-signature', "The CEK's signature of the PEK does not matter here.", {
				...names,
				pek: changed('pek', [[SIG2 + 8, SPOILT]]),
			}),
			fails(
				'pek',
				'pek-by-cek-only',
				INVALID,
				'Only the CEK signed the PEK.',
				signed(ecCertificate(signers.pek), [signers.cek]),
			),
			fails(
				'pek',
				'pek-by-other-oca',
				'BAD_SIGNATURE',
				'Another owner signed the PEK.',
				signed(ecCertificate(signers.pek), [otherOca]),
			),
			fails(
				'pdh',
				'pdh-signature',
				'BAD_SIGNATURE',
				"The PDH's signature is spoilt.",
				changed('pdh', [[SIG1 + 8, SPOILT]]),
			),
			fails(
				'pdh',
				'pdh-by-oca',
				INVALID,
				'The OCA signed the PDH, past the PEK.',
				signed(ecCertificate(signers.pdh), [signers.oca]),
			),
			published(NAPLES, good('naples', 'A real, self-owned platform.', { oca: file('naples/oca'), ...naples })),
			published(
				NAPLES,
				bad(
					'naples-other-owner',
					'BAD_SIGNATURE',
					'A real platform under an owner that is not its own.',
					{ oca: platform.oca, ...naples },
					{ failed: 'pek' },
				),
			),
		],
		{ oca: platform.oca, pek: platform.pek, pdh: platform.pdh },
	);
}

/** Chains of certificates. */
export const chainFiles = (): readonly VectorFile[] => [platformCases(), ownerCases()];
