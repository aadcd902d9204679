import { Command } from '../abi/stream.js';
import type { Dialect } from '../dialect.js';
import { DIALECTS } from '../dialect.js';
import { isStreamError } from '../error.js';
import type { Place, StreamHandler } from '../events.js';
import { capabilitiesOf } from './configuration.js';
import type { StreamKind } from './options.js';
import { StreamReader } from './reader.js';

/** Something in a stream that speaks for or against a dialect. */
export interface Evidence {
	/** Where it stands. */
	readonly offset: number;
	readonly supports: boolean;
	readonly text: string;
}

/**
 * Newest machine type that each tree knows, as major * 100 + minor: they are based on 5.0, 5.2 and 6.1.
 *
 * UNCERTAIN(qemu-devel "Confidential guest-assisted live migration" v1): its base is taken for 6.0, of its time.
 */
const NEWEST_MACHINE: Readonly<Record<Dialect, number>> = {
	'qemu-7.2': 800,
	'qemu-9': Number.POSITIVE_INFINITY,
	'sev-v1': 500,
	'sev-list': 502,
	'sev-v4': 601,
	'mh-v1': 600,
	'mh-v2': 601,
};

/** Several candidates gather the same body at once. */
const LIMITS = { deviceBody: 2 * 1024 * 1024 };

/** Thrown out of a reader that has seen all that can tell dialects apart. */
const STOP = new Error('the candidate has read enough');

/** One dialect's attempt at a stream. */
export class Candidate {
	readonly dialect: Dialect;
	readonly evidence: Evidence[] = [];
	/** `whole`: read to EOF. `given-up`: a limit of the probe was met, which says nothing. */
	state: 'reading' | 'whole' | 'cut' | 'given-up' | 'refuted' = 'reading';
	/** Equal in candidates that found the same records with flag 0x200. */
	signature = 0;
	readonly #reader: StreamReader;
	readonly #noted = new Set<string>();
	#records = 0;
	#reached = 0;
	#cut: Evidence | undefined;

	constructor(dialect: Dialect, stream: StreamKind) {
		this.dialect = dialect;
		this.#reader = new StreamReader({ dialect, stream, limits: LIMITS, handler: this.#handler() });
	}

	get verdict(): 'confirmed' | 'possible' | 'refuted' {
		if (this.state === 'refuted') return 'refuted';
		return this.#records > 0 ? 'confirmed' : 'possible';
	}

	get reached(): number {
		return this.state === 'refuted' ? this.#reached : this.#reader.offset;
	}

	/** Higher is better. */
	get rank(): number {
		if (this.state === 'refuted') return Number.NEGATIVE_INFINITY;
		const weight = this.evidence.reduce((sum, { supports }) => sum + (supports ? 1 : -1), 0);
		return this.#records > 0 ? weight + 100 : weight;
	}

	push(chunk: Uint8Array): void {
		this.#attempt(() => this.#reader.push(chunk));
	}

	/** The input is over. */
	end(): void {
		this.#attempt(() => {
			this.#reader.end();
			this.state = 'whole';
		});
	}

	/** Some other dialect reads the stream to its end. */
	refuteIfCut(): void {
		if (this.state !== 'cut' || this.#cut === undefined) return;
		this.#refute(this.#cut);
	}

	#attempt(work: () => void): void {
		if (this.state !== 'reading') return;
		try {
			work();
		} catch (error) {
			if (error === STOP) {
				this.state = 'whole';
				return;
			}
			if (!isStreamError(error)) throw error;
			const evidence = { offset: error.offset, supports: false, text: error.message };
			if (error.code === 'truncated') {
				this.state = 'cut';
				this.#cut = evidence;
			} else if (error.code === 'too-large') this.state = 'given-up';
			else this.#refute(evidence);
		}
	}

	#refute(evidence: Evidence): void {
		this.#reached = evidence.offset;
		this.evidence.push(evidence);
		this.state = 'refuted';
	}

	/** Each kind of evidence counts once. */
	#note(kind: string, at: Place, supports: boolean, text: string): void {
		if (this.#noted.has(kind)) return;
		this.#noted.add(kind);
		this.evidence.push({ offset: at.offset, supports, text });
	}

	#record(kind: string, at: Place, parts: number, text: string): void {
		this.#records++;
		this.signature = (this.signature * 31 + at.offset + 7 * at.length + parts) % 0x7fffffff;
		this.#note(kind, at, true, `flag 0x200 at ${at.offset}: ${text}`);
	}

	#handler(): StreamHandler {
		return {
			configuration: (configuration, at) => {
				this.#machineType(configuration.machineType, at);
				if (!capabilitiesOf(configuration).includes('mapped-ram')) return;
				this.#note('mapped-ram', at, this.dialect === 'qemu-9', 'capability mapped-ram, of QEMU 9.0');
			},
			command: (command, _data, at) => {
				if (command !== Command.switchoverStart) return;
				const supports = DIALECTS[this.dialect].switchoverStart === true;
				this.#note('switchover', at, supports, 'command SWITCHOVER_START, of QEMU 10.0');
			},
			encryptedPage: (_block, _address, header, payload, at, prefix) => {
				const session = prefix === undefined ? '' : `session with a PDH of ${prefix.pdh.length} bytes, `;
				const text = `${session}page with a header of ${header.length} and ${payload.length} bytes`;
				this.#record('page', at, header.length, `subtype 1, ${text}`);
			},
			migrationHelperPage: (_block, _address, header, _page, at, subtype) => {
				const word = subtype === undefined ? 'no subtype' : `subtype ${subtype}`;
				this.#record('helper', at, header.length, `${word}, helper's page with a header of ${header.length} bytes`);
			},
			sharedRegions: (_block, _address, regions, _word, at) =>
				this.#record('regions', at, 0, `subtype 2, list of ${regions.length} shared regions`),
			hostRegions: (_block, _address, { regions }, at) =>
				this.#record('host-regions', at, 0, `subtype 2, list of ${regions.length} regions in host order`),
			encryptedBitmap: (_block, _address, slots, at) =>
				this.#record('bitmap', at, 0, `subtype 2, bitmaps of ${slots.length} memory slots`),
			// Read at once: they tell nothing.
			zeroPages: () => {},
			multifdFlush: (_address, at) => this.#record('flush', at, 0, 'MULTIFD_FLUSH, nothing behind it'),
			eof: (at) => {
				if (!at.packaged) throw STOP;
			},
		};
	}

	#machineType(name: string, at: Place): void {
		const match = /-(\d+)\.(\d+)$/.exec(name);
		if (match === null) return;
		const version = Number(match[1]) * 100 + Number(match[2]);
		if (version > NEWEST_MACHINE[this.dialect]) {
			this.#note('machine', at, false, `machine type ${name} is newer than the tree`);
		} else if (version > NEWEST_MACHINE['qemu-7.2']) this.#note('machine', at, true, `machine type ${name}`);
	}
}
