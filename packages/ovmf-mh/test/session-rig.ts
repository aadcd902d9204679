import { type CryptoProvider, type RandomSource, seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { bytes, guidToBytes, layout, PAGE_SIZE, u32 } from '@cvm/layout';
import { BATCH_PAGES, type GpaRange, HelperGeometry, streamOfFrame } from '../src/geometry.js';
import { SECRET_AREA } from '../src/image/image.js';
import { HelperCommand, HelperPhase, HelperStatus, helperReport, statusName } from '../src/mailbox/abi.js';
import { createHelperCore } from '../src/session/core.js';
import type { HelperCore, HelperMemory, HelperPlatform } from '../src/session/ports.js';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID } from '../src/session/secret.js';
import { STATE_BYTES } from '../src/session/state.js';
import { MAX_RECORD_HEADER } from '../src/session/wire.js';

const MIB = 2 ** 20;

/** Private memory of a guest: pages that were written, by frame; all others are zeros. */
export class SparseMemory implements HelperMemory {
	readonly pages = new Map<number, Uint8Array>();
	readonly ram: readonly GpaRange[];

	constructor(ram: readonly GpaRange[]) {
		this.ram = ram;
	}

	/** An independent copy. */
	clone(): SparseMemory {
		const copy = new SparseMemory(this.ram);
		for (const [frame, page] of this.pages) copy.pages.set(frame, page.slice());
		return copy;
	}

	/** Everything goes back to what `other` holds now. */
	assign(other: SparseMemory): void {
		this.pages.clear();
		for (const [frame, page] of other.pages) this.pages.set(frame, page.slice());
	}

	read(gpa: number, out: Uint8Array): void {
		this.each(gpa, out.length, (page, at, from, length) => {
			if (page === undefined) out.fill(0, from, from + length);
			else out.set(page.subarray(at, at + length), from);
		});
	}

	write(gpa: number, data: Uint8Array): void {
		for (let from = 0; from < data.length; ) {
			const frame = Math.floor((gpa + from) / PAGE_SIZE);
			const at = (gpa + from) % PAGE_SIZE;
			const length = Math.min(PAGE_SIZE - at, data.length - from);
			const part = data.subarray(from, from + length);
			from += length;
			let page = this.pages.get(frame);
			if (page === undefined) {
				// A wipe of pages that nobody wrote takes no room.
				if (part.every((byte) => byte === 0)) continue;
				page = new Uint8Array(PAGE_SIZE);
				this.pages.set(frame, page);
			}
			page.set(part, at);
		}
	}

	exchange(gpa: number, value: number): number {
		const word = new Uint8Array(4);
		const view = new DataView(word.buffer);
		this.read(gpa, word);
		const old = view.getUint32(0, true);
		view.setUint32(0, value, true);
		this.write(gpa, word);
		return old;
	}

	/** Frames whose content differs from that of `other`. */
	differences(other: SparseMemory): number[] {
		const frames = new Set([...this.pages.keys(), ...other.pages.keys()]);
		const zero = new Uint8Array(PAGE_SIZE);
		const at = (memory: SparseMemory, frame: number) => memory.pages.get(frame) ?? zero;
		return [...frames].filter((frame) => Buffer.compare(at(this, frame), at(other, frame)) !== 0);
	}

	/** Where `needle` occurs: guest-physical addresses, also across pages. */
	find(needle: Uint8Array): number[] {
		const found: number[] = [];
		const window = new Uint8Array(PAGE_SIZE + needle.length - 1);
		for (const frame of this.pages.keys()) {
			this.read(frame * PAGE_SIZE, window);
			const hay = Buffer.from(window.buffer);
			const at = hay.indexOf(needle);
			if (at >= 0) found.push(frame * PAGE_SIZE + at);
		}
		return found;
	}

	private each(
		gpa: number,
		bytes: number,
		visit: (page: Uint8Array | undefined, at: number, from: number, length: number) => void,
	): void {
		for (let from = 0; from < bytes; ) {
			const at = (gpa + from) % PAGE_SIZE;
			const length = Math.min(PAGE_SIZE - at, bytes - from);
			visit(this.pages.get(Math.floor((gpa + from) / PAGE_SIZE)), at, from, length);
			from += length;
		}
	}
}

const secretHeader = layout('secret_header', 20, { guid: bytes(0, 16), length: u32(16) });
const TABLE_GUID = '1e74f542-71dd-4d66-963e-ef4287ff173b';

