import { type CryptoProvider, kdf, type RandomSource, wipe } from '@cvm/crypto';
import { bytes, layout } from '@cvm/layout';
import { SEV_CERT_SIZE } from '../certificates/sev-certificate.js';
import type { StoredIdentity } from './identity.js';

/** The SPI flash: where the firmware keeps its keys between INITs. A host may read and replace what is in it. */
export interface NvStorage {
	/** What was saved last; `undefined` or nothing when nothing was. */
	load(): Uint8Array | undefined;
	save(data: Uint8Array): void;
}

/** Reads and writes the platform's keys, encrypted and authenticated under a key that only this chip has. */
export interface IdentityStore {
	/** `empty`: nothing there. `invalid`: changed, cut, or from another chip. */
	load(): StoredIdentity | 'empty' | 'invalid';
	save(identity: StoredIdentity): void;
}

const KEY = 48;
const IV = 12;
/** `CVMSEVN1`: bound to the sealed data, so that a later format is not taken for this one. */
const MAGIC = Uint8Array.from('CVMSEVN1', (c) => c.charCodeAt(0));

const stored = layout('cvm_sev_nv', 3 * (KEY + SEV_CERT_SIZE), {
	ocaKey: bytes(0, KEY),
	ocaCert: bytes(KEY, SEV_CERT_SIZE),
	pekKey: bytes(KEY + SEV_CERT_SIZE, KEY),
	pekCert: bytes(2 * KEY + SEV_CERT_SIZE, SEV_CERT_SIZE),
	pdhKey: bytes(2 * (KEY + SEV_CERT_SIZE), KEY),
	pdhCert: bytes(3 * KEY + 2 * SEV_CERT_SIZE, SEV_CERT_SIZE),
});

/** Opens the storage of one chip. `chipSeed` stands for the secret fused into it. */
export function openIdentityStore(
	provider: CryptoProvider,
	random: RandomSource,
	chipSeed: string,
	nv: NvStorage,
): IdentityStore {
	const seed = Uint8Array.from({ length: 2 * chipSeed.length }, (_, i) => chipSeed.charCodeAt(i >> 1) >> (8 * (i & 1)));
	const key = kdf(provider, seed, 'cvm-sev-nv-seal', new Uint8Array(0), 256);
	return {
		load: () => {
			const data = nv.load();
			if (data === undefined || data.length === 0) return 'empty';
			const at = MAGIC.length;
			if (data.length < at + IV + 16 || MAGIC.some((b, i) => b !== data[i])) return 'invalid';
			const plain = provider.gcmOpen(key, data.slice(at, at + IV), MAGIC, data.slice(at + IV));
			if (plain?.length !== stored.size) return 'invalid';
			const s = stored.decode(plain);
			wipe(plain);
			return {
				oca: { privateKey: s.ocaKey, certificate: s.ocaCert },
				pek: { privateKey: s.pekKey, certificate: s.pekCert },
				pdh: { privateKey: s.pdhKey, certificate: s.pdhCert },
			};
		},
		save: ({ oca, pek, pdh }) => {
			const plain = stored.encode({
				ocaKey: oca.privateKey,
				ocaCert: oca.certificate,
				pekKey: pek.privateKey,
				pekCert: pek.certificate,
				pdhKey: pdh.privateKey,
				pdhCert: pdh.certificate,
			});
			const iv = random.bytes(IV);
			const sealed = provider.gcmSeal(key, iv, MAGIC, plain);
			wipe(plain);
			const out = new Uint8Array(MAGIC.length + IV + sealed.length);
			out.set(MAGIC);
			out.set(iv, MAGIC.length);
			out.set(sealed, MAGIC.length + IV);
			nv.save(out);
		},
	};
}
