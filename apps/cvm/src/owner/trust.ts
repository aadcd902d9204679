import { nodeProvider } from '@cvm/crypto/node';
import { fromHex, toHex } from '@cvm/layout';
import { fakeArk } from '@cvm/sev-hw/fake-amd';
import {
	AMD_ROOTS,
	type ArkPin,
	type ChainLink,
	checkLinks,
	type LinkVerdict,
	readAmdCertificate,
	Status,
	statusName,
} from '@cvm/sev-hw/owner';
import type { Command } from 'commander';
import { oneOf } from '../demo/options.js';
import { Failure, Misuse } from '../exit.js';
import { type Certificates, type FoundCertificate, pickCertificates } from './certificates.js';
import { tick } from './print.js';

/** Which root a person believes. */
export interface TrustOptions {
	readonly root?: string;
	readonly arkFingerprint?: string;
}

const PRODUCTS = Object.keys(AMD_ROOTS) as (keyof typeof AMD_ROOTS)[];
const ROOTS = [...PRODUCTS, 'fake'] as const;
const ALL: readonly ChainLink[] = ['pdh', 'pek', 'oca', 'cek', 'ask', 'ark'];

/** Adds the options of {@link TrustOptions}. */
export const withTrust = (command: Command): Command =>
	command
		.option('--root <name>', `the root to believe: ${PRODUCTS.join(', ')} for AMD’s, fake for this model’s`)
		.option('--ark-fingerprint <hex>', 'the same by SHA-256 of the signed bytes of its ARK (see `chain show`)');

/** What identifies an ARK: its key id, and SHA-256 of its signed bytes. @throws Failure if it is none */
export function pinOf(ark: Uint8Array): Required<ArkPin> {
	const read = readAmdCertificate(ark);
	if (read === undefined) throw new Failure(`ARK: expected an AMD root certificate, got ${ark.length} bytes`);
	return { keyId: read.keyId, bodySha256: nodeProvider.digest('sha256', read.body) };
}

/** @throws Misuse: nothing is verified without a root that the person named */
function trustedRoot({ root, arkFingerprint }: TrustOptions, ark: Uint8Array): Required<ArkPin> {
	if (root !== undefined && arkFingerprint !== undefined) {
		throw new Misuse('--root: expected one root, got --ark-fingerprint too');
	}
	if (arkFingerprint !== undefined) {
		if (!/^[0-9a-f]{64}$/i.test(arkFingerprint)) {
			throw new Misuse(`--ark-fingerprint: expected 64 hex digits, got '${arkFingerprint}'`);
		}
		// The fingerprint covers the key id.
		return { ...pinOf(ark), bodySha256: fromHex(arkFingerprint) };
	}
	if (root === undefined) {
		throw new Misuse(`--root: expected one of ${ROOTS.join(', ')}, or --ark-fingerprint, got no root to believe`);
	}
	const name = oneOf('--root', root, ROOTS);
	return name === 'fake' ? pinOf(fakeArk) : AMD_ROOTS[name];
}

/** What verification found. */
export interface ChainReport {
	readonly certificates: Certificates;
	readonly document: object;
	readonly lines: readonly string[];
	/** Names the first link that fails, in one line. */
	readonly failure: string | undefined;
}

/** Verifies a platform's certificates up to the root that the person named. @throws Misuse if any is missing */
export function verifyChain(found: readonly FoundCertificate[], options: TrustOptions): ChainReport {
	const certificates = pickCertificates(found, ALL);
	const links = checkLinks(nodeProvider, certificates, trustedRoot(options, certificates.ark));
	const broken = links.find(({ status }) => status !== Status.SUCCESS);
	const verified = broken === undefined;
	return {
		certificates,
		document: {
			verified,
			root: options.root ?? 'by fingerprint',
			'ark-fingerprint': toHex(pinOf(certificates.ark).bodySha256),
			links: links.map((link) => ({ ...link, status: statusName(link.status), ok: link.status === Status.SUCCESS })),
		},
		lines: [
			...links.map((link) => tick(link.status === Status.SUCCESS, linkText(link, options), detailOf(link.status))),
			verdictText(verified, options),
		],
		failure: broken && `certificate chain: ${linkText(broken, options)}: ${statusName(broken.status)}`,
	};
}

function verdictText(verified: boolean, { root }: TrustOptions): string {
	if (!verified) return 'NOT verified';
	return root === 'fake' ? 'verified, as a platform of this model: nothing is said about a real machine' : 'verified';
}

const detailOf = (status: number): string => (status === Status.SUCCESS ? '' : statusName(status));

function linkText({ signer, certificate }: LinkVerdict, { root }: TrustOptions): string {
	const [by, what] = [signer.toUpperCase(), certificate.toUpperCase()];
	if (signer === 'ark' && certificate === 'ark') {
		return `ARK signs itself and is ${root === undefined ? 'the root of that fingerprint' : `the root '${root}'`}`;
	}
	return by === what ? `${by} signs itself` : `${by} signs ${what}`;
}

/**
 * Certificates of a platform that a person believes: verified, or, if asked for, as they are.
 *
 * @throws Misuse, Failure if verification fails
 */
export function believed<N extends ChainLink>(
	found: readonly FoundCertificate[],
	wanted: readonly N[],
	options: TrustOptions & { readonly unverified?: boolean },
): Readonly<Record<N, Uint8Array>> {
	if (options.unverified) {
		if (options.root !== undefined || options.arkFingerprint !== undefined) {
			throw new Misuse('--unverified: expected no root, got one');
		}
		return pickCertificates(found, wanted);
	}
	const { certificates, failure } = verifyChain(found, options);
	if (failure !== undefined) throw new Failure(failure);
	return certificates;
}
