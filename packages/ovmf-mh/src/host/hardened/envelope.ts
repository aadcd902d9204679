import { layout, u32 } from '@cvm/layout';
import { MAX_HELPER_MESSAGE } from '../../mailbox/abi.js';
import { HelperError } from './error.js';

/**
 * What a host puts before a message of a helper, so that the other host knows which command it is for. PROJECT. Neither helper
 * sees it: a host that lies here has its peer's helper refuse.
 */
const envelope = layout('cvm_helper_envelope', 8, {
	/** {@link HelperCommand} that the receiver runs with the message. */
	command: u32(0),
	argument: u32(4),
});

/** A message as it goes from host to host. */
export interface Envelope {
	readonly command: number;
	readonly argument: number;
	readonly message: Uint8Array;
}

/** @throws HelperError `length` */
export function wrap(command: number, message: Uint8Array, argument = 0): Uint8Array {
	if (message.length > MAX_HELPER_MESSAGE - envelope.size) {
		const expected = `at most ${MAX_HELPER_MESSAGE - envelope.size} bytes`;
		throw new HelperError('length', { nr: command, expected, got: `${message.length}` });
	}
	const out = new Uint8Array(envelope.size + message.length);
	envelope.encodeInto(out, { command, argument });
	out.set(message, envelope.size);
	return out;
}

/** The message is copied. @throws HelperError `bad-record` */
export function unwrap(data: Uint8Array): Envelope {
	if (data.length < envelope.size || data.length > MAX_HELPER_MESSAGE) {
		const expected = `a message of ${envelope.size} to ${MAX_HELPER_MESSAGE} bytes`;
		throw new HelperError('bad-record', { expected, got: `${data.length}` });
	}
	return { ...envelope.decodePrefix(data), message: data.slice(envelope.size) };
}
