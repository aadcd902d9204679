import { fromHex } from '@cvm/layout';
import {
	ascii,
	bad,
	blob,
	changed,
	counting,
	type Draft,
	drawn,
	fixed,
	good,
	privateKey,
	provider,
	published,
	repeated,
	vectorFile,
	zeros,
} from './builders.js';
import { dhCertificate, ecCertificate } from './certificates.js';
import type { VectorFile } from './format.js';

const VIRTEE = 'virtee/sev, test suite';
const ZERO_MASTER_SECRET = 'ab4d269fcc62bedb4511d56c386ce706';

function kdfCases(): VectorFile {
	const key = drawn('kdf key', 48);
	const context = drawn('kdf context');
	const master = { label: 'sev-master-secret', bits: 128 };
	const named = (label: string) => ({ key: ZERO_MASTER_SECRET, label, context: '', bits: 128 });
	return vectorFile('kdf', 'Key derivation: NIST SP 800-108 in counter mode with HMAC-SHA-256.', [
		published(
			VIRTEE,
			good(
				'master-secret-of-zeros',
				'The master secret of a zero key (16 bytes) and a zero nonce.',
				{
					...{ key: zeros(16), label: 'sev-master-secret', context: zeros(16), bits: 128 },
				},
				{ output: ZERO_MASTER_SECRET },
			),
		),
		fixed(
			good('kek-of-zeros', 'The key-encryption key of that master secret.', named('sev-kek'), {
				output: 'b6abfbfb75ea1ea74ed8750b8afdb973',
			}),
		),
		fixed(
			good('kik-of-zeros', 'The key-integrity key of that master secret.', named('sev-kik'), {
				output: '53b524bf5669a363f365c864acba8572',
			}),
		),
		fixed(
			good(
				'master-secret-of-session',
				'The shared secret and nonce of session-create fixed-inputs.',
				{
					key: '49ca5424673f106fc1968da5deb509bb51af15f9a4ffda8f0a41dd2528a086e7a9f0f24b9b2ac7f90577c5363ce9a445',
					...{ ...master, context: counting(0x10) },
				},
				{ output: 'ada6b461333e2cbeea201cc05036ebbd' },
			),
		),
		good('key-of-48-bytes', 'A shared secret is 48 bytes long.', { key, ...master, context }),
		good('no-context', 'An empty context leaves label and separator as they are.', {
			key,
			label: 'sev-kek',
			context: '',
			bits: 128,
		}),
		good('context-is-not-label', 'The separator keeps label and context apart.', {
			...{ key, label: 'sev-k', context: ascii('ek'), bits: 128 },
		}),
		good('one-block', 'A whole block of HMAC-SHA-256.', { key, label: 'test', context, bits: 256 }),
		good('part-of-two-blocks', 'A second block, cut: its counter is 2, little-endian.', {
			key,
			label: 'test',
			context,
			bits: 264,
		}),
		good('56-bytes', 'The length from which firmware reduces an endorsement key.', {
			...{ key: drawn('kdf seed', 32), label: 'sev-chip-endorsement-key', context: '', bits: 448 },
		}),
		good('length-is-an-input', 'Another length gives another first block.', { key, label: 'test', context, bits: 128 }),
		good('long-key', 'A key longer than a block of SHA-256 is hashed first, as in every HMAC.', {
			...{ key: drawn('kdf long key', 80), label: 'test', context, bits: 128 },
		}),
	]);
}