/** A secret table with these entries, as the owner packs it. */
export function secretTable(entries: readonly { readonly guid: string; readonly data: Uint8Array }[]): Uint8Array {
	const parts = entries.map(({ guid, data }) => [
		...secretHeader.encode({ guid: guidToBytes(guid), length: 20 + data.length }),
		...data,
	]);
	const body = parts.flat();
	return Uint8Array.from([
		...secretHeader.encode({ guid: guidToBytes(TABLE_GUID), length: 20 + body.length }),
		...body,
	]);
}

export const GUEST_ID = Uint8Array.from({ length: 16 }, (_, i) => 0xa0 + i);
export const GUEST_SECRET = Uint8Array.from({ length: 32 }, (_, i) => 0x11 * ((i % 15) + 1));

/** What a guest of a rig may differ in. */
export interface SideOptions
	extends Partial<Pick<HelperPlatform, 'provider' | 'random' | 'versions' | 'capabilities'>> {
	/** Default 0 … 32 MiB. */
	readonly ram?: readonly GpaRange[];
	/** Addresses of save areas, for SEV-ES. */
	readonly saveAreas?: readonly number[];
	/** The secret area's content; default: a table with the migration secret of `GUEST_ID`. */
	readonly secretArea?: Uint8Array;
	/** Oldest version that the owner allows. */
	readonly minVersion?: number;
}

/** What came of a command that may have been sliced. */
export interface Answer {
	readonly status: number;
	readonly output: Uint8Array;
	readonly slices: number;
}

/** One record on the wire. */
export interface WireRecord {
	readonly stream: number;
	readonly gpas: readonly number[];
	readonly header: Uint8Array;
	readonly bodies: Uint8Array;
}

/** A guest with its helper, and a host that does as it is told. */
export class Side {
	readonly memory: SparseMemory;
	readonly core: HelperCore;
	readonly platform: HelperPlatform;

	constructor(role: 'idle' | 'empty', options: SideOptions = {}, memory?: SparseMemory) {
		this.memory = memory ?? new SparseMemory(options.ram ?? [{ start: 0, end: 32 * MIB }]);
		this.platform = {
			memory: this.memory,
			provider: options.provider ?? nodeProvider,
			random: options.random ?? seededRandom(role, nodeProvider),
			saveAreas: options.saveAreas ?? [],
			...(options.versions && { versions: options.versions }),
			...(options.capabilities !== undefined && { capabilities: options.capabilities }),
		};
		this.core = createHelperCore(this.platform);
		if (memory !== undefined) return;
		const secret = encodeMigrationSecret(GUEST_ID, GUEST_SECRET, options.minVersion);
		const table = options.secretArea ?? secretTable([{ guid: MIGRATION_SECRET_GUID, data: secret }]);
		this.memory.write(SECRET_AREA.base, table);
		this.core.install(role);
	}

	/** Another guest with the same memory from here on; same provider and generator. */
	clone(): Side {
		const { provider, random, saveAreas, versions, capabilities } = this.platform;
		const options = {
			...{ provider, random, saveAreas },
			...(versions && { versions }),
			...(capabilities !== undefined && { capabilities }),
		};
		return new Side('idle', options, this.memory.clone());
	}

	/** A command, called again while there is more to do. */
	command(name: keyof typeof HelperCommand, input: Uint8Array = new Uint8Array(), argument = 0, stream = 0): Answer {
		let result = this.core.control(HelperCommand[name], input, argument, stream);
		let slices = 1;
		while (result.more) {
			result = this.core.control(HelperCommand[name], new Uint8Array(), argument, stream);
			slices++;
		}
		return { status: result.status, output: result.output, slices };
	}

	/** A command that succeeds. @throws Error with the status' name if it does not */
	must(name: keyof typeof HelperCommand, input?: Uint8Array, argument?: number, stream?: number): Uint8Array {
		const { status, output } = this.command(name, input, argument, stream);
		if (status !== HelperStatus.success) throw new Error(`${name}: expected success, got ${statusName(status)}`);
		return output;
	}

	get report() {
		return helperReport.decode(this.must('query'));
	}

	get phase(): keyof typeof HelperPhase {
		const { phase } = this.report;
		const name = Object.entries(HelperPhase).find(([, value]) => value === phase)?.[0];
		if (name === undefined) throw new Error(`phase: expected a known one, got ${phase}`);
		return name as keyof typeof HelperPhase;
	}

