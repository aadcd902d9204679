import { gcm } from '@noble/ciphers/aes.js';
import { hmac } from '@noble/hashes/hmac.js';
import { sha256, sha384 } from '@noble/hashes/sha2.js';
import { BLOCK, finishedHash, requireGcmInto, requireGcmKeyAndIv } from '../argument-checks.js';
import type { CryptoProvider, HashName } from '../provider.js';
import { rsaPssSigner, rsaPssVerifier } from '../rsa-pss.js';
import { wipe } from '../secrets.js';
import { nobleBlockCipher } from './block-cipher.js';
import { nobleP384 } from './p384.js';

const hashes = { sha256, sha384 } as const;

function digest(name: HashName, ...parts: readonly Uint8Array[]): Uint8Array {
	const state = hashes[name].create();
	for (const part of parts) state.update(part);
	return state.digest();
}

/** Everything in JavaScript, on every platform: noble, and RSA-PSS by RFC 8017 in BigInt, since noble has no RSA. */
export const nobleProvider: CryptoProvider = {
	name: 'noble',
	blockCipher: nobleBlockCipher,
	hash(name) {
		const state = hashes[name].create();
		let finished = false;
		return {
			update(data) {
				if (finished) throw finishedHash();
				state.update(data);
			},
			digest() {
				if (finished) throw finishedHash();
				finished = true;
				return state.digest();
			},
		};
	},
	digest,
	hmacSha256(key, ...parts) {
		const state = hmac.create(sha256, key);
		for (const part of parts) state.update(part);
		return state.digest();
	},
	gcmSeal(key, iv, aad, plaintext) {
		requireGcmKeyAndIv(key, iv);
		return gcm(key, iv, aad).encrypt(plaintext);
	},
	gcmOpen(key, iv, aad, sealed) {
		requireGcmKeyAndIv(key, iv);
		if (sealed.length < BLOCK) return undefined;
		try {
			return gcm(key, iv, aad).decrypt(sealed);
		} catch {
			// The arguments were checked above, so only the tag is left to be wrong.
			return undefined;
		}
	},
	gcmSealInto(key, iv, aad, plaintext, out, tag) {
		requireGcmInto(key, iv, plaintext, tag, out);
		const sealed = gcm(key, iv, aad).encrypt(plaintext);
		out.set(sealed.subarray(0, plaintext.length));
		tag.set(sealed.subarray(plaintext.length));
	},
	gcmOpenInto(key, iv, aad, ciphertext, tag, out) {
		requireGcmInto(key, iv, ciphertext, tag, out);
		const sealed = new Uint8Array(ciphertext.length + BLOCK);
		sealed.set(ciphertext);
		sealed.set(tag, ciphertext.length);
		try {
			const plaintext = gcm(key, iv, aad).decrypt(sealed);
			out.set(plaintext);
			wipe(plaintext);
			return true;
		} catch {
			wipe(out);
			return false;
		}
	},
	p384: nobleP384,
	rsaPss: { sign: rsaPssSigner(digest), verify: rsaPssVerifier(digest) },
};