function keyWrapCases(): VectorFile {
	const secrets = { tek: drawn('wrap tek'), tik: drawn('wrap tik') };
	return vectorFile('key-wrap', 'Wrapping TEK and TIK under a master secret: what fills a session buffer.', [
		published(
			VIRTEE,
			good(
				'zeros',
				'TEK, TIK and IV are zeros.',
				{
					...{ masterSecret: ZERO_MASTER_SECRET, tek: zeros(16), tik: zeros(16), wrapIv: zeros(16) },
				},
				{
					wrapTk: '2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4',
					wrapMac: '3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d',
				},
			),
		),
		fixed(
			good(
				'fixed-inputs',
				'The master secret of session-create fixed-inputs.',
				{
					masterSecret: 'ada6b461333e2cbeea201cc05036ebbd',
					...{ tek: counting(0x20), tik: counting(0x30), wrapIv: counting(0x40) },
				},
				{ kek: '15ca880010ecffc8cfd646f9339ec8e4', kik: '792623b4d9654e52a2abeeb8e377d4e1' },
			),
		),
		good('random', 'Arbitrary inputs.', { masterSecret: drawn('wrap master'), ...secrets, wrapIv: drawn('wrap iv') }),
		good('counter-carry', 'The counter carries over all 16 bytes between TEK and TIK.', {
			...{ masterSecret: drawn('wrap master'), ...secrets, wrapIv: repeated(0xff, 16) },
		}),
	]);
}

function policyMacCases(): VectorFile {
	const mac = (id: string, comment: string, policy: number, tik = drawn('policy tik')) =>
		good(id, comment, { tik, policy });
	return vectorFile('policy-mac', 'POLICY_MAC of a session buffer: binds the guest policy to the TIK.', [
		published(
			VIRTEE,
			good(
				'zeros',
				'A zero TIK and policy 0.',
				{ tik: zeros(16), policy: 0 },
				{
					mac: 'aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af',
				},
			),
		),
		mac('flags', 'NODBG, ES and SEV.', 0x25),
		mac('with-version', 'The least API version stands in the upper half.', 0x18000001),
		mac('all-ones', 'The policy is unsigned.', 0xffffffff),
	]);
}

const NONCE = counting(0x10);
const FIXED_SESSION =
	'101112131415161718191a1b1c1d1e1f89008427d59af48a57cc0c14e54281b0303c8c19cc11856cb93e277484accd50' +
	'404142434445464748494a4b4c4d4e4f08458271796a934bafbe4e5971fa3fd9fe094dacd83364439887e6fe79cb7838' +
	'ecb7132d6bb36a4613d63075acc3bdae4626bb854b83d82f0ea4461b07e8ce30';
/** The keys of the session whose every input is fixed: scalars of one repeated byte. */
const [CLIENT, SERVER] = [repeated(0x01, 48), repeated(0x02, 48)];

/** How a Diffie-Hellman certificate can fail its check, as patches of a good one. */
export const DH_DEFECTS: readonly (readonly [id: string, comment: string, at: number, bytes: Uint8Array])[] = [
	['version-2', 'VERSION is 2.', 0x000, Uint8Array.of(2)],
	['version-0', 'VERSION is 0.', 0x000, Uint8Array.of(0)],
	['usage-pek', 'PUBKEY_USAGE is that of a PEK.', 0x008, Uint8Array.of(2)],
	['usage-oca', 'PUBKEY_USAGE is that of an OCA.', 0x008, Uint8Array.of(1)],
	['usage-invalid', 'PUBKEY_USAGE is INVALID.', 0x008, Uint8Array.of(0)],
	['algo-ecdsa', 'PUBKEY_ALGO is ECDSA with SHA-256.', 0x00c, Uint8Array.of(2)],
	['algo-sha384', 'PUBKEY_ALGO is ECDH with SHA-384.', 0x00c, Uint8Array.of(3, 1)],
	['algo-invalid', 'PUBKEY_ALGO is 0.', 0x00c, Uint8Array.of(0)],
	['curve-p256', 'The curve is P-256.', 0x010, Uint8Array.of(1)],
	['curve-0', 'The curve is 0.', 0x010, Uint8Array.of(0)],
	['point-at-zero', 'Both coordinates are 0: no point of the curve.', 0x014, zeros(144)],
	['x-changed', 'The lowest byte of QX is another: off the curve.', 0x014, Uint8Array.of(0xa5)],
	['y-changed', 'The lowest byte of QY is another: off the curve.', 0x05c, Uint8Array.of(0xa5)],
	['x-too-long', 'QX has a non-zero byte above 48.', 0x014 + 48, Uint8Array.of(1)],
];