	/** 0 open, 1 closed. */
	get gate(): number {
		const word = new Uint8Array(4);
		this.memory.read(HelperGeometry.gate, word);
		return new DataView(word.buffer).getUint32(0, true);
	}

	/** The bytes of the state page, keys and all. */
	get stateBytes(): Uint8Array {
		const out = new Uint8Array(STATE_BYTES);
		this.memory.read(HelperGeometry.state, out);
		return out;
	}

	/** Fills a page with a byte. */
	fill(gpa: number, byte: number): void {
		this.memory.write(gpa, new Uint8Array(PAGE_SIZE).fill(byte));
	}

	/** The first byte of a page. */
	first(gpa: number): number {
		const out = new Uint8Array(1);
		this.memory.read(gpa, out);
		return out[0] ?? 0;
	}

	/** The guest's own record: shares a page, or takes it back. */
	share(gpa: number, shared: boolean): void {
		const frame = gpa / PAGE_SIZE;
		const byte = new Uint8Array(1);
		this.memory.read(HelperGeometry.sharedMap + (frame >>> 3), byte);
		const bit = 1 << (frame & 7);
		byte[0] = shared ? (byte[0] ?? 0) | bit : (byte[0] ?? 0) & ~bit;
		this.memory.write(HelperGeometry.sharedMap + (frame >>> 3), byte);
	}

	/** Seals one batch. */
	seal(gpas: readonly number[], stream = 0): { status: number; detail: number; record: WireRecord } {
		const header = new Uint8Array(MAX_RECORD_HEADER);
		const bodies = new Uint8Array(BATCH_PAGES * PAGE_SIZE);
		const result = this.core.seal(stream, Float64Array.from(gpas), gpas.length, { header, bodies });
		const { status, detail } = result;
		const sealed = { header: header.slice(0, result.headerLength), bodies: bodies.slice(0, result.bodies * PAGE_SIZE) };
		return { status, detail, record: { stream, gpas, ...sealed } };
	}

	/** Opens one batch. */
	open({ stream, gpas, header, bodies }: WireRecord): { readonly status: number; readonly detail: number } {
		return this.core.open(stream, Float64Array.from(gpas), gpas.length, header.slice(), bodies.slice());
	}
}

/** Up to `receiving` on the target and `sending` on the source. */
export function handshake(source: Side, target: Side, streams = 1): void {
	const accept = target.must('accept', source.must('hello', undefined, streams));
	target.must('establish', source.must('confirm', accept));
}

/** Batches that keep the rule "each frame belongs to one stream". */
function batches(gpas: readonly number[], streams: number): { stream: number; gpas: number[] }[] {
	const out: { stream: number; gpas: number[] }[] = [];
	for (let stream = 0; stream < streams; stream++) {
		const own = gpas.filter((gpa) => streamOfFrame(gpa / PAGE_SIZE, streams) === stream);
		for (let at = 0; at < own.length; at += BATCH_PAGES) out.push({ stream, gpas: own.slice(at, at + BATCH_PAGES) });
	}
	return out;
}

/** Seals pages and opens them at the other side. @throws Error if either refuses */
export function move(source: Side, target: Side, gpas: readonly number[], streams = 1): void {
	for (const batch of batches(gpas, streams)) {
		const { status, record } = source.seal(batch.gpas, batch.stream);
		if (status !== HelperStatus.success) throw new Error(`seal: expected success, got ${statusName(status)}`);
		const opened = target.open(record);
		if (opened.status !== HelperStatus.success)
			throw new Error(`open: expected success, got ${statusName(opened.status)}`);
	}
}

/** From `frozen` to `verified`. @returns READY */
export function prove(source: Side, target: Side, streams = 1): Uint8Array {
	for (let s = 0; s < streams; s++) source.must('digest', undefined, undefined, s);
	for (const vcpu of source.platform.saveAreas.keys()) {
		target.must('restoreVcpu', source.must('saveVcpu', undefined, vcpu), vcpu);
	}
	target.must('verify', source.must('manifest'));
	for (let s = 0; s < streams; s++) target.must('digest', undefined, undefined, s);
	return target.must('verify');
}

/** READY to `retired` here and `idle` there. */
export function handOver(source: Side, target: Side, ready: Uint8Array): void {
	source.must('retire', target.must('run', source.must('start', ready)));
}

export const freshRandom = (label: string, provider: CryptoProvider = nodeProvider): RandomSource =>
	seededRandom(label, provider);
