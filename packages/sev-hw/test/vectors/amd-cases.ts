import { FAKE_ARK_KEY, FAKE_ASK_KEY } from '../../src/fake-amd/index.js';
import { AMD_ROOTS } from '../../src/owner/index.js';
import { RSA_4096 } from '../rsa-4096.js';
import {
	ascii,
	bad,
	blob,
	changed,
	type Draft,
	good,
	provider,
	publicFile,
	published,
	repeated,
	vectorFile,
	zeros,
} from './builders.js';
import { amdCertificate } from './certificates.js';
import type { VectorFile } from './format.js';

const BUILTIN = 'virtee/sev, src/certs/sev/builtin';
const PRODUCTS = ['naples', 'rome', 'milan', 'genoa', 'turin'] as const;
const INVALID = 'INVALID_CERTIFICATE';
const [arkId, askId] = [ascii('VECTORS-ARK-0001'), ascii('VECTORS-ASK-0001')];

const root = { keyId: arkId, certifyingId: arkId, usage: 0, key: FAKE_ARK_KEY, signer: FAKE_ARK_KEY };
const signing = { keyId: askId, certifyingId: arkId, usage: 0x13, key: FAKE_ASK_KEY, signer: FAKE_ARK_KEY };
const big = { key: RSA_4096, signer: RSA_4096 };

/** Roots and signing keys of a manufacturer that does not exist. */
export const amdBinaries = () => ({
	ark: amdCertificate(root),
	ask: amdCertificate(signing),
	'ark-4096': amdCertificate({ ...root, ...big }),
	'ask-4096': amdCertificate({ ...signing, ...big }),
	/** Signed by the same root, but with the root's key. */
	'other-ask': amdCertificate({ ...signing, key: FAKE_ARK_KEY }),
});

function readCases(): VectorFile {
	const { ark, ask, 'ask-4096': ask4096 } = amdBinaries();
	return vectorFile('amd-certificate-read', 'The fields of an ARK or ASK certificate, unjudged.', [
		good('ark-2048', 'A root of 2048 bits.', { certificate: ark }),
		good('ask-2048', 'A signing key of 2048 bits.', { certificate: ask }),
		good('ask-4096', 'A signing key of 4096 bits.', { certificate: ask4096 }),
		good('ask-2048-under-4096', 'A signing key of 2048 bits under a root of 4096 bits.', {
			certificate: amdCertificate({ ...signing, signer: RSA_4096 }),
		}),
	]);
}

const tampered =
	(name: string, certificate: Uint8Array) => (id: string, comment: string, at: number, field: string, input: object) =>
		bad(id, 'BAD_SIGNATURE', comment, {
			...input,
			[field]: changed(name, [[at, Uint8Array.of((certificate[at] ?? 0) ^ 1)]]),
		});

function arkCases(): VectorFile {
	const { ark, 'ark-4096': ark4096 } = amdBinaries();
	const body = ark.subarray(0, ark.length - 256);
	const bodySha256 = provider.digest('sha256', body);
	const bit = (id: string, comment: string, at: number): Draft => tampered('ark', ark)(id, comment, at, 'ark', {});
	const real = PRODUCTS.map((product) => {
		const pin = AMD_ROOTS[product];
		return published(
			BUILTIN,
			good(product, `The real root of ${product}.`, { ark: publicFile(`sev/roots/${product}-ark.cert`), ...pin }),
		);
	});
	return vectorFile(
		'ark-verify',
		'Whether a certificate is a self-signed root, and the expected one.',
		[
			good('2048', 'A root of 2048 bits: PSS with SHA-256.', { ark: blob('ark') }),
			good('4096', 'A root of 4096 bits: PSS with SHA-384.', { ark: ark4096 }),
			good('key-id', 'It has the expected key id.', { ark: blob('ark'), keyId: arkId }),
			good('body-hash', 'It has the expected hash.', { ark: blob('ark'), keyId: arkId, bodySha256 }),
			bad('other-key-id', INVALID, 'It is another root than expected.', { ark: blob('ark'), keyId: askId }),
			bad('other-body-hash', INVALID, 'It has the key id of the expected root, and another key.', {
				...{ ark: blob('ark'), keyId: arkId, bodySha256: repeated(1, 32) },
			}),
			bit('version-changed', 'VERSION is another: the signature is tested first.', 0x00),
			bit('key-id-changed', 'A bit of KEY_ID is another.', 0x04),
			bit('certifying-id-changed', 'A bit of CERTIFYING_ID is another.', 0x14),
			bit('usage-changed', 'KEY_USAGE is another.', 0x24),
			bit('reserved-changed', 'A reserved bit is another.', 0x28),
			bit('modulus-changed', 'A bit of the modulus is another.', 0x40 + 256 + 100),
			bit('signature-first-byte', 'The lowest byte of the signature is another.', ark.length - 256),
			bit('signature-last-byte', 'The highest byte of the signature is another.', ark.length - 1),
			bad('signature-zero', 'BAD_SIGNATURE', 'The signature is 0.', {
				ark: changed('ark', [[ark.length - 256, zeros(256)]]),
			}),
			bad('version-2', INVALID, 'VERSION is 2, and signed.', { ark: amdCertificate({ ...root, version: 2 }) }),
			bad('usage-ask', INVALID, 'A self-signed signing key.', { ark: amdCertificate({ ...root, usage: 0x13 }) }),
			bad('not-self-certified', INVALID, 'CERTIFYING_ID is not its own id.', {
				ark: amdCertificate({ ...root, certifyingId: askId }),
			}),
			...real,
			published(
				BUILTIN,
				bad('rome-for-milan', INVALID, 'The real root of another product.', {
					...{ ark: publicFile('sev/roots/rome-ark.cert'), ...AMD_ROOTS.milan },
				}),
			),
		],
		{ ark },
	);
}

