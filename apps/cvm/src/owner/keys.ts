import { nodeProvider } from '@cvm/crypto/node';
import { privateKeyFromDer, privateKeyToPkcs8 } from '@cvm/sev-hw/owner';
import { Failure } from '../exit.js';
import { judged, readInput } from './read.js';

const PEM = /-----BEGIN ((?:EC )?PRIVATE KEY)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----/;

/** A P-384 private key (48 bytes) from a file: DER as sevctl writes it, or PEM as sev-tool takes it. @throws Misuse, Failure */
export function readPrivateKey(option: string, path: string): Uint8Array {
	const data = readInput(option, path);
	const text = Buffer.from(data).toString('latin1');
	const body = PEM.exec(text)?.[2];
	if (body === undefined && text.includes('-----BEGIN')) {
		throw new Failure(`${option}: '${path}': expected an unencrypted EC private key in PEM, got another block`);
	}
	const der = body === undefined ? data : new Uint8Array(Buffer.from(body, 'base64'));
	return judged(`${option}: '${path}'`, () => privateKeyFromDer(nodeProvider, der));
}

/** A private key in PEM (PKCS #8), as OpenSSL writes it. */
export function privateKeyToPem(privateKey: Uint8Array): string {
	const lines =
		Buffer.from(privateKeyToPkcs8(nodeProvider, privateKey))
			.toString('base64')
			.match(/.{1,64}/g) ?? [];
	return ['-----BEGIN PRIVATE KEY-----', ...lines, '-----END PRIVATE KEY-----', ''].join('\n');
}
