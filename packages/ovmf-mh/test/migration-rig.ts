import { type CryptoProvider, type SeededRandom, seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { PAGE_SIZE } from '@cvm/layout';
import { type GpaRange, HelperGeometry, helperRanges, streamOfFrame } from '../src/geometry.js';
import { SECRET_AREA } from '../src/image/image.js';
import { HelperCommand, HelperPhase, HelperStatus, helperReport, statusName } from '../src/mailbox/abi.js';
import { createHelperCore } from '../src/session/index.js';
import type { HelperCore, HelperPlatform } from '../src/session/ports.js';
import { secretPage } from './owner-secret.js';
import { SparseMemory } from './session-rig.js';

/** A record as hosts carry it: what is on the wire, and the addresses that the host says it is for. */
export interface HelperRecord {
	readonly stream: number;
	readonly gpas: readonly number[];
	readonly header: Uint8Array;
	readonly bodies: Uint8Array;
}

/** A refusal, by its name. */
export class Refused extends Error {
	override readonly name = 'Refused';
	readonly status: string;
	/** Index of the page at fault. */
	readonly detail: number;

	constructor(command: string, status: string, detail = 0) {
		super(`${command}: expected success, got ${status}`);
		this.status = status;
		this.detail = detail;
	}
}

export interface SideOptions {
	readonly name: string;
	readonly role: 'idle' | 'empty';
	readonly ram: readonly GpaRange[];
	readonly provider?: CryptoProvider;
	readonly random?: SeededRandom;
	/** Which owner's secret, and which guest's; equal names, equal bytes. */
	readonly owner?: string;
	readonly guest?: string;
	readonly minVersion?: number;
	readonly saveAreas?: readonly number[];
	readonly versions?: NonNullable<HelperPlatform['versions']>;
	readonly capabilities?: number;
}

/** One guest with its helper, as hosts reach it: commands by name. Refusals are thrown as {@link Refused}. */
export class Side {
	readonly options: SideOptions;
	readonly memory: SparseMemory;
	readonly core: HelperCore;

	constructor(options: SideOptions) {
		this.options = options;
		const { name, role, ram, saveAreas = [], versions, capabilities } = options;
		const { provider = nodeProvider, random = seededRandom(`helper ${name}`) } = options;
		this.memory = new SparseMemory(ram);
		this.memory.write(SECRET_AREA.base, secretPage(options));
		this.core = createHelperCore({
			memory: this.memory,
			provider,
			random,
			saveAreas,
			...(versions && { versions }),
			...(capabilities !== undefined && { capabilities }),
		});
		this.core.install(role);
	}

	/** The output of a control command, all its slices. */
	run(command: keyof typeof HelperCommand, input: Uint8Array = new Uint8Array(), argument = 0, stream = 0): Uint8Array {
		const { status, output } = this.try(command, input, argument, stream);
		if (status !== 'success') throw new Refused(command, status);
		return output;
	}

	try(
		command: keyof typeof HelperCommand,
		input: Uint8Array = new Uint8Array(),
		argument = 0,
		stream = 0,
	): { status: string; output: Uint8Array } {
		let result = this.core.control(HelperCommand[command], input.slice(), argument, stream);
		while (result.more) result = this.core.control(HelperCommand[command], new Uint8Array(), argument, stream);
		return { status: statusName(result.status), output: result.output.slice() };
	}

	save(gpas: readonly number[], stream = 0): HelperRecord {
		const header = new Uint8Array(1024);
		const bodies = new Uint8Array(gpas.length * PAGE_SIZE);
		const result = this.core.seal(stream, Float64Array.from(gpas), gpas.length, { header, bodies });
		if (result.status !== HelperStatus.success) throw new Refused('save', statusName(result.status), result.detail);
		return {
			stream,
			gpas,
			header: header.slice(0, result.headerLength),
			bodies: bodies.slice(0, result.bodies * PAGE_SIZE),
		};
	}

	restore({ gpas, header, bodies, stream }: HelperRecord): void {
		const list = Float64Array.from(gpas);
		const { status, detail } = this.core.open(stream, list, gpas.length, header.slice(), bodies.slice());
		if (status !== HelperStatus.success) throw new Refused('restore', statusName(status), detail);
	}

	get report() {
		return helperReport.decode(this.run('query'));
	}

	get phase(): string {
		const { phase } = this.report;
		return Object.entries(HelperPhase).find(([, value]) => value === phase)?.[0] ?? `phase ${phase}`;
	}

	/** The gate is open, which is all that the guest asks: its vCPUs may work. */
	get canRun(): boolean {
		const gate = new Uint8Array(4);
		this.memory.read(HelperGeometry.gate, gate);
		return gate.every((byte) => byte === 0);
	}

	/** Private memory, as the guest finds it. */
	page(gpa: number): Uint8Array {
		const page = new Uint8Array(PAGE_SIZE);
		this.memory.read(gpa, page);
		return page;
	}

	/** The guest writes, if it runs at all. */
	write(gpa: number, data: Uint8Array): boolean {
		if (!this.canRun) return false;
		this.memory.write(gpa, data);
		return true;
	}

	/** The guest changes the status of a page, in its own record. */
	setShared(gpa: number, isShared: boolean): void {
		const gfn = gpa / PAGE_SIZE;
		const at = HelperGeometry.sharedMap + Math.floor(gfn / 8);
		const byte = new Uint8Array(1);
		this.memory.read(at, byte);
		const mask = 1 << (gfn % 8);
		this.memory.write(at, Uint8Array.of(isShared ? (byte[0] ?? 0) | mask : (byte[0] ?? 0) & ~mask));
	}

	isShared(gpa: number): boolean {
		const gfn = gpa / PAGE_SIZE;
		const byte = new Uint8Array(1);
		this.memory.read(HelperGeometry.sharedMap + Math.floor(gfn / 8), byte);
		return (((byte[0] ?? 0) >> (gfn % 8)) & 1) === 1;
	}
}

/** What an attempt was answered with: the name of a status, or `success`. */
export function answer(act: () => unknown): string {
	try {
		act();
		return 'success';
	} catch (error) {
		if (error instanceof Refused) return error.status;
		throw error;
	}
}

/** A page that says which it is. */
export const filled = (value: number): Uint8Array => new Uint8Array(PAGE_SIZE).fill(value);

/** The same bytes with one bit of one of them the other way. */
export function flipped(bytes: Uint8Array, at: number, bit = 0): Uint8Array {
	const out = bytes.slice();
	out[at] = (out[at] ?? 0) ^ (1 << bit);
	return out;
}

export const contains = (hay: Uint8Array, needle: Uint8Array): boolean =>
	Buffer.from(hay.buffer, hay.byteOffset, hay.length).includes(Buffer.from(needle));

/** Every page of RAM that is not the helper's own. */
export const guestPages = (ram: readonly GpaRange[]): number[] => {
	const own = helperRanges();
	const pages: number[] = [];
	for (const { start, end } of ram) {
		for (let gpa = start; gpa < end; gpa += PAGE_SIZE) {
			if (!own.some((range) => gpa >= range.start && gpa < range.end)) pages.push(gpa);
		}
	}
	return pages;
};

export const streamOf = (gpa: number, streams: number): number => streamOfFrame(gpa / PAGE_SIZE, streams);

/** HELLO to CONFIRM between two honest hosts. */
export function shakeHands(source: Side, target: Side, streams = 1): void {
	const accept = target.run('accept', source.run('hello', new Uint8Array(), streams));
	target.run('establish', source.run('confirm', accept));
}

/** Every private page of a list, by its stream, in batches of 64. */
export function saveAll(source: Side, pages: readonly number[], streams = 1): HelperRecord[] {
	const records: HelperRecord[] = [];
	for (let stream = 0; stream < streams; stream++) {
		const own = pages.filter((gpa) => streamOf(gpa, streams) === stream && !source.isShared(gpa));
		for (let at = 0; at < own.length; at += 64) records.push(source.save(own.slice(at, at + 64), stream));
	}
	return records;
}

/** The source's MANIFEST, of a source that is frozen. */
export function makeManifest(source: Side, streams = 1): Uint8Array {
	for (let stream = 0; stream < streams; stream++) source.run('digest', undefined, 0, stream);
	return source.run('manifest');
}

/** The target's READY. */
export function takeManifest(target: Side, manifest: Uint8Array, streams = 1): Uint8Array {
	target.run('verify', manifest);
	for (let stream = 0; stream < streams; stream++) target.run('digest', undefined, 0, stream);
	return target.run('verify', manifest);
}

/** From READY to a source without memory. */
export function handOver(source: Side, target: Side, ready: Uint8Array): void {
	source.run('retire', target.run('run', source.run('start', ready)));
}

/** A whole migration of a guest that rests. */
export function migrate(source: Side, target: Side, streams = 1): HelperRecord[] {
	shakeHands(source, target, streams);
	source.run('freeze');
	const records = saveAll(source, guestPages(source.options.ram), streams);
	for (const record of records) target.restore(record);
	handOver(source, target, takeManifest(target, makeManifest(source, streams), streams));
	return records;
}
