import type { CryptoProvider } from '@cvm/crypto';

/** A provider that keeps key and IV, in hex, of every GCM seal. */
export function sealsOf(provider: CryptoProvider): { readonly provider: CryptoProvider; readonly seals: string[] } {
	const seals: string[] = [];
	const note = (key: Uint8Array, iv: Uint8Array): void =>
		void seals.push(`${Buffer.from(key).toString('hex')}/${Buffer.from(iv).toString('hex')}`);
	return {
		seals,
		provider: {
			...provider,
			gcmSeal(key, iv, aad, plaintext) {
				note(key, iv);
				return provider.gcmSeal(key, iv, aad, plaintext);
			},
			gcmSealInto(key, iv, aad, plaintext, out, tag) {
				note(key, iv);
				provider.gcmSealInto(key, iv, aad, plaintext, out, tag);
			},
		},
	};
}
