import { type CryptoProvider, constantTimeEqual, type RandomSource, wipe } from '@cvm/crypto';
import { type GpaRange, helperRanges, MAX_HELPERS, MAX_RAM } from '../geometry.js';
import { HelperStatus } from '../mailbox/abi.js';
import { helloKey, type SessionKeys, sessionKeys, wipeKeys } from './keys.js';
import { decoded } from './message.js';
import { answer, DONE, type Handler, type Outcome, refuse, type SessionContext } from './outcome.js';
import { type MigrationSecret, readMigrationSecret } from './secret.js';
import {
	acceptMessage,
	Capability,
	COORDINATE_BYTES,
	confirmMessage,
	HANDSHAKE_FORMAT,
	helloMessage,
	MessageType,
	WIRE_MAGIC,
} from './wire.js';

/** Draws of a private key before the generator is held to be broken: each fails by chance once in 2^190. */
const MAX_DRAWS = 8;

const HELLO_MAC_AT = helloMessage.offsetOf('mac');
const ACCEPT_MAC_AT = acceptMessage.offsetOf('mac');
const CONFIRM_MAC_AT = confirmMessage.offsetOf('mac');

/**
 * What both machines must have alike: RAM as the firmware recorded it and the helper's own places. SHA-256 over the number of ranges
 * and their u64 bounds, RAM first.
 */
function machineDigest(provider: CryptoProvider, ram: readonly GpaRange[]): Uint8Array {
	const lists = [ram, helperRanges()];
	const words = lists.flatMap((ranges) => [ranges.length, ...ranges.flatMap(({ start, end }) => [start, end])]);
	return provider.digest('sha256', new Uint8Array(BigUint64Array.from(words, BigInt).buffer));
}

function drawKey(provider: CryptoProvider, random: RandomSource): Uint8Array | undefined {
	for (let i = 0; i < MAX_DRAWS; i++) {
		const key = random.bytes(COORDINATE_BYTES);
		if (provider.p384.isValidPrivateKey(key)) return key;
	}
	return undefined;
}

interface Offer {
	readonly versionMin: number;
	readonly versionMax: number;
	readonly capabilities: number;
}

/** What this side offers; `undefined` if the owner allows none of its versions. */
function ownOffer({ versions, capabilities }: SessionContext, secret: MigrationSecret): Offer | undefined {
	const versionMin = Math.max(versions.min, secret.minVersion);
	return versionMin > versions.max ? undefined : { versionMin, versionMax: versions.max, capabilities };
}

/** The highest common version and the common capabilities. */
function choose(a: Offer, b: Offer): { readonly version: number; readonly capabilities: number } | undefined {
	const version = Math.min(a.versionMax, b.versionMax);
	const vcpus = Capability.vcpuStates;
	if (version < Math.max(a.versionMin, b.versionMin)) return undefined;
	if ((a.capabilities & vcpus) !== (b.capabilities & vcpus)) return undefined;
	return { version, capabilities: a.capabilities & b.capabilities };
}

/** Work with the owner's secret, which is wiped whatever comes. */
function withSecret(context: SessionContext, work: (secret: MigrationSecret, offer: Offer) => Outcome): Outcome {
	const secret = readMigrationSecret(context.memory);
	if (secret === undefined) return refuse(HelperStatus.secret);
	try {
		const offer = ownOffer(context, secret);
		return offer === undefined ? refuse(HelperStatus.peer) : work(secret, offer);
	} finally {
		wipe(secret.secret);
	}
}

/** Keys out of this side's ephemeral private key and the other's public one. */
function agree(
	{ provider }: SessionContext,
	o: {
		readonly secret: MigrationSecret;
		readonly ephemeral: Uint8Array;
		readonly peer: { readonly x: Uint8Array; readonly y: Uint8Array };
		readonly transcript: Uint8Array;
	},
): SessionKeys {
	const shared = provider.p384.ecdh(o.ephemeral, o.peer);
	const keys = sessionKeys(provider, { secret: o.secret.secret, shared, transcript: o.transcript });
	wipe(shared);
	return keys;
}

