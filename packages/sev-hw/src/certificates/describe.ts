import { toHex } from '@cvm/layout';
import { type AmdCertificate, readAmdCertificate } from './amd-certificate.js';
import { CertAlgo, CertUsage, readSevCertificate, SEV_CERT_SIZE, type SignatureSlot } from './sev-certificate.js';

const nameIn = (table: Readonly<Record<string, number>>, value: number): string =>
	Object.keys(table).find((name) => table[name] === value) ?? `unknown (0x${value.toString(16)})`;

/** The name of a key's role, such as `PEK`. A number without a name is given in hex. */
export const usageName = (usage: number): string => nameIn(CertUsage, usage);
/** The name of an algorithm, such as `ECDSA_SHA256`. A number without a name is given in hex. */
export const algoName = (algo: number): string => nameIn(CertAlgo, algo);

/**
 * What a certificate says, as several lines of text without a line break at the end. For people: the wording may change.
 * Nothing is verified.
 *
 * @param cert a SEV certificate (2084 bytes), or an ARK or ASK
 * @throws RangeError if it has the form of neither
 */
export function describeCertificate(cert: Uint8Array): string {
	if (cert.length === SEV_CERT_SIZE) return describeSev(cert).join('\n');
	const amd = readAmdCertificate(cert);
	if (amd === undefined) {
		throw new RangeError(`certificate: expected 2084 bytes, or an ARK or ASK, got ${cert.length} bytes`);
	}
	return describeAmd(amd).join('\n');
}

function describeSev(cert: Uint8Array): string[] {
	const { version, apiMajor, apiMinor, usage, algo, publicKey, slots } = readSevCertificate(cert);
	const key = publicKey ? [`x: ${toHex(publicKey.x)}`, `y: ${toHex(publicKey.y)}`] : [];
	return [
		`usage: ${usageName(usage)}`,
		`version: ${version}, API ${apiMajor}.${apiMinor}`,
		`key: ${algoName(algo)}, ${publicKey ? 'P-384' : 'not on P-384'}`,
		...key,
		...slots.map((slot, i) => `signature ${i + 1}: ${describeSlot(slot)}`),
	];
}

function describeSlot({ usage, algo }: SignatureSlot): string {
	const isEmpty = usage === CertUsage.INVALID && algo === CertAlgo.INVALID;
	return isEmpty ? 'empty' : `by ${usageName(usage)}, ${algoName(algo)}`;
}

function describeAmd({ version, usage, key, keyId, certifyingId, signature }: AmdCertificate): string[] {
	const [id, signer] = [toHex(keyId), toHex(certifyingId)];
	return [
		`usage: ${usageName(usage)}`,
		`version: ${version}`,
		`key: RSA, ${8 * key.modulus.length} bits, exponent 0x${toHex(key.exponent)}`,
		`key id: ${id}`,
		`signature: ${signature.length === 0 ? 'missing' : `by ${signer}${signer === id ? ' (itself)' : ''}`}`,
	];
}
