import type { Dialect } from '../dialect.js';
import type { StreamKind } from './options.js';
import type { Evidence } from './probe-candidate.js';
import { Candidate } from './probe-candidate.js';
import { classify, HEAD_BYTES } from './probe-head.js';
import type { ByteSource } from './source.js';
import { chunksOf } from './source.js';

/** What speaks for and against one dialect. */
export interface DialectCandidate {
	readonly dialect: Dialect;
	/** `refuted`: it cannot be read so. `confirmed`: records that only some dialects have were read. */
	readonly verdict: 'confirmed' | 'possible' | 'refuted';
	/** Bytes read before the fault that refuted it, or all. */
	readonly reached: number;
	readonly evidence: readonly Evidence[];
}

/** What a stream was found to be. */
export interface Detection {
	/** The first candidate, unless the input is no migration stream at all. */
	readonly best: Dialect | undefined;
	/**
	 * Whether reading on cannot change `best`, or a change would make no difference to what was read: the stream ended, or
	 * one candidate is left.
	 */
	readonly certain: boolean;
	readonly stream: StreamKind | undefined;
	/** Known things that are no migration stream: a multifd channel, a file with libvirt's header before the stream. */
	readonly other: 'multifd' | 'libvirt-save' | undefined;
	/** Bytes looked at. */
	readonly bytes: number;
	/** Best first. */
	readonly candidates: readonly DialectCandidate[];
}

/** Of dialects that read a stream equally well, the first is taken. */
const ORDER: readonly Dialect[] = ['qemu-7.2', 'qemu-9', 'sev-v4', 'mh-v2', 'sev-v1', 'sev-list', 'mh-v1'];

/**
 * Finds out which dialect a stream is written in by reading it in all of them at once: the flag 0x200 means five things,
 * and what follows it fits, with few exceptions, only one. Push until it returns true, or as much as one likes.
 */
export class DialectProbe {
	#kind: StreamKind | undefined;
	#other: Detection['other'];
	#head: Uint8Array = new Uint8Array(0);
	#candidates: readonly Candidate[] = [];
	#bytes = 0;
	#ended = false;

	/** `kind`: what the connection carries, if known. */
	constructor(kind?: StreamKind) {
		if (kind !== undefined) this.#start(kind);
	}

	/** Reads a chunk, which may be reused afterwards. True: more would not change the result. */
	push(chunk: Uint8Array): boolean {
		this.#bytes += chunk.length;
		if (this.#candidates.length > 0) this.#read(chunk);
		else if (this.#other === undefined) this.#readHead(chunk);
		return this.#other !== undefined || this.#certain();
	}

	/** The input is over. */
	end(): Detection {
		if (this.#candidates.length === 0 && this.#other === undefined) this.#classify(this.#head);
		this.#ended = true;
		for (const candidate of this.#candidates) candidate.end();
		// Where one dialect reads to the end, those that want more bytes are wrong.
		if (this.#candidates.some(({ state }) => state === 'whole')) {
			for (const candidate of this.#candidates) candidate.refuteIfCut();
		}
		return this.result();
	}

	/** What was found so far. */
	result(): Detection {
		const ranked = [...this.#candidates].sort(
			(a, b) => b.rank - a.rank || b.reached - a.reached || ORDER.indexOf(a.dialect) - ORDER.indexOf(b.dialect),
		);
		const candidates = ranked.map(({ dialect, verdict, reached, evidence }) => ({
			dialect,
			verdict,
			reached,
			evidence,
		}));
		const first = candidates[0];
		const best = first === undefined || first.reached === 0 ? undefined : first.dialect;
		const certain = this.#certain();
		return { best, certain, stream: this.#kind, other: this.#other, bytes: this.#bytes, candidates };
	}

	#readHead(chunk: Uint8Array): void {
		const head = new Uint8Array(this.#head.length + chunk.length);
		head.set(this.#head);
		head.set(chunk, this.#head.length);
		this.#head = head;
		if (head.length < HEAD_BYTES) return;
		this.#head = new Uint8Array(0);
		this.#classify(head);
	}

	#classify(head: Uint8Array): void {
		const found = classify(head);
		if (found === 'multifd' || found === 'libvirt-save') this.#other = found;
		else this.#start(found, head);
	}

	#start(kind: StreamKind, head?: Uint8Array): void {
		this.#kind = kind;
		this.#candidates = ORDER.map((dialect) => new Candidate(dialect, kind));
		if (head !== undefined) this.#read(head);
	}

	#read(chunk: Uint8Array): void {
		for (const candidate of this.#candidates) candidate.push(chunk);
	}

	#certain(): boolean {
		const live = this.#candidates.filter(({ state }) => state !== 'refuted');
		if (live.length === 1) return true;
		if (live.length === 0) return false;
		const over = this.#ended || live.every(({ state }) => state === 'whole');
		return over && live.every(({ signature }) => signature === live[0]?.signature);
	}
}

/**
 * Reads a stream, or its first `limit` bytes, and tells in which dialect it is written and why. Memory does not depend on
 * its length.
 */
export async function detectDialect(
	source: Uint8Array | ByteSource,
	{ limit = Number.POSITIVE_INFINITY, stream }: { readonly limit?: number; readonly stream?: StreamKind } = {},
): Promise<Detection> {
	const probe = new DialectProbe(stream);
	let left = limit;
	for await (const chunk of chunksOf(source instanceof Uint8Array ? [source] : source)) {
		if (probe.push(chunk.subarray(0, left))) return probe.result();
		left -= chunk.length;
		if (left <= 0) return probe.result();
	}
	return probe.end();
}
