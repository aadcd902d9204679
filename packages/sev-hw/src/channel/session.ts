import {
	type CryptoProvider,
	constantTimeEqual,
	ctr,
	kdf,
	type P384PublicKey,
	type RandomSource,
	wipe,
} from '@cvm/crypto';
import { bytes, layout } from '@cvm/layout';
import { Status } from '../abi/status.js';

/** The wrapped transport keys that go with a Diffie-Hellman certificate: SEV API 0.24 §6.2. */
export const sessionBuffer = layout('sev_session_buf', 128, {
	nonce: bytes(0x00, 16),
	/** AES-128-CTR(KEK, WRAP_IV, TEK ‖ TIK). */
	wrapTk: bytes(0x10, 32),
	wrapIv: bytes(0x30, 16),
	/** HMAC-SHA-256(KIK, WRAP_TK). WRAP_IV is not covered. */
	wrapMac: bytes(0x40, 32),
	/** HMAC-SHA-256(TIK, policy): {@link policyMac}. */
	policyMac: bytes(0x60, 32),
});

/** The secrets of one channel, 16 bytes each. */
export interface ChannelKeys {
	/** Transport encryption key. */
	readonly tek: Uint8Array;
	/** Transport integrity key. */
	readonly tik: Uint8Array;
	readonly nonce: Uint8Array;
	readonly masterSecret: Uint8Array;
}

/**
 * The client's half of a session (a guest owner, or the source platform in SEND_START): fresh keys, wrapped for the
 * server. Draws TEK, TIK, nonce, WRAP_IV from `random`, in this order.
 *
 * @throws Error if `peer` is not on the curve: check its certificate first
 */
export function createSession(
	provider: CryptoProvider,
	random: RandomSource,
	o: { readonly privateKey: Uint8Array; readonly peer: P384PublicKey; readonly policy: number },
): { session: Uint8Array; keys: ChannelKeys } {
	const tek = random.bytes(16);
	const tik = random.bytes(16);
	const nonce = random.bytes(16);
	const wrapIv = random.bytes(16);
	const masterSecret = agree(provider, o.privateKey, o.peer, nonce);
	const { kek, kik } = wrappingKeys(provider, masterSecret);
	const wrapTk = new Uint8Array(32);
	wrapTk.set(tek);
	wrapTk.set(tik, 16);
	applyCtr(provider, kek, wrapIv, wrapTk);
	const session = sessionBuffer.encode({
		nonce,
		wrapTk,
		wrapIv,
		wrapMac: provider.hmacSha256(kik, wrapTk),
		policyMac: policyMac(provider, tik, o.policy),
	});
	wipe(kek, kik);
	return { session, keys: { tek, tik, nonce, masterSecret } };
}

/**
 * The server's half (LAUNCH_START, RECEIVE_START): unwraps the keys of a session buffer. The caller still has to
 * compare the buffer's policy MAC with {@link policyMac}.
 *
 * Statuses, with no keys: `INVALID_LENGTH` not 128 bytes; `INVALID_CERTIFICATE` peer not on the curve;
 * `BAD_MEASUREMENT` the wrapped keys were not made for this key pair, or were changed.
 */
export function openSession(
	provider: CryptoProvider,
	o: { readonly privateKey: Uint8Array; readonly peer: P384PublicKey; readonly session: Uint8Array },
): { readonly status: Status; readonly keys?: ChannelKeys } {
	if (o.session.length !== sessionBuffer.size) return { status: Status.INVALID_LENGTH };
	if (!provider.p384.isValidPublicKey(o.peer)) return { status: Status.INVALID_CERTIFICATE };
	const { nonce, wrapTk, wrapIv, wrapMac } = sessionBuffer.decode(o.session);
	const masterSecret = agree(provider, o.privateKey, o.peer, nonce);
	const { kek, kik } = wrappingKeys(provider, masterSecret);
	const genuine = constantTimeEqual(provider.hmacSha256(kik, wrapTk), wrapMac);
	if (genuine) applyCtr(provider, kek, wrapIv, wrapTk);
	wipe(kek, kik);
	if (genuine) {
		return { status: Status.SUCCESS, keys: { tek: wrapTk.slice(0, 16), tik: wrapTk.slice(16), nonce, masterSecret } };
	}
	wipe(masterSecret);
	return { status: Status.BAD_MEASUREMENT };
}

/** Binds a policy to a session: HMAC-SHA-256(TIK, policy as 32 bits little-endian), 32 bytes. */
export function policyMac(provider: CryptoProvider, tik: Uint8Array, policy: number): Uint8Array {
	return provider.hmacSha256(
		tik,
		Uint8Array.of(policy & 0xff, (policy >>> 8) & 0xff, (policy >>> 16) & 0xff, policy >>> 24),
	);
}

/** The master secret of two key pairs and a nonce, 16 bytes. */
function agree(provider: CryptoProvider, privateKey: Uint8Array, peer: P384PublicKey, nonce: Uint8Array): Uint8Array {
	const z = provider.p384.ecdh(privateKey, peer);
	const masterSecret = deriveMasterSecret(provider, z, nonce);
	wipe(z);
	return masterSecret;
}

/** Key derivation from the shared x-coordinate `z` (big-endian): 16 bytes. */
export function deriveMasterSecret(provider: CryptoProvider, z: Uint8Array, nonce: Uint8Array): Uint8Array {
	return kdf(provider, z, 'sev-master-secret', nonce, 128);
}

/** The keys that wrap TEK and TIK: for encryption and for integrity, 16 bytes each. */
export function wrappingKeys(provider: CryptoProvider, masterSecret: Uint8Array): { kek: Uint8Array; kik: Uint8Array } {
	const none = new Uint8Array(0);
	return {
		kek: kdf(provider, masterSecret, 'sev-kek', none, 128),
		kik: kdf(provider, masterSecret, 'sev-kik', none, 128),
	};
}

/** En- or decrypts `data` in place. */
function applyCtr(provider: CryptoProvider, key: Uint8Array, iv: Uint8Array, data: Uint8Array): void {
	const cipher = provider.blockCipher(key);
	ctr(cipher, iv, data, data);
	cipher.wipe();
}
