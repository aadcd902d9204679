import type { CryptoProvider, RandomSource } from '@cvm/crypto';
import { buildSevCertificate, CertAlgo, CertUsage, signSevCertificate } from '../src/certificates/sev-certificate.js';
import { chipIdentity, createKeyServer, fakeArk, fakeAsk } from '../src/fake-amd/index.js';

const version = { major: 0, minor: 24 };

/** A valid P-384 private key that a reader can recognise. */
export const scalar = (byte: number): Uint8Array => new Uint8Array(48).fill(byte);

/** The certificates and keys of a self-owned platform under the fake root, made without a PSP. */
export function fakePlatform(provider: CryptoProvider, chipSeed = 'test chip') {
	const { id, cekPrivateKey } = chipIdentity(provider, chipSeed);
	const keys = { oca: scalar(0x11), pek: scalar(0x12), pdh: scalar(0x13), cek: cekPrivateKey };
	const cert = (usage: number, algo: number, privateKey: Uint8Array) =>
		buildSevCertificate({ version, usage, algo, key: provider.p384.publicKey(privateKey) });
	const ecdsa = CertAlgo.ECDSA_SHA256;
	const signers = {
		oca: { usage: CertUsage.OCA, algo: ecdsa, privateKey: keys.oca },
		cek: { usage: CertUsage.CEK, algo: ecdsa, privateKey: keys.cek },
		pek: { usage: CertUsage.PEK, algo: ecdsa, privateKey: keys.pek },
	};
	const oca = cert(CertUsage.OCA, ecdsa, keys.oca);
	signSevCertificate(provider, oca, signers.oca);
	const pek = cert(CertUsage.PEK, ecdsa, keys.pek);
	signSevCertificate(provider, pek, signers.oca);
	signSevCertificate(provider, pek, signers.cek);
	const pdh = cert(CertUsage.PDH, CertAlgo.ECDH_SHA256, keys.pdh);
	signSevCertificate(provider, pdh, signers.pek);
	const unsignedCek = cert(CertUsage.CEK, ecdsa, keys.cek);
	const cek = createKeyServer(provider).cek(id, { version });
	return { id, keys, signers, oca, pek, pdh, cek, unsignedCek, ask: fakeAsk, ark: fakeArk };
}

/** Concatenation. */
export function join(...parts: readonly Uint8Array[]): Uint8Array {
	return Uint8Array.from(parts.flatMap((part) => Array.from(part)));
}

/** A copy with one bit changed. */
export function flipBit(data: Uint8Array, bit: number): Uint8Array {
	const out = data.slice();
	out[bit >> 3] = (out[bit >> 3] ?? 0) ^ (1 << (bit & 7));
	return out;
}

/** A source whose i-th draw counts up from `starts[i]`, so that vectors with fixed inputs can be reproduced. */
export function countingRandom(...starts: readonly number[]): RandomSource {
	return fixedRandom(...starts.map((start) => Uint8Array.from({ length: 16 }, (_, i) => start + i)));
}

/** A source that gives these draws, and fails on any other. */
export function fixedRandom(...draws: readonly Uint8Array[]): RandomSource {
	const left = [...draws];
	const bytes = (length: number) => {
		const draw = left.shift();
		if (draw?.length !== length) throw new Error(`draw: expected ${draw?.length ?? 'no'} bytes, got ${length}`);
		return draw.slice();
	};
	return { bytes, fill: (out) => out.set(bytes(out.length)) };
}
