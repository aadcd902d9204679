import { fromHex } from '@cvm/layout';
import { join } from '../fake-platform.js';
import { bad, blob, changed, drawn, good, privateKey, repeated, vectorFile, zeros } from './builders.js';
import { ecCertificate, signers } from './certificates.js';
import type { VectorFile } from './format.js';

/** The attestation report. */
export function attestationFiles(): readonly VectorFile[] {
	const said = { mnonce: drawn('report nonce'), launchDigest: drawn('report digest', 32), policy: 0x18000005 };
	const sign = { pekPrivateKey: privateKey('pek'), ...said };
	const signFile = vectorFile('attestation-sign', 'The report of ATTESTATION, with the ECDSA nonce of RFC 6979.', [
		good('report', 'A launched guest.', sign),
		good('received', 'A received guest: its launch digest is zero.', { ...sign, launchDigest: zeros(32) }),
		good('policy-all-ones', 'The policy is unsigned.', { ...sign, policy: 0xffffffff }),
	]);
	const report = fromHex(`${signFile.cases[0]?.expect['report']}`);
	const verify = { report: blob('report'), pek: blob('pek') };
	const tampered = (
		id: string,
		comment: string,
		at: number,
		bytes: Uint8Array = Uint8Array.of((report[at] ?? 0) ^ 1),
	) => bad(id, 'BAD_SIGNATURE', comment, { ...verify, report: changed('report', [[at, bytes]]) });
	const N = 'ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973';
	const n = join(fromHex(N).reverse(), zeros(24));
	const verifyFile = vectorFile(
		'attestation-verify',
		'What a guest owner says of a report, given a PEK certificate that is already trusted.',
		[
			good('report', 'A good report.', verify),
			good('as-expected', 'It says what is expected.', { ...verify, ...said }),
			tampered('mnonce-first-byte', 'A bit of MNONCE is another.', 0x00),
			tampered('mnonce-last-byte', 'A bit of MNONCE is another.', 0x0f),
			tampered('digest-first-byte', 'A bit of LAUNCH_DIGEST is another.', 0x10),
			tampered('digest-last-byte', 'A bit of LAUNCH_DIGEST is another.', 0x2f),
			tampered('policy-first-byte', 'NODBG is taken away.', 0x30),
			tampered('policy-last-byte', 'The least version is another.', 0x33),
			tampered('usage', 'Signed by an OCA, it says.', 0x34, Uint8Array.of(1, 0x10)),
			tampered('algo', 'Signed over SHA-384, it says.', 0x38, Uint8Array.of(2, 1)),
			tampered('r', 'A bit of R is another.', 0x40),
			tampered('s', 'A bit of S is another.', 0x88),
			tampered('r-zero', 'R is 0.', 0x40, zeros(72)),
			tampered('s-zero', 'S is 0.', 0x88, zeros(72)),
			tampered('r-is-n', 'R is the order of the group.', 0x40, n),
			tampered('s-too-long', 'S has a non-zero byte above 48.', 0x88 + 48, Uint8Array.of(1)),
			tampered('signature-zero', 'No signature.', 0x40, zeros(144)),
			bad('other-pek', 'BAD_SIGNATURE', 'The PEK of another platform.', { ...verify, pek: blob('other-pek') }),
			bad('pek-is-oca', 'INVALID_CERTIFICATE', 'The certificate of an OCA.', {
				...verify,
				pek: changed('pek', [[8, Uint8Array.of(1)]]),
			}),
			bad('pek-off-curve', 'INVALID_CERTIFICATE', 'The key of the PEK is off the curve.', {
				...verify,
				pek: changed('pek', [[0x14, repeated(1, 4)]]),
			}),
			bad('pek-is-pdh', 'INVALID_CERTIFICATE', 'A certificate for Diffie-Hellman.', {
				...verify,
				pek: changed('pek', [
					[8, Uint8Array.of(3)],
					[12, Uint8Array.of(3)],
				]),
			}),
			bad('other-mnonce', 'BAD_MEASUREMENT', 'The answer to an earlier question.', { ...verify, mnonce: zeros(16) }),
			bad('other-digest', 'BAD_MEASUREMENT', 'Another launch than expected.', {
				...verify,
				launchDigest: repeated(1, 32),
			}),
			bad('other-policy', 'POLICY_FAILURE', 'Another policy than expected.', { ...verify, policy: 0x18000001 }),
			bad('cut', 'INVALID_LENGTH', 'A byte short.', { ...verify, report: changed('report', [], 207) }),
			bad('too-long', 'INVALID_LENGTH', 'A byte too long.', { ...verify, report: changed('report', [], 209) }),
		],
		{
			report,
			pek: ecCertificate(signers.pek),
			'other-pek': ecCertificate({ ...signers.pek, privateKey: privateKey('other pek') }),
		},
	);
	return [signFile, verifyFile];
}
