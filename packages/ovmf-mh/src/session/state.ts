import { bytes, layout, u32, u64 } from '@cvm/layout';
import { HelperGeometry, MAX_HELPERS } from '../geometry.js';
import type { HelperMemory } from './ports.js';
import { helloMessage, messageHeader } from './wire.js';

/** 'CVMS' as a little-endian u32: a state page that `install` set up. */
export const STATE_MAGIC = 0x534d5643;

/** The secrets of the state page: all zeros while there is no session. */
export const SECRETS = { offset: 0x480, bytes: 0x100 } as const;
/** Bytes of the state page in use. */
export const STATE_BYTES = SECRETS.offset + SECRETS.bytes;

/** PROJECT: the state of a helper's session, at `HelperGeometry.state`. Everything that is not said to be kept is zero without a session. */
export const stateLayout = layout('cvm_helper_state', STATE_BYTES, {
	magic: u32(0x000),
	/** `HelperPhase`. Kept. */
	phase: u32(0x004),
	streams: u32(0x008),
	epoch: u32(0x00c),
	/** In force. */
	version: u32(0x010),
	capabilities: u32(0x014),
	/** vCPU states sealed or opened: also the counter of the next record of theirs. */
	vcpuRecords: u32(0x018),
	/** Messages made, messages taken. */
	sent: u32(0x01c),
	taken: u32(0x020),
	/** Group of 128 frames at which the wipe of memory goes on; only when retired. */
	wipeGroup: u32(0x024),
	sessionId: bytes(0x028, 16),
	vcpuDigest: bytes(0x040, 32),
	/** SHA-256 of the message that the next one has to answer: MANIFEST, READY, START. */
	answers: bytes(0x060, 32),
	/** SHA-256 over HELLO and ACCEPT, from ACCEPT to CONFIRM. */
	transcript: bytes(0x080, 32),
	/** What the manifest says of the target's memory. */
	expected: bytes(0x0a0, 256),
	/** The source's own HELLO, until ACCEPT. */
	hello: bytes(0x1a0, helloMessage.size),
	/** Source, committed: START. */
	start: bytes(0x290, messageHeader.size),
	/** Target: the last ABORT, kept until the source of another session has proved itself. */
	abort: bytes(0x2f0, messageHeader.size),
	/** A guest that came here: RUNNING, kept until the guest leaves for good. */
	running: bytes(0x350, messageHeader.size),
	/** Source: digest of READY as `start` took it. */
	ready: bytes(0x3b0, 32),
	/** Source: chain over the vCPU states at the freeze; zeros without SEV-ES. */
	frozenVcpus: bytes(0x3d0, 32),
	/** Secrets from here on. The source's ephemeral private key, from HELLO to ACCEPT. */
	ephemeral: bytes(0x480, 48),
	/** For CONFIRM, from ACCEPT to CONFIRM. */
	confirmKey: bytes(0x4b0, 32),
	/** Of records, source to target. */
	pageKey: bytes(0x4d0, 32),
	/** Of messages from this side, and to it. */
	outKey: bytes(0x4f0, 32),
	inKey: bytes(0x510, 32),
});

type NumberField =
	| 'magic'
	| 'phase'
	| 'streams'
	| 'epoch'
	| 'version'
	| 'capabilities'
	| 'vcpuRecords'
	| 'sent'
	| 'taken'
	| 'wipeGroup';
type BytesField = Exclude<keyof typeof stateLayout.fields, NumberField>;

/** What survives the end of a session. */
const KEPT: ReadonlySet<string> = new Set(['magic', 'phase', 'abort', 'running']);
const FIELDS = Object.entries(stateLayout.fields);

const PHASE_OFFSET = stateLayout.offsetOf('phase');
const PHASE_ADDRESS = HelperGeometry.state + PHASE_OFFSET;

/** A copy of the state page for one command. It holds keys: `wipe` ends it. */
export class SessionState {
	private readonly page = new Uint8Array(STATE_BYTES);
	private readonly view = new DataView(this.page.buffer);

	load(memory: HelperMemory): void {
		memory.read(HelperGeometry.state, this.page);
	}

	store(memory: HelperMemory): void {
		memory.write(HelperGeometry.state, this.page);
	}

	/**
	 * As `store`, where other streams may be at work: they see the new phase before anything else. Who reads a state and then finds its
	 * phase unchanged has read keys that were still there.
	 */
	storePhaseFirst(memory: HelperMemory): void {
		memory.write(PHASE_ADDRESS, this.page.subarray(PHASE_OFFSET, PHASE_OFFSET + 4));
		this.store(memory);
	}

	/** Whether the phase in memory is still that of the copy. */
	isCurrent(memory: HelperMemory): boolean {
		const word = new Uint8Array(4);
		memory.read(PHASE_ADDRESS, word);
		return new DataView(word.buffer).getUint32(0, true) === this.num('phase');
	}

	/** Nothing of the state stays in JavaScript. */
	wipe(): void {
		this.page.fill(0);
	}

