import { type CryptoProvider, wipe } from '@cvm/crypto';
import { LayoutError } from '@cvm/layout';
import { HelperStatus } from '../mailbox/abi.js';
import { messageKey, messageSalt } from './keys.js';
import type { SessionState } from './state.js';
import { MESSAGE_SALT_BYTES, type MessageType, messageHeader, TAG_BYTES, VCPU_STREAM, WIRE_MAGIC } from './wire.js';

/** Longest message that is looked at; the bodies of a window hold more. */
export const MAX_MESSAGE = 60_000;

const HEADER = messageHeader.size;
const TAG_AT = messageHeader.offsetOf('tag');
const SALT_AT = messageHeader.offsetOf('salt');
const NO_SALT = new Uint8Array(MESSAGE_SALT_BYTES);
const NO_TAG = new Uint8Array(TAG_BYTES);
const NO_ANSWER = new Uint8Array(32);

/** What could be decoded, or `undefined` if the bytes do not have the layout. */
export function decoded<T>(decode: () => T): T | undefined {
	try {
		return decode();
	} catch (error) {
		if (error instanceof LayoutError) return undefined;
		throw error;
	}
}

/** Direction and type are in it too. A counter that was put back with memory meets another key: `messageSalt`. */
function messageIv(counter: number, type: number): Uint8Array {
	const iv = new Uint8Array(12);
	const view = new DataView(iv.buffer);
	view.setUint32(0, counter, true);
	view.setUint16(8, VCPU_STREAM, true);
	view.setUint16(10, type, true);
	return iv;
}

/**
 * A message of the session in `state`, whose counter of sent messages goes up.
 *
 * @param answers SHA-256 of the message that it answers
 */
export function sealMessage(
	provider: CryptoProvider,
	state: SessionState,
	type: MessageType,
	o: { readonly body?: Uint8Array; readonly epoch?: number; readonly answers?: Uint8Array } = {},
): Uint8Array {
	const body = o.body ?? new Uint8Array();
	const counter = state.num('sent');
	const message = new Uint8Array(HEADER + body.length);
	messageHeader.encodeInto(message, {
		magic: WIRE_MAGIC,
		version: state.num('version'),
		type,
		sessionId: state.bytes('sessionId'),
		epoch: o.epoch ?? state.num('epoch'),
		counter,
		length: body.length,
		salt: NO_SALT,
		answers: o.answers ?? NO_ANSWER,
	});
	const salt = messageSalt(provider, state.bytes('outKey'), message.subarray(0, HEADER), body);
	message.set(salt, SALT_AT);
	const [aad, tag] = [message.slice(0, HEADER), message.subarray(TAG_AT, TAG_AT + TAG_BYTES)];
	const key = messageKey(provider, state.bytes('outKey'), salt);
	provider.gcmSealInto(key, messageIv(counter, type), aad, body, message.subarray(HEADER), tag);
	wipe(key);
	state.setNum('sent', counter + 1);
	return message;
}

/** What {@link openMessage} gives: the body, and what the message says it answers; or why not. */
export type OpenedMessage =
	| { readonly status: typeof HelperStatus.success; readonly body: Uint8Array; readonly answers: Uint8Array }
	| { readonly status: Exclude<HelperStatus, 0> };

/**
 * Opens a message of the other side and counts it as taken.
 *
 * @param epoch what its header has to say
 * @returns `length` unless it is a message of that type, `authentication` for another session or a tag that does not match,
 * `order` for another counter or epoch
 */
export function openMessage(
	provider: CryptoProvider,
	state: SessionState,
	type: MessageType,
	message: Uint8Array,
	epoch: number,
): OpenedMessage {
	const header = decoded(() => messageHeader.decodePrefix(message));
	if (header === undefined || header.magic !== WIRE_MAGIC || header.type !== type)
		return { status: HelperStatus.length };
	if (header.length !== message.length - HEADER) return { status: HelperStatus.length };
	if (header.version !== state.num('version')) return { status: HelperStatus.peer };
	const own = state.bytes('sessionId');
	if (header.sessionId.some((b, i) => b !== own[i])) return { status: HelperStatus.authentication };
	const counter = state.num('taken');
	if (header.counter !== counter || header.epoch !== epoch) return { status: HelperStatus.order };
	const aad = message.slice(0, HEADER);
	aad.set(NO_TAG, TAG_AT);
	const body = new Uint8Array(header.length);
	const sealed = message.subarray(HEADER);
	const key = messageKey(provider, state.bytes('inKey'), header.salt);
	const isGenuine = provider.gcmOpenInto(key, messageIv(counter, type), aad, sealed, header.tag, body);
	wipe(key);
	if (!isGenuine) return { status: HelperStatus.authentication };
	state.setNum('taken', counter + 1);
	return { status: HelperStatus.success, body, answers: header.answers };
}
