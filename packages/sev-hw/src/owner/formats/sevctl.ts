/**
 * The files of `sevctl` (virtee/sevctl 8b47f3a, on virtee/sev). Read from its sources; none of its code is here.
 *
 * @packageDocumentation
 */
import type { CryptoProvider } from '@cvm/crypto';
import { splitAskArk } from '../../certificates/amd-certificate.js';
import { CertUsage, readSevCertificate, SEV_CERT_SIZE } from '../../certificates/sev-certificate.js';
import { measureBlob } from '../../channel/measurement.js';
import { type ChannelKeys, sessionBuffer } from '../../channel/session.js';
import { concat } from '../concat.js';
import { OwnerError } from '../error.js';
import { privateKeyFromDer, privateKeyToSec1 } from '../key-der.js';
import { checkOca, type Oca } from '../oca.js';
import { fromBase64, toBase64 } from './base64.js';
import { ascii, asciiText, type Files, fileOf, sized } from './files.js';

/** What a tool leaves of a session: its own keys, without what they were derived from. */
export interface StoredSession {
	/** 2084 bytes. */
	readonly dhCert: Uint8Array;
	/** 128 bytes. */
	readonly session: Uint8Array;
	/** SECRET. 16 bytes each. */
	readonly keys: Pick<ChannelKeys, 'tek' | 'tik'>;
}

/** Certificates of a platform, each in a file or all in one. */
export interface PlatformCertificates {
	readonly pdh: Uint8Array;
	readonly pek: Uint8Array;
	readonly oca: Uint8Array;
	/** As the manufacturer signed it. */
	readonly cek: Uint8Array;
}

/** The manufacturer's certificates. */
export interface CaCertificates {
	readonly ask: Uint8Array;
	readonly ark: Uint8Array;
}

/** Text files are read up to this length: base64 of the longest, a certificate, has 2780 characters. */
const TEXT_LIMIT = 16384;
const PLATFORM_SIZE = 4 * SEV_CERT_SIZE;

const sessionNames = (name: string) => ({
	dhCert: `${name}_godh.b64`,
	session: `${name}_session.b64`,
	tek: `${name}_tek.bin`,
	tik: `${name}_tik.bin`,
});

/** The files that `sevctl session --name NAME` writes: certificate and session in base64, keys as they are. SECRET. */
export function sessionFiles({ dhCert, session, keys }: StoredSession, name = 'vm'): Files {
	const names = sessionNames(name);
	return {
		[names.dhCert]: ascii(toBase64(dhCert)),
		[names.session]: ascii(toBase64(session)),
		[names.tek]: new Uint8Array(keys.tek),
		[names.tik]: new Uint8Array(keys.tik),
	};
}

/** Reads what {@link sessionFiles} or `sevctl session` wrote. @throws OwnerError `file` */
export function readSessionFiles(files: Files, name = 'vm'): StoredSession {
	const names = sessionNames(name);
	const text = (file: string, size: number) =>
		sized(fromBase64(asciiText(fileOf(files, file), file, TEXT_LIMIT), file), file, size);
	return {
		dhCert: text(names.dhCert, SEV_CERT_SIZE),
		session: text(names.session, sessionBuffer.size),
		keys: { tek: new Uint8Array(fileOf(files, names.tek, 16)), tik: new Uint8Array(fileOf(files, names.tik, 16)) },
	};
}

/**
 * The file of `sevctl export`: PDH ‖ PEK ‖ OCA ‖ CEK; with ASK and ARK that of `sevctl export --full`. Either begins with
 * the PDH, which is all that `sevctl session` reads of it.
 *
 * @throws OwnerError `file` for an ASK without an ARK, or the reverse
 */
export function encodeChain(chain: PlatformCertificates & Partial<CaCertificates>): Uint8Array {
	const { pdh, pek, oca, cek, ask, ark } = chain;
	if ((ask === undefined) !== (ark === undefined)) {
		throw new OwnerError('file', 'chain: expected both ASK and ARK or neither, got one');
	}
	return concat(pdh, pek, oca, cek, ...(ask && ark ? [ask, ark] : []));
}

/**
 * Reads a file of `sevctl export`, with or without `--full`. Roles are compared, as sevctl does; nothing is verified.
 *
 * @throws OwnerError `file`
 */
export function decodeChain(file: Uint8Array): PlatformCertificates & Partial<CaCertificates> {
	if (file.length < PLATFORM_SIZE) {
		throw new OwnerError('file', `chain: expected at least ${PLATFORM_SIZE} bytes, got ${file.length}`);
	}
	const at = (index: number, usage: number, name: string) => {
		const cert = new Uint8Array(file.subarray(index * SEV_CERT_SIZE, (index + 1) * SEV_CERT_SIZE));
		const found = readSevCertificate(cert).usage;
		if (found === usage) return cert;
		throw new OwnerError(
			'file',
			`chain, certificate ${index + 1}: expected ${name}, got usage 0x${found.toString(16)}`,
		);
	};
	return {
		pdh: at(0, CertUsage.PDH, 'PDH'),
		pek: at(1, CertUsage.PEK, 'PEK'),
		oca: at(2, CertUsage.OCA, 'OCA'),
		cek: at(3, CertUsage.CEK, 'CEK'),
		...(file.length > PLATFORM_SIZE && decodeCaChain(file.subarray(PLATFORM_SIZE))),
	};
}

/** The file that `sevctl verify --ca` takes: ASK ‖ ARK. */
export const encodeCaChain = ({ ask, ark }: CaCertificates): Uint8Array => concat(ask, ark);

/** Reads ASK ‖ ARK, also with a Naples ARK that lacks its signature. @throws OwnerError `file` */
export function decodeCaChain(file: Uint8Array): CaCertificates {
	const parts = splitAskArk(file);
	if (parts === undefined) throw new OwnerError('file', `ASK and ARK: expected 1408 to 3200 bytes, got ${file.length}`);
	return { ask: new Uint8Array(parts.ask), ark: new Uint8Array(parts.ark) };
}

/** The files of `sevctl generate CERT KEY`: the OCA certificate, and its key in SEC 1 DER. SECRET. */
export const encodeOca = (
	provider: CryptoProvider,
	{ cert, privateKey }: Oca,
): { cert: Uint8Array; key: Uint8Array } => ({
	cert: new Uint8Array(cert),
	key: privateKeyToSec1(provider, privateKey),
});

/** Reads both files of {@link encodeOca}. @throws OwnerError `key` if one is malformed or they do not fit */
export function decodeOca(provider: CryptoProvider, files: { cert: Uint8Array; key: Uint8Array }): Oca {
	const oca = { cert: new Uint8Array(files.cert), privateKey: privateKeyFromDer(provider, files.key) };
	checkOca(provider, oca);
	return oca;
}

/** The line that `sevctl measurement build` prints: MEASURE ‖ MNONCE (48 bytes) in base64, as QEMU answers it. */
export const measurementText = (blob: Uint8Array): string => toBase64(sized(blob, 'measurement', measureBlob.size));

/**
 * Reads MEASURE ‖ MNONCE from its 48 bytes (`sevctl measurement build --outfile`) or from base64 text.
 *
 * @throws OwnerError `file`
 */
export function readMeasurement(file: Uint8Array | string): Uint8Array {
	if (file instanceof Uint8Array && file.length === measureBlob.size) return new Uint8Array(file);
	const text = typeof file === 'string' ? file : asciiText(file, 'measurement', TEXT_LIMIT);
	return sized(fromBase64(text, 'measurement'), 'measurement', measureBlob.size);
}
