import { FAKE_ASK_KEY } from '../../src/fake-amd/index.js';
import { bad, blob, changed, drawn, good, publicFile, published, vectorFile } from './builders.js';
import { dhCertificate, ecCertificate, signed, signedByAsk, signers } from './certificates.js';
import { DH_DEFECTS } from './channel-cases.js';
import type { VectorFile } from './format.js';

const NAPLES = 'virtee/sev, tests/naples';

/** The certificates of a self-owned platform whose CEK the fake ASK signed. */
export const platform = {
	oca: signed(ecCertificate(signers.oca), [signers.oca]),
	cek: signedByAsk(ecCertificate(signers.cek), FAKE_ASK_KEY),
	pek: signed(ecCertificate(signers.pek), [signers.oca, signers.cek]),
	pdh: signed(ecCertificate(signers.pdh), [signers.pek]),
};

function readCases(): VectorFile {
	const read = (id: string, comment: string, certificate: Uint8Array) => good(id, comment, { certificate });
	return vectorFile('certificate-read', 'The fields of an SEV certificate (version 1), unjudged.', [
		read('oca', 'Self-signed, one slot.', platform.oca),
		read('pek', 'Two slots: OCA, then CEK.', platform.pek),
		read('pdh', 'A Diffie-Hellman key.', platform.pdh),
		read('cek', 'Signed by an RSA key.', platform.cek),
		read('unsigned', 'Both slots are empty.', ecCertificate(signers.pek)),
	]);
}

function signCases(): VectorFile {
	const subject = ({ usage, algo, privateKey: key }: typeof signers.oca) => ({
		...{ apiMajor: 0, apiMinor: 24, usage, algo, privateKey: key },
	});
	const { oca, oca384, cek, pek, pdh } = signers;
	return vectorFile('certificate-sign', 'Making an SEV certificate, with the ECDSA nonce of RFC 6979.', [
		good('oca', 'Self-signed.', { ...subject(oca), signers: [{ ...oca }] }),
		good('oca-sha384', 'A key for ECDSA with SHA-384, self-signed.', { ...subject(oca384), signers: [{ ...oca384 }] }),
		good('pek', 'By the OCA, then by the CEK.', { ...subject(pek), signers: [{ ...oca }, { ...cek }] }),
		good('pek-by-sha384', 'By an OCA for SHA-384.', { ...subject(pek), signers: [{ ...oca384 }] }),
		good('pdh', 'By the PEK.', { ...subject(pdh), signers: [{ ...pek }] }),
		good('cek-unsigned', 'As a platform exports it.', { ...subject(cek), signers: [] }),
		good('other-version', "The API version is the maker's.", {
			...subject(pdh),
			apiMajor: 1,
			apiMinor: 55,
			signers: [{ ...pek }],
		}),
	]);
}

function dhCases(): VectorFile {
	return vectorFile(
		'dh-certificate',
		'The check of a certificate that only carries a Diffie-Hellman key: no signature is looked at.',
		[
			good('unsigned', 'No signature.', { certificate: blob('dh') }),
			good('signed', 'A PDH signed by its PEK.', { certificate: platform.pdh }),
			good('signature-noise', 'Noise in the slots.', { certificate: changed('dh', [[0x414, drawn('noise', 64)]]) }),
			good('api-version', 'Any API version.', { certificate: changed('dh', [[4, Uint8Array.of(255, 255)]]) }),
			...DH_DEFECTS.map(([id, comment, at, bytes]) =>
				bad(id, 'INVALID_CERTIFICATE', comment, { certificate: changed('dh', [[at, bytes]]) }),
			),
			published(NAPLES, good('naples-pdh', 'A real PDH.', { certificate: publicFile('sev/naples/pdh.cert') })),
			published(
				NAPLES,
				bad('naples-pek', 'INVALID_CERTIFICATE', 'A real PEK.', { certificate: publicFile('sev/naples/pek.cert') }),
			),
		],
		{ dh: dhCertificate('dh') },
	);
}

/** Certificates in SEV's own format. */
export const certificateFiles = (): readonly VectorFile[] => [readCases(), signCases(), dhCases()];