/** No stream has sealed or opened anything, in any epoch. */
function clearStreams({ memory, frames, stream }: SessionContext): void {
	stream.clear();
	for (let i = 0; i < MAX_HELPERS; i++) stream.store(memory, i);
	frames.clearEpoch();
}

/** `hello`: argument is how many streams. */
export const hello: Handler = (context, { argument: streams }) => {
	const { provider, random, state, memory, saveAreas } = context;
	if (!Number.isInteger(streams) || streams < 1 || streams > MAX_HELPERS) return refuse(HelperStatus.length);
	// Pages that the maps do not cover would stay behind.
	if (memory.ram.some(({ end }) => end > MAX_RAM)) return refuse(HelperStatus.limit);
	return withSecret(context, (secret, offer) => {
		const ephemeral = drawKey(provider, random);
		if (ephemeral === undefined) return refuse(HelperStatus.limit);
		const { x, y } = provider.p384.publicKey(ephemeral);
		const message = helloMessage.encode({
			...{ magic: WIRE_MAGIC, format: HANDSHAKE_FORMAT, type: MessageType.hello, ...offer },
			...{ streams, vcpus: saveAreas.length, guestId: secret.guestId, nonce: random.bytes(32) },
			...{ machine: machineDigest(provider, memory.ram), publicX: x, publicY: y },
		});
		const key = helloKey(provider, secret.secret);
		message.set(provider.hmacSha256(key, message.subarray(0, HELLO_MAC_AT)), HELLO_MAC_AT);
		state.setNum('streams', streams);
		state.bytes('hello').set(message);
		state.bytes('ephemeral').set(ephemeral);
		wipe(key, ephemeral);
		return answer(message);
	});
};

/** `accept`: input is HELLO. What an authentic peer asks is looked at only after its MAC. */
export const accept: Handler = (context, { input }) => {
	const { provider, random, state, memory, saveAreas } = context;
	const theirs = decoded(() => helloMessage.decode(input));
	if (theirs === undefined || theirs.magic !== WIRE_MAGIC || theirs.type !== MessageType.hello) {
		return refuse(HelperStatus.length);
	}
	if (theirs.format !== HANDSHAKE_FORMAT) return refuse(HelperStatus.peer);
	return withSecret(context, (secret, offer) => {
		if (!constantTimeEqual(theirs.guestId, secret.guestId)) return refuse(HelperStatus.peer);
		const key = helloKey(provider, secret.secret);
		const mac = provider.hmacSha256(key, input.subarray(0, HELLO_MAC_AT));
		wipe(key);
		if (!constantTimeEqual(mac, theirs.mac)) return refuse(HelperStatus.authentication);
		const choice = choose(theirs, offer);
		const machine = machineDigest(provider, memory.ram);
		const fits = theirs.streams >= 1 && theirs.streams <= MAX_HELPERS && theirs.vcpus === saveAreas.length;
		if (choice === undefined || !fits || !constantTimeEqual(machine, theirs.machine)) return refuse(HelperStatus.peer);
		const peer = { x: theirs.publicX, y: theirs.publicY };
		if (!provider.p384.isValidPublicKey(peer)) return refuse(HelperStatus.authentication);
		const ephemeral = drawKey(provider, random);
		if (ephemeral === undefined) return refuse(HelperStatus.limit);
		const own = provider.p384.publicKey(ephemeral);
		const message = acceptMessage.encode({
			...{ magic: WIRE_MAGIC, format: HANDSHAKE_FORMAT, type: MessageType.accept, ...offer },
			...{ version: choice.version, nonce: random.bytes(32), publicX: own.x, publicY: own.y },
		});
		const transcript = provider.digest('sha256', input, message.subarray(0, ACCEPT_MAC_AT));
		const keys = agree(context, { secret, ephemeral, peer, transcript });
		message.set(provider.hmacSha256(keys.accept, transcript), ACCEPT_MAC_AT);
		state.endSession();
		state.setNum('streams', theirs.streams);
		beginSession(context, keys, choice, 'target');
		state.bytes('transcript').set(transcript);
		state.bytes('confirmKey').set(keys.confirm);
		wipeKeys(keys);
		wipe(ephemeral);
		return answer(message);
	});
};

