import { type CryptoProvider, constantTimeEqual, ctr } from '@cvm/crypto';
import { bytes, layout, u32 } from '@cvm/layout';
import { Status } from '../abi/status.js';
import type { ChannelKeys } from './session.js';

/** The header of a transport packet (SEV API 0.24 §6.6, LAUNCH_SECRET; also SEND_UPDATE_* and RECEIVE_UPDATE_*). */
export const packetHeader = layout('sev_packet_header', 52, {
	flags: u32(0x00),
	iv: bytes(0x04, 16),
	mac: bytes(0x14, 32),
});

/** Bytes in a packet header. */
export const PACKET_HEADER_SIZE = packetHeader.size;

/** Bits of a packet's FLAGS. */
export const PacketFlags = { compressed: 1 } as const;

/** The first byte under each MAC that a transport integrity key makes: what the MAC is for. */
export const PacketContext = {
	secret: 0x01,
	data: 0x02,
	/** Set aside for save areas; `FirmwareOptions.vmsaPacketContext` says which byte is used for them. */
	vmsa: 0x03,
	measure: 0x04,
} as const;
export type PacketContext = (typeof PacketContext)[keyof typeof PacketContext];

const PREFIX_SIZE = 29;
/** Reused by every call: a MAC is made in one synchronous step. */
const prefix = new Uint8Array(PREFIX_SIZE);
const prefixView = new DataView(prefix.buffer);

/** What the MAC of a packet covers. */
export interface PacketMacInput {
	readonly context: number;
	readonly flags: number;
	/** 16 bytes. */
	readonly iv: Uint8Array;
	/** Bytes of plaintext, uncompressed. */
	readonly guestLength: number;
	/** Bytes of ciphertext. */
	readonly transLength: number;
	readonly ciphertext: Uint8Array;
	/** The measurement that a launch secret answers to, 32 bytes; absent in other packets. */
	readonly measure?: Uint8Array;
}

/** HMAC-SHA-256 of a packet, 32 bytes: encrypt, then MAC. */
export function packetMac(provider: CryptoProvider, tik: Uint8Array, p: PacketMacInput): Uint8Array {
	prefix[0] = p.context;
	prefixView.setUint32(1, p.flags, true);
	prefix.set(p.iv, 5);
	prefixView.setUint32(21, p.guestLength, true);
	prefixView.setUint32(25, p.transLength, true);
	return p.measure === undefined
		? provider.hmacSha256(tik, prefix, p.ciphertext)
		: provider.hmacSha256(tik, prefix, p.ciphertext, p.measure);
}

type TransportKeys = Pick<ChannelKeys, 'tek' | 'tik'>;

/** One packet around `plaintext`: its header, and the ciphertext of the same length. FLAGS are 0. */
export function sealPacket(
	provider: CryptoProvider,
	keys: TransportKeys,
	p: {
		readonly context: number;
		/** 16 bytes, never used before under this TEK. */
		readonly iv: Uint8Array;
		readonly plaintext: Uint8Array;
		readonly measure?: Uint8Array;
	},
): { header: Uint8Array; payload: Uint8Array } {
	const payload = applyCtr(provider, keys.tek, p.iv, p.plaintext);
	const mac = packetMac(provider, keys.tik, {
		context: p.context,
		flags: 0,
		iv: p.iv,
		guestLength: payload.length,
		transLength: payload.length,
		ciphertext: payload,
		...(p.measure && { measure: p.measure }),
	});
	return { header: packetHeader.encode({ flags: 0, iv: p.iv, mac }), payload };
}

/**
 * Opens one packet. Statuses, with no plaintext: `INVALID_LENGTH` header shorter than 52 bytes; `BAD_MEASUREMENT`;
 * `UNSUPPORTED` compressed, which launch secrets are refused for after the MAC and other packets before it.
 */
export function openPacket(
	provider: CryptoProvider,
	keys: TransportKeys,
	p: {
		readonly context: number;
		readonly header: Uint8Array;
		readonly guestLength: number;
		readonly payload: Uint8Array;
		readonly measure?: Uint8Array;
	},
): { readonly status: Status; readonly plaintext?: Uint8Array } {
	if (p.header.length < PACKET_HEADER_SIZE) return { status: Status.INVALID_LENGTH };
	const { flags, iv, mac } = packetHeader.decodePrefix(p.header);
	const compressed = (flags & PacketFlags.compressed) !== 0;
	if (compressed && p.context !== PacketContext.secret) return { status: Status.UNSUPPORTED };
	const expected = packetMac(provider, keys.tik, {
		context: p.context,
		flags,
		iv,
		guestLength: p.guestLength,
		transLength: p.payload.length,
		ciphertext: p.payload,
		...(p.measure && { measure: p.measure }),
	});
	if (!constantTimeEqual(expected, mac)) return { status: Status.BAD_MEASUREMENT };
	if (compressed) return { status: Status.UNSUPPORTED };
	return { status: Status.SUCCESS, plaintext: applyCtr(provider, keys.tek, iv, p.payload) };
}

function applyCtr(provider: CryptoProvider, tek: Uint8Array, iv: Uint8Array, data: Uint8Array): Uint8Array {
	const out = new Uint8Array(data.length);
	const cipher = provider.blockCipher(tek);
	ctr(cipher, iv, data, out);
	cipher.wipe();
	return out;
}
