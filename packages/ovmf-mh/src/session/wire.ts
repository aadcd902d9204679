import { bytes, layout, reserved, u8, u16, u32, u64 } from '@cvm/layout';
import { BATCH_PAGES } from '../geometry.js';

/*
 * PROJECT: what two helpers say to each other, little-endian throughout. Three ideas are those of the TDX module's migration bundles
 * (intel/tdx-module, migration.h): metadata apart from the bytes and authenticated with them, an IV of counter and stream, and
 * epochs whose token carries the totals.
 */

/** 'CVMH' as a little-endian u32: begins every message and record. */
export const WIRE_MAGIC = 0x484d5643;
/** Layout of the handshake. It is settled before a version is. */
export const HANDSHAKE_FORMAT = 1;
/** Protocol versions of this implementation. */
export const HELPER_VERSIONS = { min: 1, max: 1 } as const;

/** What a helper can do beyond its version; both sides' bits ANDed are in force. */
export const Capability = {
	/** Zero pages are named in the record's header and have no body. */
	zeroPages: 1,
	/** There are vCPU states to carry (SEV-ES): must be equal on both sides. */
	vcpuStates: 2,
} as const;

/** Types of record. */
export const RecordType = { pages: 0, vcpu: 1 } as const;

/** Types of message. Others than those of records, so that neither passes for the other. */
export const MessageType = {
	hello: 0x10,
	accept: 0x11,
	confirm: 0x12,
	epoch: 0x13,
	manifest: 0x14,
	ready: 0x15,
	start: 0x16,
	running: 0x17,
	abort: 0x18,
} as const;
export type MessageType = (typeof MessageType)[keyof typeof MessageType];

/** Bytes of a P-384 coordinate or scalar. */
export const COORDINATE_BYTES = 48;
export const TAG_BYTES = 16;
export const RECORD_SALT_BYTES = 16;
export const MESSAGE_SALT_BYTES = 12;

/**
 * HELLO, source to target: what the source is and wants. MAC: HMAC-SHA-256 of all before it, under a key that only holders of the
 * migration secret can derive. Anyone who recorded a HELLO can repeat it; what follows needs the ephemeral private key.
 */
export const helloMessage = layout('cvm_helper_hello', 240, {
	magic: u32(0x00),
	/** {@link HANDSHAKE_FORMAT}. */
	format: u16(0x04),
	type: u8(0x06),
	pad0: reserved(0x07, 1),
	versionMin: u16(0x08),
	versionMax: u16(0x0a),
	capabilities: u32(0x0c),
	/** Streams wanted: 1 … 8. */
	streams: u16(0x10),
	/** vCPUs whose state is carried; 0 without SEV-ES. */
	vcpus: u16(0x12),
	pad1: reserved(0x14, 12),
	/** The owner's name of the guest, from the migration secret. */
	guestId: bytes(0x20, 16),
	nonce: bytes(0x30, 32),
	/** SHA-256 over RAM and the helper's ranges (`machineDigest`): must be the target's own. */
	machine: bytes(0x50, 32),
	/** Ephemeral P-384 key, affine, big-endian. */
	publicX: bytes(0x70, 48),
	publicY: bytes(0xa0, 48),
	mac: bytes(0xd0, 32),
});

/** ACCEPT, target to source. MAC under a key of the session, over the transcript: HELLO and ACCEPT without its MAC. */
export const acceptMessage = layout('cvm_helper_accept', 192, {
	magic: u32(0x00),
	format: u16(0x04),
	type: u8(0x06),
	pad0: reserved(0x07, 1),
	/** What the target speaks and can, so that the source comes to the same choice or refuses. */
	versionMin: u16(0x08),
	versionMax: u16(0x0a),
	capabilities: u32(0x0c),
	/** The choice: the highest common version. */
	version: u16(0x10),
	pad1: reserved(0x12, 14),
	nonce: bytes(0x20, 32),
	publicX: bytes(0x40, 48),
	publicY: bytes(0x70, 48),
	mac: bytes(0xa0, 32),
});

/** CONFIRM, source to target: proves that the source has the session's keys. MAC over the transcript and this head. */
export const confirmMessage = layout('cvm_helper_confirm', 64, {
	magic: u32(0x00),
	format: u16(0x04),
	type: u8(0x06),
	pad0: reserved(0x07, 1),
	sessionId: bytes(0x08, 16),
	pad1: reserved(0x18, 8),
	mac: bytes(0x20, 32),
});

