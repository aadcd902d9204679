import { toHex } from '@cvm/layout';
import {
	algoName,
	type ChainLink,
	describeCertificate,
	readAmdCertificate,
	readSevCertificate,
	usageName,
} from '@cvm/sev-hw/owner';
import { Command } from 'commander';
import { Failure } from '../exit.js';
import { type FoundCertificate, readCertificates } from './certificates.js';
import { print } from './print.js';
import { pinOf, type TrustOptions, verifyChain, withTrust } from './trust.js';

const FILES = 'certificates, in any order: single ones, exported chains, ASK ‖ ARK; also in base64';

/** `cvm owner chain`. */
export function chainCommand(): Command {
	return new Command('chain')
		.description('look at the certificates of a platform and its manufacturer')
		.addHelpText('after', '\nexample:\n  cvm owner chain verify --root milan export.cert cek.cert ask_ark.cert\n')
		.addCommand(verifyCommand())
		.addCommand(showCommand());
}

function verifyCommand(): Command {
	return withTrust(new Command('verify'))
		.description('verify PDH, PEK, OCA, CEK, ASK and ARK up to a root that you name')
		.argument('<file...>', FILES)
		.option('--json', 'print one JSON document')
		.addHelpText(
			'after',
			'\nexample:\n  cvm owner chain verify --root fake pdh.cert cert_chain.cert cek.cert ask_ark.cert\n',
		)
		.action((files: string[], options: TrustOptions & { json?: boolean }) => {
			const { document, lines, failure } = verifyChain(files.flatMap(readCertificates), options);
			print(options.json, document, lines);
			if (failure !== undefined) throw new Failure(failure);
		});
}

function showCommand(): Command {
	return new Command('show')
		.description('print what certificates say, without verifying anything')
		.argument('<file...>', FILES)
		.option('--json', 'print one JSON document')
		.addHelpText('after', '\nexample:\n  cvm owner chain show ask_ark.cert\n')
		.action((files: string[], options: { json?: boolean }) => {
			const found = files.flatMap(readCertificates);
			print(options.json, { certificates: found.map(documentOf) }, found.map(textOf));
		});
}

const isAmd = (name: ChainLink): boolean => name === 'ask' || name === 'ark';

function textOf({ path, name, cert }: FoundCertificate): string {
	const fingerprint = name === 'ark' ? [`fingerprint: ${toHex(pinOf(cert).bodySha256)}`] : [];
	const lines = [...describeCertificate(cert).split('\n'), ...fingerprint];
	return `${name.toUpperCase()} in '${path}'\n${lines.map((line) => `  ${line}\n`).join('')}`;
}

function documentOf({ path, name, cert }: FoundCertificate): object {
	const amd = isAmd(name) ? readAmdCertificate(cert) : undefined;
	if (amd !== undefined) {
		return {
			...{ file: path, certificate: name, version: amd.version },
			...{ 'key-id': toHex(amd.keyId), 'certifying-id': toHex(amd.certifyingId) },
			...{ algorithm: 'RSA', bits: 8 * amd.key.modulus.length, signed: amd.signature.length > 0 },
			...(name === 'ark' && { fingerprint: toHex(pinOf(cert).bodySha256) }),
		};
	}
	const { version, apiMajor, apiMinor, algo, publicKey, slots } = readSevCertificate(cert);
	return {
		...{ file: path, certificate: name, version, api: `${apiMajor}.${apiMinor}`, algorithm: algoName(algo) },
		...(publicKey && { x: toHex(publicKey.x), y: toHex(publicKey.y) }),
		signatures: slots
			.filter((slot) => slot.algo !== 0)
			.map((slot) => ({ by: usageName(slot.usage), algorithm: algoName(slot.algo) })),
	};
}
