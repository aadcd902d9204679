import { type CryptoProvider, kdf, type RandomSource, wipe } from '@cvm/crypto';
import { bytes, layout, u8 } from '@cvm/layout';
import { NV_SIZE } from '../abi/buffers.js';
import { SEV_CERT_SIZE } from '../certificates/sev-certificate.js';
import type { CertifiedKey, StoredIdentity } from './identity.js';

/** The SPI flash: where the firmware keeps its keys between INITs. A host may read and replace what is in it. */
export interface NvStorage {
	/** What was saved last; `undefined` or nothing when nothing was. If it throws, INIT answers HWERROR_PLATFORM. */
	load(): Uint8Array | undefined;
	/**
	 * Replaces all that was saved; no bytes at all when PLATFORM_RESET erases it. If it throws, the command answers
	 * HWERROR_PLATFORM and the platform keeps the keys it had.
	 */
	save(data: Uint8Array): void;
}

/** Reads and writes the platform's keys, encrypted and authenticated under a key that only this chip has. */
export interface IdentityStore {
	/** `empty`: nothing there. `invalid`: changed, cut, or from another chip. `unreadable`: the storage does not answer. */
	load(): StoredIdentity | 'empty' | 'invalid' | 'unreadable';
	/** False if the storage did not take it. */
	save(identity: StoredIdentity): boolean;
	/** False if the storage could not be erased. */
	erase(): boolean;
	/** A store of the same chip in another place. */
	in(nv: NvStorage): IdentityStore;
}

const KEY = 48;
const IV = 12;
const TAG = 16;
const PAIR = KEY + SEV_CERT_SIZE;
const FRONT = 16;
/** Authenticated with the sealed data, so that one format is never taken for another. */
const magic = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** Three pairs of private key (zeros if absent) and certificate. `owner` 1: external. `parts`: bits of the pairs that are there. */
const stored = layout('cvm_sev_nv', FRONT + 3 * PAIR, {
	owner: u8(0),
	parts: u8(1),
	ocaKey: bytes(FRONT, KEY),
	ocaCert: bytes(FRONT + KEY, SEV_CERT_SIZE),
	pekKey: bytes(FRONT + PAIR, KEY),
	pekCert: bytes(FRONT + PAIR + KEY, SEV_CERT_SIZE),
	pdhKey: bytes(FRONT + 2 * PAIR, KEY),
	pdhCert: bytes(FRONT + 2 * PAIR + KEY, SEV_CERT_SIZE),
});
const EXTERNAL = 1;
const PART = { oca: 1, pek: 2, pdh: 4 } as const;

/** What is written. */
const CURRENT = magic('CVMSEVN2');
/** What was written before platforms had other owners: the three pairs of a self-owned one, without a front. */
const FIRST = magic('CVMSEVN1');

/** Opens the storage of one chip. `chipSeed` stands for the secret fused into it. */
export function openIdentityStore(
	provider: CryptoProvider,
	random: RandomSource,
	chipSeed: string,
	nv: NvStorage,
): IdentityStore {
	const seed = Uint8Array.from({ length: 2 * chipSeed.length }, (_, i) => chipSeed.charCodeAt(i >> 1) >> (8 * (i & 1)));
	const key = kdf(provider, seed, 'cvm-sev-nv-seal', new Uint8Array(0), 256);

	/** The plaintext behind a magic; what lies after it is unused storage. */
	const unseal = (data: Uint8Array, aad: Uint8Array, size: number): Uint8Array | undefined => {
		const at = aad.length;
		if (data.length < at + IV + size + TAG || aad.some((b, i) => b !== data[i])) return undefined;
		return provider.gcmOpen(key, data.slice(at, at + IV), aad, data.slice(at + IV, at + IV + size + TAG));
	};
	const open = (data: Uint8Array): StoredIdentity | 'invalid' => {
		const plain = unseal(data, CURRENT, stored.size) ?? modernised(unseal(data, FIRST, 3 * PAIR));
		if (plain === undefined) return 'invalid';
		const identity = decode(plain);
		wipe(plain);
		return identity;
	};
	const seal = (identity: StoredIdentity): Uint8Array => {
		const plain = encode(identity);
		const iv = random.bytes(IV);
		const sealed = provider.gcmSeal(key, iv, CURRENT, plain);
		wipe(plain);
		const out = new Uint8Array(CURRENT.length + IV + sealed.length);
		out.set(CURRENT);
		out.set(iv, CURRENT.length);
		out.set(sealed, CURRENT.length + IV);
		return out;
	};

	const openIn = (place: NvStorage): IdentityStore => ({
		load: () => {
			let data: Uint8Array | undefined;
			try {
				data = place.load();
			} catch {
				return 'unreadable';
			}
			return data === undefined || isErased(data) ? 'empty' : open(data);
		},
		save: (identity) => isWritten(place, seal(identity)),
		erase: () => isWritten(place, new Uint8Array(0)),
		in: openIn,
	});
	return openIn(nv);
}

/** Storage in the system's memory, as INIT_EX takes it: {@link NV_SIZE} bytes, 0xFF where nothing is stored. */
export function storageInMemory(dram: Uint8Array, spa: number): NvStorage {
	return {
		load: () => dram.slice(spa, spa + NV_SIZE),
		save: (data) => {
			dram.fill(0xff, spa + data.length, spa + NV_SIZE);
			dram.set(data, spa);
		},
	};
}

/** Nothing, or what erased flash reads as: SEV API 0.24 INIT_EX looks at the first four bytes. */
const isErased = (data: Uint8Array): boolean => data.subarray(0, 4).every((b) => b === 0xff);

function isWritten(place: NvStorage, data: Uint8Array): boolean {
	try {
		place.save(data);
		return true;
	} catch {
		return false;
	}
}

function encode({ owner, oca, pek, pdh }: StoredIdentity): Uint8Array {
	return stored.encode({
		owner: owner === 'external' ? EXTERNAL : 0,
		parts: (oca ? PART.oca : 0) | (pek ? PART.pek : 0) | (pdh ? PART.pdh : 0),
		...(oca && { ocaCert: oca.certificate }),
		...(oca?.privateKey && { ocaKey: oca.privateKey }),
		...(pek && { pekKey: pek.privateKey, pekCert: pek.certificate }),
		...(pdh && { pdhKey: pdh.privateKey, pdhCert: pdh.certificate }),
	});
}

/** `invalid` for another's platform without its OCA or PEK: nobody here could make them, and no command stores that. */
function decode(plain: Uint8Array): StoredIdentity | 'invalid' {
	const s = stored.decode(plain);
	const pair = (part: number, privateKey: Uint8Array, certificate: Uint8Array): CertifiedKey | undefined =>
		(s.parts & part) !== 0 ? { privateKey, certificate } : undefined;
	const oca = pair(PART.oca, s.ocaKey, s.ocaCert);
	const pek = pair(PART.pek, s.pekKey, s.pekCert);
	const pdh = pair(PART.pdh, s.pdhKey, s.pdhCert);
	if (s.owner !== EXTERNAL) return { owner: 'self', ...(oca && { oca }), ...(pek && { pek }), ...(pdh && { pdh }) };
	if (oca === undefined || pek === undefined) return 'invalid';
	return { owner: 'external', oca: { certificate: oca.certificate }, pek, ...(pdh && { pdh }) };
}

/** The plaintext of the first format in the form of the current one. */
function modernised(first: Uint8Array | undefined): Uint8Array | undefined {
	if (first === undefined) return undefined;
	const plain = stored.encode({ parts: PART.oca | PART.pek | PART.pdh });
	plain.set(first, FRONT);
	wipe(first);
	return plain;
}