/**
 * In front of every message after the handshake. AES-256-GCM under a key made of the direction's and the salt, IV = u64 counter ‖ u16 0xffff ‖ u16 type;
 * additional data: this header with a zero tag; plaintext: the body.
 */
export const messageHeader = layout('cvm_helper_message', 96, {
	magic: u32(0x00),
	/** Version in force. */
	version: u16(0x04),
	type: u8(0x06),
	pad0: reserved(0x07, 1),
	sessionId: bytes(0x08, 16),
	/** The sender's epoch; of EPOCH: the new one. */
	epoch: u32(0x18),
	/** Messages of this direction before this one. */
	counter: u32(0x1c),
	/** Bytes of the body: exactly what follows. */
	length: u32(0x20),
	/** Made of header and body: see `messageSalt`. */
	salt: bytes(0x24, MESSAGE_SALT_BYTES),
	tag: bytes(0x30, 16),
	/** SHA-256 of the whole message that this one answers; zeros if none: READY answers MANIFEST, START READY, RUNNING START. */
	answers: bytes(0x40, 32),
});

/** Records of each stream so far, as u32s behind one another; zero for streams that are not in use. */
const TOTALS_BYTES = 32;

/** Body of EPOCH. */
export const epochBody = layout('cvm_helper_epoch', 40, {
	streams: u16(0x00),
	pad: reserved(0x02, 6),
	totals: bytes(0x08, TOTALS_BYTES),
});

/** Body of MANIFEST, before its ranges. */
export const manifestBody = layout('cvm_helper_manifest', 336, {
	streams: u16(0x00),
	/** vCPU states sent. */
	vcpus: u16(0x02),
	/** Entries of {@link sharedRange} that follow: at most {@link MAX_SHARED_RANGES}. */
	ranges: u32(0x04),
	pad: reserved(0x08, 8),
	totals: bytes(0x10, TOTALS_BYTES),
	/** Chain over the vCPU states in order; zeros without SEV-ES. */
	vcpuDigest: bytes(0x30, 32),
	/** Digest of each stream's private frames; zeros for streams that are not in use. */
	digests: bytes(0x50, 256),
});

/** One run of frames that the guest shares. Ascending, with private frames in between, so that there is one way to say it. */
export const sharedRange = layout('cvm_helper_shared', 8, {
	firstFrame: u32(0),
	/** At least 1. */
	frames: u32(4),
});
/** Most runs of shared frames in a manifest. */
export const MAX_SHARED_RANGES = 2048;

/**
 * The header of a record, before its list of u64 addresses (of a vCPU's record: one, the vCPU's index). AES-256-GCM under a key of its
 * own, one call per record; IV = `ivCounter` ‖ `stream` ‖ u16 0; additional data: header with a zero tag, and list; plaintext: the
 * bodies one after the other.
 */
export const recordHeader = layout('cvm_helper_record', 72, {
	magic: u32(0x00),
	version: u16(0x04),
	/** {@link RecordType}. */
	type: u8(0x06),
	pad0: reserved(0x07, 1),
	/** Random, another one for each record: makes its key out of the page key of the session (`recordKey`). */
	salt: bytes(0x08, RECORD_SALT_BYTES),
	epoch: u32(0x18),
	/** Records of this stream before this one. Never restarts in a session. */
	counter: u32(0x1c),
	/** The stream; {@link VCPU_STREAM} for vCPU states. */
	stream: u16(0x20),
	/** Pages: 1 … 64. */
	count: u16(0x22),
	pad1: reserved(0x24, 4),
	/** Grows with each record; a value that was drawn but not used is left out for good. */
	ivCounter: u64(0x28),
	tag: bytes(0x30, 16),
	/** Bit i: page i of the list is all zeros and has no body. */
	zeroMap: u64(0x40),
});
/** Offsets in {@link recordHeader} for the hot path. */
export const RecordOffset = {
	magic: 0x00,
	version: 0x04,
	type: 0x06,
	pad0: 0x07,
	salt: 0x08,
	epoch: 0x18,
	counter: 0x1c,
	stream: 0x20,
	count: 0x22,
	pad1: 0x24,
	ivCounter: 0x28,
	tag: 0x30,
	zeroMapLow: 0x40,
	zeroMapHigh: 0x44,
	list: 0x48,
} as const;
/** The stream number of vCPU states, and of messages in their IV: no page stream has it. */
export const VCPU_STREAM = 0xffff;
/** Bytes of the longest record header. */
export const MAX_RECORD_HEADER = recordHeader.size + 8 * BATCH_PAGES;
/** Bytes of the record header of one page or vCPU. */
export const RECORD_HEADER_ONE = recordHeader.size + 8;
