import type { CryptoProvider } from '@cvm/crypto';
import { toLittleEndian } from '../certificates/byte-order.js';
import {
	addSignature,
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	SEV_CERT_BODY_SIZE,
} from '../certificates/sev-certificate.js';
import { cekOfChip } from './chip.js';
import { FAKE_ASK_KEY } from './published-keys.js';
import { fakeArk, fakeAsk } from './roots.js';

/**
 * A CEK certificate signed by the fake ASK in its first empty slot. The salt is the hash of the signed bytes, so the
 * same certificate always gets the same signature.
 *
 * @throws RangeError if both signature slots are taken
 */
export function signCek(provider: CryptoProvider, cekCert: Uint8Array): Uint8Array {
	const signed = new Uint8Array(cekCert);
	const body = signed.subarray(0, SEV_CERT_BODY_SIZE);
	const signature = provider.rsaPss.sign(FAKE_ASK_KEY, body, 'sha256', provider.digest('sha256', body));
	const slot = { usage: CertUsage.ASK, algo: CertAlgo.RSA_SHA256, signature: toLittleEndian(signature, 512) };
	if (!addSignature(signed, slot)) {
		throw new RangeError('CEK certificate: expected an empty signature slot, got two taken ones');
	}
	return signed;
}

/** The manufacturer's service that gives out certificates for chips: what `kdsintf.amd.com` is for real ones. */
export interface KeyServer {
	/**
	 * The signed CEK certificate of the chip that answers GET_ID with `id` (64 bytes).
	 *
	 * @param o.version API version written into the certificate; real ones carry 0.14
	 * @throws RangeError if `id` is not 64 bytes
	 */
	cek(id: Uint8Array, o?: { readonly version?: { readonly major: number; readonly minor: number } }): Uint8Array;
	/** ASK ‖ ARK, 1664 bytes. */
	askArk(): Uint8Array;
}

/** A key server for chips of {@link chipIdentity}. It knows every chip, as the ids hide nothing. */
export function createKeyServer(provider: CryptoProvider): KeyServer {
	return {
		cek(id, { version = { major: 0, minor: 14 } } = {}) {
			if (id.length !== 64) throw new RangeError(`chip id: expected 64 bytes, got ${id.length}`);
			const key = provider.p384.publicKey(cekOfChip(provider, id));
			const cert = buildSevCertificate({ version, usage: CertUsage.CEK, algo: CertAlgo.ECDSA_SHA256, key });
			return signCek(provider, cert);
		},
		askArk() {
			const out = new Uint8Array(fakeAsk.length + fakeArk.length);
			out.set(fakeAsk);
			out.set(fakeArk, fakeAsk.length);
			return out;
		},
	};
}