function askCases(): VectorFile {
	const { ark, ask, 'ark-4096': ark4096, 'ask-4096': ask4096 } = amdBinaries();
	const input = { ask: blob('ask'), ark: blob('ark') };
	const bit = (id: string, comment: string, at: number): Draft =>
		tampered('ask', ask)(id, comment, at, 'ask', { ark: blob('ark') });
	const made = (change: object) => ({ ...input, ask: amdCertificate({ ...signing, ...change }) });
	const file = (name: string) => publicFile(`sev/roots/${name}.cert`);
	return vectorFile(
		'ask-verify',
		'Whether a root signed a certificate as its signing key.',
		[
			good('2048-by-2048', 'Both of 2048 bits.', input),
			good('4096-by-4096', 'Both of 4096 bits.', { ask: ask4096, ark: blob('ark-4096') }),
			good('4096-by-2048', 'The hash is that of the signing key: SHA-256.', made({ key: RSA_4096 })),
			good('2048-by-4096', 'The hash is that of the signing key: SHA-384.', {
				...{ ask: amdCertificate({ ...signing, signer: RSA_4096 }), ark: blob('ark-4096') },
			}),
			bit('version-changed', 'VERSION is another: the signature is tested first.', 0x00),
			bit('key-id-changed', 'A bit of KEY_ID is another.', 0x04),
			bit('usage-changed', 'KEY_USAGE is another.', 0x24),
			bit('modulus-changed', 'A bit of the modulus is another.', 0x40 + 256 + 100),
			bit('signature-first-byte', 'The lowest byte of the signature is another.', ask.length - 256),
			bit('signature-last-byte', 'The highest byte of the signature is another.', ask.length - 1),
			bad('self-signed', 'BAD_SIGNATURE', 'Signed by itself.', made({ signer: FAKE_ASK_KEY })),
			bad('other-ark', 'BAD_SIGNATURE', 'The root has the right id and another key.', {
				...{ ...input, ark: amdCertificate({ ...root, key: FAKE_ASK_KEY, signer: FAKE_ASK_KEY }) },
			}),
			bad('version-2', INVALID, 'VERSION is 2, and signed.', made({ version: 2 })),
			bad('usage-ark', INVALID, 'The root signs another root.', made({ usage: 0 })),
			bad('usage-cek', INVALID, 'The root signs a CEK.', made({ usage: 0x1004 })),
			bad('certifying-id', INVALID, 'CERTIFYING_ID is not that of the root.', made({ certifyingId: askId })),
			bad('signature-of-other-size', INVALID, 'A signature of 2048 bits under a root of 4096 bits.', {
				...input,
				ark: blob('ark-4096'),
			}),
			...PRODUCTS.map((product) =>
				published(
					BUILTIN,
					good(product, `The real signing key of ${product}.`, {
						ask: file(`${product}-ask`),
						ark: file(`${product}-ark`),
					}),
				),
			),
			published(
				BUILTIN,
				bad('rome-by-milan', 'BAD_SIGNATURE', 'A real signing key under the root of another product.', {
					...{ ask: file('rome-ask'), ark: file('milan-ark') },
				}),
			),
		],
		{ ask, ark, 'ark-4096': ark4096 },
	);
}

/** ARK and ASK certificates. */
export const amdFiles = (): readonly VectorFile[] => [readCases(), arkCases(), askCases()];
