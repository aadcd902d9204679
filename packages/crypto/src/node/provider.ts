import {
	constants,
	createCipheriv,
	createDecipheriv,
	createHash,
	createPublicKey,
	type Hash,
	verify,
} from 'node:crypto';
import { BLOCK, finishedHash, requireGcmInto, requireGcmKeyAndIv } from '../argument-checks.js';
import type { CryptoProvider, HashName, RsaPss } from '../provider.js';
import { rsaNumbers, rsaPssSigner } from '../rsa-pss.js';
import { wipe } from '../secrets.js';
import { nodeBlockCipher, settleHeap } from './block-cipher.js';
import { nodeHmacSha256 } from './hmac.js';
import { nodeP384 } from './p384.js';

/** One call's share of a long GCM message. */
const CHUNK = 131072;

/** The bytes of a Buffer that no one else holds, as a plain array. */
const plain = (own: Buffer): Uint8Array => new Uint8Array(own.buffer, own.byteOffset, own.length);

const finish = (state: Hash): Uint8Array => plain(state.digest());

function digest(name: HashName, ...parts: readonly Uint8Array[]): Uint8Array {
	const state = createHash(name);
	for (const part of parts) state.update(part);
	return finish(state);
}

function feed(cipher: { update(data: Uint8Array): Uint8Array }, src: Uint8Array, out: Uint8Array): void {
	for (let at = 0; at < src.length; at += CHUNK) out.set(cipher.update(src.subarray(at, at + CHUNK)), at);
}

const gcmName = (key: Uint8Array) => (key.length === 16 ? 'aes-128-gcm' : 'aes-256-gcm');

const verifyPss: RsaPss['verify'] = (key, message, signature, hash) => {
	// The limits are those of the BigInt code, so that both providers accept the same keys.
	const numbers = rsaNumbers(key);
	if (numbers === undefined || signature.length !== numbers.modulusBytes) return false;
	const jwk = {
		kty: 'RSA',
		n: Buffer.from(key.modulus).toString('base64url'),
		e: Buffer.from(key.exponent).toString('base64url'),
	};
	const publicKey = createPublicKey({ key: jwk, format: 'jwk' });
	const padding = constants.RSA_PKCS1_PSS_PADDING;
	return verify(hash, message, { key: publicKey, padding, saltLength: constants.RSA_PSS_SALTLEN_AUTO }, signature);
};

/**
 * OpenSSL through `node:crypto`: the choice for memory-sized data. ECDSA and RSA-PSS signing stay in BigInt, because the
 * contract asks for reproducible signatures.
 */
export const nodeProvider: CryptoProvider = {
	name: 'node',
	blockCipher: nodeBlockCipher,
	hash(name) {
		const state = createHash(name);
		let finished = false;
		return {
			update(data) {
				if (finished) throw finishedHash();
				state.update(data);
			},
			digest() {
				if (finished) throw finishedHash();
				finished = true;
				return finish(state);
			},
		};
	},
	digest,
	hmacSha256: nodeHmacSha256,
	gcmSeal(key, iv, aad, plaintext) {
		requireGcmKeyAndIv(key, iv);
		const cipher = createCipheriv(gcmName(key), key, iv).setAAD(aad);
		const out = new Uint8Array(plaintext.length + BLOCK);
		feed(cipher, plaintext, out);
		cipher.final();
		out.set(cipher.getAuthTag(), plaintext.length);
		return out;
	},
	gcmOpen(key, iv, aad, sealed) {
		requireGcmKeyAndIv(key, iv);
		if (sealed.length < BLOCK) return undefined;
		const length = sealed.length - BLOCK;
		const decipher = createDecipheriv(gcmName(key), key, iv, { authTagLength: BLOCK }).setAAD(aad);
		decipher.setAuthTag(sealed.subarray(length));
		const out = new Uint8Array(length);
		feed(decipher, sealed.subarray(0, length), out);
		try {
			decipher.final();
		} catch {
			// GCM without padding has nothing left but the tag to refuse.
			wipe(out);
			return undefined;
		}
		return out;
	},
	gcmSealInto(key, iv, aad, plaintext, out, tag) {
		requireGcmInto(key, iv, plaintext, tag, out);
		settleHeap();
		const cipher = createCipheriv(gcmName(key), key, iv).setAAD(aad);
		feed(cipher, plaintext, out);
		cipher.final();
		tag.set(cipher.getAuthTag());
	},
	gcmOpenInto(key, iv, aad, ciphertext, tag, out) {
		requireGcmInto(key, iv, ciphertext, tag, out);
		settleHeap();
		const decipher = createDecipheriv(gcmName(key), key, iv, { authTagLength: BLOCK }).setAAD(aad);
		decipher.setAuthTag(tag);
		feed(decipher, ciphertext, out);
		try {
			decipher.final();
			return true;
		} catch {
			wipe(out);
			return false;
		}
	},
	p384: nodeP384,
	rsaPss: { sign: rsaPssSigner(digest), verify: verifyPss },
};