/** `confirm`: input is ACCEPT. */
export const confirm: Handler = (context, { input }) => {
	const { provider, state } = context;
	const theirs = decoded(() => acceptMessage.decode(input));
	if (theirs === undefined || theirs.magic !== WIRE_MAGIC || theirs.type !== MessageType.accept) {
		return refuse(HelperStatus.length);
	}
	if (theirs.format !== HANDSHAKE_FORMAT) return refuse(HelperStatus.peer);
	const peer = { x: theirs.publicX, y: theirs.publicY };
	if (!provider.p384.isValidPublicKey(peer)) return refuse(HelperStatus.authentication);
	return withSecret(context, (secret, offer) => {
		const transcript = provider.digest('sha256', state.bytes('hello'), input.subarray(0, ACCEPT_MAC_AT));
		const keys = agree(context, { secret, ephemeral: state.bytes('ephemeral'), peer, transcript });
		const mac = provider.hmacSha256(keys.accept, transcript);
		const choice = choose(offer, theirs);
		if (!constantTimeEqual(mac, theirs.mac)) {
			wipeKeys(keys);
			return refuse(HelperStatus.authentication);
		}
		if (choice === undefined || choice.version !== theirs.version) {
			wipeKeys(keys);
			return refuse(HelperStatus.peer);
		}
		const { sessionId } = keys;
		const head = { magic: WIRE_MAGIC, format: HANDSHAKE_FORMAT, type: MessageType.confirm, sessionId };
		const message = confirmMessage.encode(head);
		message.set(confirmMac(provider, keys.confirm, transcript, message), CONFIRM_MAC_AT);
		wipe(state.bytes('ephemeral'), state.bytes('hello'));
		beginSession(context, keys, choice, 'source');
		wipeKeys(keys);
		clearStreams(context);
		return answer(message);
	});
};

/** `establish`: input is CONFIRM. */
export const establish: Handler = (context, { input }) => {
	const { provider, state } = context;
	const theirs = decoded(() => confirmMessage.decode(input));
	if (theirs === undefined || theirs.magic !== WIRE_MAGIC || theirs.type !== MessageType.confirm) {
		return refuse(HelperStatus.length);
	}
	const mac = confirmMac(provider, state.bytes('confirmKey'), state.bytes('transcript'), input);
	if (!constantTimeEqual(mac, theirs.mac)) return refuse(HelperStatus.authentication);
	wipe(state.bytes('confirmKey'), state.bytes('transcript'), state.bytes('abort'));
	clearStreams(context);
	return DONE;
};

/** Over the transcript and all of CONFIRM before its MAC. */
const confirmMac = (
	provider: CryptoProvider,
	key: Uint8Array,
	transcript: Uint8Array,
	message: Uint8Array,
): Uint8Array => provider.hmacSha256(key, transcript, message.subarray(0, CONFIRM_MAC_AT));

function beginSession(
	{ state }: SessionContext,
	keys: SessionKeys,
	choice: { readonly version: number; readonly capabilities: number },
	side: 'source' | 'target',
): void {
	state.setNum('version', choice.version);
	state.setNum('capabilities', choice.capabilities);
	state.bytes('sessionId').set(keys.sessionId);
	state.bytes('pageKey').set(keys.page);
	state.bytes('outKey').set(side === 'source' ? keys.toTarget : keys.toSource);
	state.bytes('inKey').set(side === 'source' ? keys.toSource : keys.toTarget);
}