function sessionCreateCases(): VectorFile {
	const wrapped = { tek: counting(0x20), tik: counting(0x30), nonce: NONCE, wrapIv: counting(0x40), policy: 0x25 };
	const random = {
		tek: drawn('tek'),
		tik: drawn('tik'),
		nonce: drawn('nonce'),
		wrapIv: drawn('iv'),
		policy: 0x18000005,
	};
	const mine = { clientPrivateKey: privateKey('client') };
	return vectorFile(
		'session-create',
		"The client's half of a session (a guest owner, or the source in SEND_START).",
		[
			fixed(
				good(
					'fixed-inputs',
					'Private keys of 01 and 02 repeated; nonce, TEK, TIK, IV count up.',
					{
						...{ clientPrivateKey: CLIENT, serverCertificate: blob('server-fixed'), ...wrapped },
					},
					{
						sharedSecret:
							'49ca5424673f106fc1968da5deb509bb51af15f9a4ffda8f0a41dd2528a086e7a9f0f24b9b2ac7f90577c5363ce9a445',
						masterSecret: 'ada6b461333e2cbeea201cc05036ebbd',
						session: FIXED_SESSION,
					},
				),
			),
			good('random', 'Keys from the seed.', { ...mine, serverCertificate: blob('server'), ...random }),
			good('own-key', 'Both sides hold the same key pair, as when a platform sends to itself.', {
				...{ clientPrivateKey: privateKey('server'), serverCertificate: blob('server'), ...random },
			}),
			good('unsigned-peer', 'No signature of the peer is looked at.', {
				...{ ...mine, serverCertificate: changed('server', [[0x41c, repeated(0xff, 144)]]), ...random },
			}),
			...DH_DEFECTS.map(([id, comment, at, bytes]) =>
				bad(`server-${id}`, 'INVALID_CERTIFICATE', `The server's certificate: ${comment}`, {
					...{ ...mine, serverCertificate: changed('server', [[at, bytes]]), ...random },
				}),
			),
			bad('server-cut', 'INVALID_LENGTH', "The server's certificate is a byte short.", {
				...{ ...mine, serverCertificate: changed('server', [], 2083), ...random },
			}),
		],
		{ 'server-fixed': ecCertificate({ usage: 0x1003, algo: 3, privateKey: SERVER }), server: dhCertificate('server') },
	);
}

