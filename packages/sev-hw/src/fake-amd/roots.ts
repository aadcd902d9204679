import type { RsaPublicKey } from '@cvm/crypto';
import { amdCertificateHeader } from '../certificates/amd-certificate.js';
import { toLittleEndian } from '../certificates/byte-order.js';
import { CertUsage } from '../certificates/sev-certificate.js';
import { FAKE_ARK_KEY, FAKE_ARK_SIGNATURE, FAKE_ASK_KEY, FAKE_ASK_SIGNATURE } from './published-keys.js';

const BITS = 2048;
const BYTES = BITS / 8;

const ascii = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** Key id of the fake root, readable in a hex dump: `CVM-FAKE-ARK-001`. */
export const FAKE_ARK_KEY_ID = ascii('CVM-FAKE-ARK-001');
/** Key id of the fake signing key, readable in a hex dump: `CVM-FAKE-ASK-001`. */
export const FAKE_ASK_KEY_ID = ascii('CVM-FAKE-ASK-001');

function certificate(keyId: Uint8Array, usage: number, key: RsaPublicKey, signature: Uint8Array): Uint8Array {
	const at = amdCertificateHeader.size;
	const out = new Uint8Array(at + 3 * BYTES);
	amdCertificateHeader.encodeInto(out, {
		version: 1,
		keyId,
		certifyingId: FAKE_ARK_KEY_ID,
		usage,
		exponentBits: BITS,
		modulusBits: BITS,
	});
	out.set(toLittleEndian(key.exponent, BYTES), at);
	out.set(toLittleEndian(key.modulus, BYTES), at + BYTES);
	out.set(toLittleEndian(signature, BYTES), at + 2 * BYTES);
	return out;
}

/** The fake root certificate, 832 bytes, in the form of a Naples ARK. Its private key is public: it proves nothing. */
export const fakeArk = certificate(FAKE_ARK_KEY_ID, CertUsage.ARK, FAKE_ARK_KEY, FAKE_ARK_SIGNATURE);
/** The fake signing certificate, 832 bytes, in the form of a Naples ASK. Its private key is public: it proves nothing. */
export const fakeAsk = certificate(FAKE_ASK_KEY_ID, CertUsage.ASK, FAKE_ASK_KEY, FAKE_ASK_SIGNATURE);
