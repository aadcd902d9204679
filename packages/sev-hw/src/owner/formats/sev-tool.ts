/**
 * The files of `sevtool` (AMDESE/sev-tool 147a4f1). Read from its sources; none of its code is here.
 *
 * @packageDocumentation
 */
import { fromHex, toHex } from '@cvm/layout';
import { SEV_CERT_SIZE } from '../../certificates/sev-certificate.js';
import type { MeasurementInput } from '../../channel/measurement.js';
import { sessionBuffer } from '../../channel/session.js';
import { concat } from '../concat.js';
import { OwnerError } from '../error.js';
import { ascii, asciiText, type Files, fileOf, sized } from './files.js';
import type { CaCertificates, PlatformCertificates, StoredSession } from './sevctl.js';

const CHAIN_SIZE = 3 * SEV_CERT_SIZE;
const ID_SIZE = 64;
const MEASURE_SIZE = 32;
/** First byte under the MAC of a measurement. */
const MEASURE_CONTEXT = 4;

/**
 * The files of `--generate_launch_blob`: session, certificate, and TEK ‖ TIK. SECRET. (The tool itself makes sessions for
 * the low 8 bits of a policy only.)
 */
export const launchFiles = ({ dhCert, session, keys }: StoredSession): Files => ({
	'launch_blob.bin': new Uint8Array(session),
	'godh.cert': new Uint8Array(dhCert),
	'tmp_tk.bin': concat(keys.tek, keys.tik),
});

/** Reads what {@link launchFiles} or the tool wrote. @throws OwnerError `file` */
export function readLaunchFiles(files: Files): StoredSession {
	const tk = fileOf(files, 'tmp_tk.bin', 32);
	return {
		dhCert: new Uint8Array(fileOf(files, 'godh.cert', SEV_CERT_SIZE)),
		session: new Uint8Array(fileOf(files, 'launch_blob.bin', sessionBuffer.size)),
		keys: { tek: new Uint8Array(tk.subarray(0, 16)), tik: new Uint8Array(tk.subarray(16)) },
	};
}

/** The files of `--export_cert_chain` and `--validate_cert_chain`, one certificate each. The tool zips them as well. */
export const certificateFiles = (chain: PlatformCertificates & CaCertificates): Files => ({
	'pdh.cert': new Uint8Array(chain.pdh),
	'pek.cert': new Uint8Array(chain.pek),
	'oca.cert': new Uint8Array(chain.oca),
	'cek.cert': new Uint8Array(chain.cek),
	'ask.cert': new Uint8Array(chain.ask),
	'ark.cert': new Uint8Array(chain.ark),
});

/** Reads what {@link certificateFiles} or the tool wrote. Nothing is verified. @throws OwnerError `file` */
export function readCertificateFiles(files: Files): PlatformCertificates & CaCertificates {
	const sev = (name: string) => new Uint8Array(fileOf(files, name, SEV_CERT_SIZE));
	return {
		pdh: sev('pdh.cert'),
		pek: sev('pek.cert'),
		oca: sev('oca.cert'),
		cek: sev('cek.cert'),
		ask: new Uint8Array(fileOf(files, 'ask.cert')),
		ark: new Uint8Array(fileOf(files, 'ark.cert')),
	};
}

/** The files of `--pdh_cert_export`; `chain` is PEK ‖ OCA ‖ CEK with the CEK unsigned (6252 bytes). */
export const exportFiles = ({ pdh, chain }: { readonly pdh: Uint8Array; readonly chain: Uint8Array }): Files => ({
	'pdh.cert': new Uint8Array(pdh),
	'cert_chain.cert': new Uint8Array(chain),
});

/** Reads what {@link exportFiles} or the tool wrote. @throws OwnerError `file` */
export const readExportFiles = (files: Files): { pdh: Uint8Array; chain: Uint8Array } => ({
	pdh: new Uint8Array(fileOf(files, 'pdh.cert', SEV_CERT_SIZE)),
	chain: new Uint8Array(fileOf(files, 'cert_chain.cert', CHAIN_SIZE)),
});

/** The file of `--pek_csr`, which `--sign_pek_csr` reads under any name. */
export const csrFiles = (csr: Uint8Array): Files => ({
	'pek_csr.cert': new Uint8Array(sized(csr, 'PEK CSR', SEV_CERT_SIZE)),
});

/** The files of `--sign_pek_csr`, which `--pek_cert_import` reads: the signed request and the owner's certificate. */
export const signedCsrFiles = (o: { readonly signed: Uint8Array; readonly oca: Uint8Array }): Files => ({
	'pek_csr.signed.cert': new Uint8Array(o.signed),
	'oca.cert': new Uint8Array(o.oca),
});

/** Reads what {@link signedCsrFiles} or the tool wrote. @throws OwnerError `file` */
export const readSignedCsrFiles = (files: Files): { signed: Uint8Array; oca: Uint8Array } => ({
	signed: new Uint8Array(fileOf(files, 'pek_csr.signed.cert', SEV_CERT_SIZE)),
	oca: new Uint8Array(fileOf(files, 'oca.cert', SEV_CERT_SIZE)),
});