function sessionOpenCases(): VectorFile {
	const session = fromHex(FIXED_SESSION);
	const base = { serverPrivateKey: SERVER, clientCertificate: blob('client'), session: blob('session'), policy: 0x25 };
	const open = { ...base, platform: { major: 0, minor: 24 } };
	const withSession = (at: number, bytes: Uint8Array) => ({ ...open, session: changed('session', [[at, bytes]]) });
	const flipped = (id: string, what: string, at: number): Draft =>
		bad(id, 'BAD_MEASUREMENT', `A bit of ${what} is another.`, withSession(at, Uint8Array.of((session[at] ?? 0) ^ 1)));
	const asPolicy = (policy: number, major: number, minor: number) => {
		const { mac } = policySession(policy);
		return { ...open, session: changed('session', [[0x60, mac]]), policy, platform: { major, minor } };
	};
	return vectorFile(
		'session-open',
		"The server's half of a session: LAUNCH_START and RECEIVE_START.",
		[
			fixed(
				good('fixed-inputs', 'The session of session-create fixed-inputs.', open, {
					...{ masterSecret: 'ada6b461333e2cbeea201cc05036ebbd', tek: counting(0x20), tik: counting(0x30) },
				}),
			),
			flipped('nonce-first-byte', 'the nonce', 0x00),
			flipped('nonce-last-byte', 'the nonce', 0x0f),
			flipped('wrapped-tek', 'the wrapped TEK', 0x10),
			flipped('wrapped-tik', 'the wrapped TIK', 0x2f),
			flipped('wrap-mac-first-byte', 'WRAP_MAC', 0x40),
			flipped('wrap-mac-last-byte', 'WRAP_MAC', 0x5f),
			flipped('policy-mac-first-byte', 'POLICY_MAC', 0x60),
			flipped('policy-mac-last-byte', 'POLICY_MAC', 0x7f),
			bad(
				'wrap-iv',
				'BAD_MEASUREMENT',
				'WRAP_IV is not under WRAP_MAC, but another TIK fails POLICY_MAC.',
				withSession(0x30, Uint8Array.of(0x41)),
			),
			bad('session-of-zeros', 'BAD_MEASUREMENT', 'Nothing but zeros.', { ...open, session: zeros(128) }),
			bad('session-cut', 'INVALID_LENGTH', 'A byte short.', { ...open, session: changed('session', [], 127) }),
			bad('session-too-long', 'INVALID_LENGTH', 'A byte too long.', { ...open, session: changed('session', [], 129) }),
			bad('session-empty', 'INVALID_LENGTH', 'No session at all.', { ...open, session: '' }),
			bad('other-server', 'BAD_MEASUREMENT', 'Made for another platform.', {
				...open,
				serverPrivateKey: privateKey('server'),
			}),
			bad('other-client', 'BAD_MEASUREMENT', "Another client's certificate.", {
				...open,
				clientCertificate: dhCertificate('client'),
			}),
			bad('other-policy', 'BAD_MEASUREMENT', 'The host asks for another policy than the client.', {
				...open,
				policy: 0x24,
			}),
			...DH_DEFECTS.map(([id, comment, at, bytes]) =>
				bad(`client-${id}`, 'INVALID_CERTIFICATE', `The client's certificate: ${comment}`, {
					...{ ...open, clientCertificate: changed('client', [[at, bytes]]) },
				}),
			),
			bad(
				'certificate-before-session',
				'INVALID_CERTIFICATE',
				'Certificate and WRAP_MAC are bad: the certificate comes first.',
				{
					...open,
					clientCertificate: changed('client', [[0, Uint8Array.of(2)]]),
					session: changed('session', [[0x40, zeros(32)]]),
				},
			),
			bad('client-cut', 'INVALID_LENGTH', "The client's certificate is a byte short.", {
				...{ ...open, clientCertificate: changed('client', [], 2083) },
			}),
			good('unsigned-client', 'No signature of the client is looked at.', {
				...{ ...open, clientCertificate: changed('client', [[0x414, zeros(8)]]) },
			}),
			good('policy-version-equal', 'The policy asks for API 0.24.', asPolicy(0x18000025, 0, 24)),
			good('policy-version-newer-major', 'A newer major version satisfies any minor one.', asPolicy(0x18000025, 1, 0)),
			bad('policy-version-minor', 'POLICY_FAILURE', 'The policy asks for API 0.25.', asPolicy(0x19000025, 0, 24)),
			bad('policy-version-major', 'POLICY_FAILURE', 'The policy asks for API 1.0.', asPolicy(0x00010025, 0, 24)),
			bad('policy-reserved-bit-6', 'POLICY_FAILURE', 'The lowest reserved bit is set.', asPolicy(0x65, 0, 24)),
			bad('policy-reserved-bit-15', 'POLICY_FAILURE', 'The highest reserved bit is set.', asPolicy(0x8025, 0, 24)),
			bad(
				'policy-mac-before-version',
				'BAD_MEASUREMENT',
				'POLICY_MAC is for another policy, and the version is too new: the MAC comes first.',
				{
					...{ ...open, policy: 0x19000025 },
				},
			),
		],
		{ client: ecCertificate({ usage: 0x1003, algo: 3, privateKey: CLIENT }), session },
	);
}

/** POLICY_MAC of another policy under the TIK of the fixed session. */
function policySession(policy: number) {
	const le = Uint8Array.of(policy, policy >>> 8, policy >>> 16, policy >>> 24);
	return { mac: provider.hmacSha256(counting(0x30), le) };
}

/** Key derivation, wrapping and sessions. */
export const channelFiles = (): readonly VectorFile[] => [
	kdfCases(),
	keyWrapCases(),
	policyMacCases(),
	sessionCreateCases(),
	sessionOpenCases(),
];
