import { type CryptoProvider, wipe } from '@cvm/crypto';
import { MESSAGE_SALT_BYTES } from './wire.js';

const ascii = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** Separate the uses of a key. */
const Label = {
	hello: ascii('cvm-mh hello'),
	session: ascii('cvm-mh session id'),
	accept: ascii('cvm-mh accept'),
	confirm: ascii('cvm-mh confirm'),
	page: ascii('cvm-mh page'),
	toTarget: ascii('cvm-mh to target'),
	toSource: ascii('cvm-mh to source'),
	record: ascii('cvm-mh record'),
	message: ascii('cvm-mh message'),
	messageSalt: ascii('cvm-mh message salt'),
} as const;
/** RFC 5869 §2.3: the counter of the only block that a key of 32 bytes needs. */
const FIRST_BLOCK = Uint8Array.of(1);

/** The keys of one session. */
export interface SessionKeys {
	/** No secret: 16 bytes. */
	readonly sessionId: Uint8Array;
	/** MACs ACCEPT and CONFIRM. */
	readonly accept: Uint8Array;
	readonly confirm: Uint8Array;
	/** AES-256-GCM keys: records, and messages of each direction. */
	readonly page: Uint8Array;
	readonly toTarget: Uint8Array;
	readonly toSource: Uint8Array;
}

/** The key that HELLO is MAC'd under: all that both sides have before they exchanged anything. */
export const helloKey = (provider: CryptoProvider, secret: Uint8Array): Uint8Array =>
	provider.hmacSha256(secret, Label.hello);

/**
 * HKDF-SHA-256 (RFC 5869) with the transcript's hash as salt, over migration secret and ECDH result: whoever lacks either has no key,
 * and a transcript with one other bit gives other keys. PROJECT. Wipe with {@link wipeKeys}.
 */
export function sessionKeys(
	provider: CryptoProvider,
	o: { readonly secret: Uint8Array; readonly shared: Uint8Array; readonly transcript: Uint8Array },
): SessionKeys {
	const root = provider.hmacSha256(o.transcript, o.secret, o.shared);
	const key = (label: Uint8Array) => provider.hmacSha256(root, label, FIRST_BLOCK);
	const keys = {
		sessionId: key(Label.session).subarray(0, 16),
		accept: key(Label.accept),
		confirm: key(Label.confirm),
		page: key(Label.page),
		toTarget: key(Label.toTarget),
		toSource: key(Label.toSource),
	};
	wipe(root);
	return keys;
}

export const wipeKeys = (keys: SessionKeys): void => {
	wipe(keys.accept, keys.confirm, keys.page, keys.toTarget, keys.toSource);
};

/*
 * PROJECT: a host can put old ciphertext back in its place, and the counters in it go back too. GCM with a key and IV that were used
 * before gives plaintext and forgeries away; so neither records nor messages use a key of the session itself.
 */

/** The key of one record: out of the page key and a salt that no memory holds, but the generator draws. Wipe it. */
export const recordKey = (provider: CryptoProvider, pageKey: Uint8Array, salt: Uint8Array): Uint8Array =>
	provider.hmacSha256(pageKey, Label.record, salt);

/**
 * The salt of one message: out of all of it, so that the same message twice is the same bytes and another one under the same
 * counter has another key.
 *
 * @param header with zeros for salt and tag
 */
export const messageSalt = (
	provider: CryptoProvider,
	directionKey: Uint8Array,
	header: Uint8Array,
	body: Uint8Array,
): Uint8Array => provider.hmacSha256(directionKey, Label.messageSalt, header, body).subarray(0, MESSAGE_SALT_BYTES);

/** The key of one message. Wipe it. */
export const messageKey = (provider: CryptoProvider, directionKey: Uint8Array, salt: Uint8Array): Uint8Array =>
	provider.hmacSha256(directionKey, Label.message, salt);
