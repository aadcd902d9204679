import {
	CertUsage,
	type ChainLink,
	readAmdCertificate,
	readSevCertificate,
	SEV_CERT_SIZE,
	splitAskArk,
} from '@cvm/sev-hw/owner';
import { Failure, Misuse } from '../exit.js';
import { readInput } from './read.js';

/** A certificate with the file that held it. */
export interface FoundCertificate {
	readonly path: string;
	readonly name: ChainLink;
	readonly cert: Uint8Array;
}

/** A certificate of each kind that a platform and its manufacturer show. */
export type Certificates = Readonly<Record<ChainLink, Uint8Array>>;

const SEV_NAMES: ReadonlyMap<number, ChainLink> = new Map([
	[CertUsage.PDH, 'pdh'],
	[CertUsage.PEK, 'pek'],
	[CertUsage.OCA, 'oca'],
	[CertUsage.CEK, 'cek'],
]);

/**
 * All certificates in a file, one behind the other: a single one, what PDH_CERT_EXPORT and `sevctl export` write, ASK ‖ ARK.
 * The bytes may be in base64, as QMP and libvirt give them.
 */
export function readCertificates(path: string): FoundCertificate[] {
	const data = fromText(readInput('certificate', path));
	const found: FoundCertificate[] = [];
	let rest = data;
	for (let name = sevName(rest); name !== undefined; name = sevName(rest)) {
		found.push({ path, name, cert: rest.slice(0, SEV_CERT_SIZE) });
		rest = rest.subarray(SEV_CERT_SIZE);
	}
	if (rest.length === 0 && found.length > 0) return found;
	const pair = splitAskArk(rest);
	for (const cert of pair ? [pair.ask, pair.ark] : [rest]) {
		const usage = readAmdCertificate(cert)?.usage;
		if (usage !== CertUsage.ASK && usage !== CertUsage.ARK) {
			throw new Failure(
				`'${path}', offset ${data.length - rest.length}: expected a SEV certificate, ASK or ARK, got ${rest.length} bytes of something else`,
			);
		}
		found.push({ path, name: usage === CertUsage.ASK ? 'ask' : 'ark', cert: cert.slice() });
	}
	return found;
}

function sevName(data: Uint8Array): ChainLink | undefined {
	return data.length < SEV_CERT_SIZE
		? undefined
		: SEV_NAMES.get(readSevCertificate(data.subarray(0, SEV_CERT_SIZE)).usage);
}

/** No certificate is text: they begin with the bytes 1, 0, 0, 0. */
function fromText(data: Uint8Array): Uint8Array {
	const text = Buffer.from(data).toString('latin1').trim();
	return /^[A-Za-z0-9+/\s]+=*$/.test(text) ? new Uint8Array(Buffer.from(text, 'base64')) : data;
}

/** Picks one certificate of each kind that was found, of those in `wanted`. @throws Misuse if one is missing, Failure */
export function pickCertificates<N extends ChainLink>(
	found: readonly FoundCertificate[],
	wanted: readonly N[],
): Readonly<Record<N, Uint8Array>> {
	const picked = wanted.map((name) => [name, pick(found.filter((f) => f.name === name))?.cert] as const);
	const missing = picked.filter(([, cert]) => cert === undefined).map(([name]) => name.toUpperCase());
	if (missing.length > 0) {
		const all = wanted.map((name) => name.toUpperCase()).join(', ');
		throw new Misuse(`certificates: expected ${all}, got no ${missing.join(', no ')}`);
	}
	return Object.fromEntries(picked) as Record<N, Uint8Array>;
}

/** Of several with the same key the one with most signatures: a chip exports its CEK unsigned, AMD's server signs it. */
function pick(found: readonly FoundCertificate[]): FoundCertificate | undefined {
	return found.reduce<FoundCertificate | undefined>((best, next) => {
		if (best === undefined) return next;
		if (!isSameKey(best, next)) {
			const name = next.name.toUpperCase();
			throw new Failure(`certificates: expected one ${name}, got two keys, in '${best.path}' and '${next.path}'`);
		}
		return signatures(next) > signatures(best) ? next : best;
	}, undefined);
}

function signatures({ name, cert }: FoundCertificate): number {
	if (name === 'ask' || name === 'ark') return Math.sign(readAmdCertificate(cert)?.signature.length ?? 0);
	return readSevCertificate(cert).slots.filter(({ usage }) => usage !== CertUsage.INVALID).length;
}

function isSameKey(a: FoundCertificate, b: FoundCertificate): boolean {
	const [one, other] = [a, b].map(({ name, cert }) => {
		if (name === 'ask' || name === 'ark') return readAmdCertificate(cert)?.key.modulus;
		const key = readSevCertificate(cert).publicKey;
		return key && Buffer.concat([key.x, key.y]);
	});
	return one !== undefined && other !== undefined && Buffer.compare(one, other) === 0;
}