	num(field: NumberField): number {
		return this.view.getUint32(stateLayout.offsetOf(field), true);
	}

	setNum(field: NumberField, value: number): void {
		this.view.setUint32(stateLayout.offsetOf(field), value, true);
	}

	/** A view of the copy, good until the command ends. */
	bytes(field: BytesField): Uint8Array {
		const { offset, size } = stateLayout.fields[field];
		return this.page.subarray(offset, offset + size);
	}

	/** Whether a field holds anything but zeros. */
	has(field: BytesField): boolean {
		return this.bytes(field).some((b) => b !== 0);
	}

	/** Forgets the session, its keys first. */
	endSession(): void {
		this.page.fill(0, SECRETS.offset, SECRETS.offset + SECRETS.bytes);
		for (const [name, { offset, size }] of FIELDS) {
			if (!KEPT.has(name)) this.page.fill(0, offset, offset + size);
		}
	}
}

/**
 * PROJECT: the state of stream s, at `HelperGeometry.streamStates` + s × 4096. Only its helper writes it, and the first helper while it
 * holds the busy word.
 */
export const streamLayout = layout('cvm_helper_stream', 0xa0, {
	/** Not 0 while someone works on the stream. Only ever exchanged. */
	busy: u32(0x00),
	/** Records sealed or opened: the counter of the next one. */
	records: u32(0x40),
	/** Group of 128 frames at which the digest goes on; {@link DIGEST_DONE} at its end. */
	digestGroup: u32(0x44),
	/** Source: the next IV counter. Target: the lowest one that may come. */
	ivCounter: u64(0x48),
	pages: u64(0x50),
	zeroPages: u64(0x58),
	/** Chain over the groups so far. */
	digest: bytes(0x60, 32),
});
/** `digestGroup` once the digest is there. */
export const DIGEST_DONE = 0xffffffff;
/** What is stored of a stream's state: all but the busy word. */
const STREAM_AT = 0x40;
const STREAM_BYTES = 0x40;

/** In the state page, behind the state: exchanged by a helper that ends the session for all. */
const ABORT_LOCK = HelperGeometry.state + 0x800;

/** Takes the right to end the session. False if another helper is about to end it. */
export const takeAbort = (memory: HelperMemory): boolean => memory.exchange(ABORT_LOCK, 1) === 0;

export const releaseAbort = (memory: HelperMemory): void => {
	memory.exchange(ABORT_LOCK, 0);
};

export const streamAddress = (stream: number): number => HelperGeometry.streamStates + stream * 4096;

/** A copy of a stream's state. No secret is in it. */
export class StreamState {
	readonly bytes = new Uint8Array(STREAM_BYTES);
	private readonly view = new DataView(this.bytes.buffer);

	load(memory: HelperMemory, stream: number): void {
		memory.read(streamAddress(stream) + STREAM_AT, this.bytes);
	}

	store(memory: HelperMemory, stream: number): void {
		memory.write(streamAddress(stream) + STREAM_AT, this.bytes);
	}

	clear(): void {
		this.bytes.fill(0);
	}

	get records(): number {
		return this.view.getUint32(0x00, true);
	}
	set records(value: number) {
		this.view.setUint32(0x00, value, true);
	}
	get digestGroup(): number {
		return this.view.getUint32(0x04, true);
	}
	set digestGroup(value: number) {
		this.view.setUint32(0x04, value, true);
	}
	/** Below 2^53: one per record, and records are counted in 32 bits. */
	get ivCounter(): number {
		return this.u64(0x08);
	}
	set ivCounter(value: number) {
		this.setU64(0x08, value);
	}
	get pages(): number {
		return this.u64(0x10);
	}
	set pages(value: number) {
		this.setU64(0x10, value);
	}
	get zeroPages(): number {
		return this.u64(0x18);
	}
	set zeroPages(value: number) {
		this.setU64(0x18, value);
	}
	get digest(): Uint8Array {
		return this.bytes.subarray(0x20, 0x40);
	}

	private u64(at: number): number {
		return this.view.getUint32(at, true) + this.view.getUint32(at + 4, true) * 0x1_0000_0000;
	}

	private setU64(at: number, value: number): void {
		this.view.setUint32(at, value % 0x1_0000_0000, true);
		this.view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
	}
}

/** Takes the busy word of a stream. False if it is another's. */
export const takeStream = (memory: HelperMemory, stream: number): boolean =>
	memory.exchange(streamAddress(stream), 1) === 0;

export const releaseStream = (memory: HelperMemory, stream: number): void => {
	memory.exchange(streamAddress(stream), 0);
};

/** Takes the busy words of all streams, or none. */
export function takeAll(memory: HelperMemory): boolean {
	for (let stream = 0; stream < MAX_HELPERS; stream++) {
		if (takeStream(memory, stream)) continue;
		for (let taken = 0; taken < stream; taken++) releaseStream(memory, taken);
		return false;
	}
	return true;
}

export function releaseAll(memory: HelperMemory): void {
	for (let stream = 0; stream < MAX_HELPERS; stream++) releaseStream(memory, stream);
}