/** The files of `--get_id`: hex text without a line break. One socket's id is 64 bytes; the other file then says zeros. */
export function idFiles(ids: Uint8Array): Files {
	const both = new Uint8Array(2 * ID_SIZE);
	if (ids.length !== 2 * ID_SIZE) sized(ids, 'chip id', ID_SIZE);
	both.set(ids);
	return {
		'getid_s0_out.txt': ascii(toHex(both.subarray(0, ID_SIZE))),
		'getid_s1_out.txt': ascii(toHex(both.subarray(ID_SIZE))),
	};
}

/** The id of the first socket (64 bytes), from what {@link idFiles} or the tool wrote. @throws OwnerError `file` */
export const readIdFile = (files: Files): Uint8Array => {
	const name = 'getid_s0_out.txt';
	return hexBytes(asciiText(fileOf(files, name), name, 4 * ID_SIZE).trim(), name, ID_SIZE);
};

/** The files of `--package_secret`. The tool packages `secret.txt` as it is: no table, no padding. */
export const secretFiles = ({
	header,
	payload,
}: {
	readonly header: Uint8Array;
	readonly payload: Uint8Array;
}): Files => ({
	'packaged_secret_header.bin': new Uint8Array(header),
	'packaged_secret.bin': new Uint8Array(payload),
});

/** Reads what {@link secretFiles} or the tool wrote. @throws OwnerError `file` */
export const readSecretFiles = (files: Files): { header: Uint8Array; payload: Uint8Array } => ({
	header: new Uint8Array(fileOf(files, 'packaged_secret_header.bin', 52)),
	payload: new Uint8Array(fileOf(files, 'packaged_secret.bin')),
});

/** The files of `--calc_measurement`: MEASURE (32 bytes) as it is and as hex text. */
export const measurementFiles = (measure: Uint8Array): Files => ({
	'calc_measurement_out.bin': new Uint8Array(sized(measure, 'measurement', MEASURE_SIZE)),
	'calc_measurement_out.txt': ascii(toHex(measure)),
});

/** MEASURE (32 bytes) from what {@link measurementFiles} or the tool wrote. @throws OwnerError `file` */
export const readMeasurementFile = (files: Files): Uint8Array =>
	new Uint8Array(fileOf(files, 'calc_measurement_out.bin', MEASURE_SIZE));

/**
 * The eight arguments of `--calc_measurement`, all hex: context, API major, API minor, build, policy, digest, nonce, TIK.
 * The last is SECRET.
 */
export function measurementArguments({ tik, version, policy, digest, mnonce }: MeasurementInput): string[] {
	const { major, minor, build } = version;
	const byte = (value: number) => value.toString(16).padStart(2, '0');
	const bytes = [digest, mnonce, tik].map(toHex);
	return [byte(MEASURE_CONTEXT), byte(major), byte(minor), byte(build), policy.toString(16), ...bytes];
}

/** Reads such arguments back; numbers may begin with `0x`. @throws OwnerError `file` */
export function parseMeasurementArguments(args: readonly string[]): MeasurementInput {
	const [context, major, minor, build, policy, digest, mnonce, tik, ...rest] = args;
	if (tik === undefined || rest.length > 0) {
		throw new OwnerError('file', `calc_measurement: expected 8 arguments, got ${args.length}`);
	}
	if (hexNumber(context, 'context', 0xff) !== MEASURE_CONTEXT) {
		throw new OwnerError('file', `calc_measurement, context: expected 04, got ${context}`);
	}
	return {
		version: {
			major: hexNumber(major, 'API major', 0xff),
			minor: hexNumber(minor, 'API minor', 0xff),
			build: hexNumber(build, 'build', 0xff),
		},
		policy: hexNumber(policy, 'policy', 0xffffffff),
		digest: hexBytes(digest ?? '', 'calc_measurement, digest', MEASURE_SIZE),
		mnonce: hexBytes(mnonce ?? '', 'calc_measurement, nonce', 16),
		tik: hexBytes(tik, 'calc_measurement, TIK', 16),
	};
}

function hexNumber(text: string | undefined, what: string, max: number): number {
	const value = /^(0x)?[0-9a-f]{1,8}$/i.test(text ?? '') ? Number.parseInt(text ?? '', 16) : max + 1;
	if (value > max) {
		throw new OwnerError('file', `calc_measurement, ${what}: expected hex up to ${max.toString(16)}, got ${text}`);
	}
	return value;
}

function hexBytes(text: string, what: string, size: number): Uint8Array {
	// The text is not repeated in the message: it may be a key.
	if (text.length !== 2 * size || !/^[0-9a-f]*$/i.test(text)) {
		throw new OwnerError('file', `${what}: expected ${2 * size} hex digits, got ${text.length} characters`);
	}
	return fromHex(text);
}
