import { toHex } from '@cvm/layout';
import { Status } from '../../src/abi/status.js';
import { asKey, readAmdCertificate, verifyArk, verifyAsk } from '../../src/certificates/amd-certificate.js';
import { fromLittleEndian } from '../../src/certificates/byte-order.js';
import { type ChainVerdict, verifyOwnerChain, verifyPlatformChain } from '../../src/certificates/chain.js';
import {
	buildSevCertificate,
	certKeyOf,
	checkDhCertificate,
	readSevCertificate,
	type SignatureSlot,
	signSevCertificate,
	verifySevCertificate,
} from '../../src/certificates/sev-certificate.js';
import type { JsonObject } from './format.js';
import { type Operation, type Outcome, success, verdict } from './outcome.js';

const ECDSA: readonly number[] = [0x002, 0x102];

function slotOf({ usage, algo, signature }: SignatureSlot): JsonObject {
	if (!ECDSA.includes(algo)) return { usage, algo };
	const integer = (at: number) => toHex(fromLittleEndian(signature.subarray(at, at + 72), 72) ?? signature).slice(48);
	return { usage, algo, r: integer(0), s: integer(72) };
}

const chainVerdict = ({ status, failed }: ChainVerdict): Outcome => ({
	...verdict(status),
	...(failed !== undefined && { failed }),
});

/** Reading, making and checking certificates. */
export const certificateOperations: Readonly<Record<string, Operation>> = {
	'certificate-read': (_, input) => {
		const { slots, publicKey, ...fields } = readSevCertificate(input.bytes('certificate'));
		const key = publicKey && { x: toHex(publicKey.x), y: toHex(publicKey.y) };
		return { status: 'SUCCESS', ...fields, ...key, slots: slots.map(slotOf) };
	},

	'certificate-sign': (provider, input) => {
		const certificate = buildSevCertificate({
			version: { major: input.number('apiMajor'), minor: input.number('apiMinor') },
			usage: input.number('usage'),
			algo: input.number('algo'),
			key: provider.p384.publicKey(input.bytes('privateKey')),
		});
		for (const signer of input.list('signers')) {
			const privateKey = signer.bytes('privateKey');
			signSevCertificate(provider, certificate, {
				usage: signer.number('usage'),
				algo: signer.number('algo'),
				privateKey,
			});
		}
		return success({ certificate });
	},

	'certificate-verify': (provider, input) => {
		const signer = input.bytes('signer');
		const key = input.text('signerFormat') === 'amd' ? asKey(signer) : certKeyOf(signer);
		return verdict(verifySevCertificate(provider, input.bytes('certificate'), key));
	},

	'dh-certificate': (provider, input) => verdict(checkDhCertificate(provider, input.bytes('certificate'))),

	'amd-certificate-read': (_, input) => {
		const certificate = readAmdCertificate(input.bytes('certificate'));
		if (certificate === undefined) return verdict(Status.INVALID_CERTIFICATE);
		const { version, usage, key, keyId, certifyingId, signature } = certificate;
		const parts = { keyId, certifyingId, exponent: key.exponent, modulus: key.modulus, signature };
		return { ...success(parts), version, usage };
	},

	'ark-verify': (provider, input) =>
		verdict(
			verifyArk(provider, input.bytes('ark'), {
				...(input.has('keyId') && { keyId: input.bytes('keyId') }),
				...(input.has('bodySha256') && { bodySha256: input.bytes('bodySha256') }),
			}),
		),

	'ask-verify': (provider, input) => verdict(verifyAsk(provider, input.bytes('ask'), input.bytes('ark'))),

	'platform-chain': (provider, input) =>
		chainVerdict(
			verifyPlatformChain(provider, {
				ark: input.bytes('ark'),
				ask: input.bytes('ask'),
				cek: input.bytes('cek'),
				pek: input.bytes('pek'),
				pdh: input.bytes('pdh'),
			}),
		),

	'owner-chain': (provider, input) =>
		chainVerdict(
			verifyOwnerChain(provider, { oca: input.bytes('oca'), pek: input.bytes('pek'), pdh: input.bytes('pdh') }),
		),
};
