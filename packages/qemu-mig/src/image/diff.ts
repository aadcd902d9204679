import { PAGE_SIZE } from '@cvm/layout';
import type { DeviceDifference } from '../device/diff.js';
import { diffDevices } from '../device/diff.js';
import type { DeviceTree } from '../device/tree.js';
import type { ImageBlock, StreamImage } from './content.js';
import type { DecodedDevice } from './devices.js';
import { deviceTrees } from './devices.js';
import type { PageKind } from './page-kind.js';
import { isMissing, isSealed, isZeroKind } from './page-kind.js';
import { sealedHeader, storeOf } from './pages.js';

/** Why pages differ. */
export type PageDifferenceReason =
	| 'content'
	/** Both are ciphertext and not the same, which says nothing about the plain text; or only one is ciphertext. */
	| 'encrypted'
	/** One image has no content for them. */
	| 'missing';

/** Bytes of a block that differ, in whole pages. */
export interface PageRange {
	readonly block: string;
	readonly start: number;
	/** First byte after them. */
	readonly end: number;
	readonly reason: PageDifferenceReason;
}

/** A device whose bodies differ, and no description tells where. */
export interface BodyDifference {
	readonly idstr: string;
	readonly instanceId: number;
	/** First byte that differs; absent where only one image has the device. */
	readonly at?: number;
	/** Bytes in each. */
	readonly a?: number;
	readonly b?: number;
}

/** Where two images differ. */
export interface ImageDiff {
	readonly equal: boolean;
	/** Machine types, if they differ. */
	readonly machine?: readonly [a: string | undefined, b: string | undefined];
	/** Blocks that only one has, or of other length: bytes in each. */
	readonly blocks: readonly { readonly idstr: string; readonly a?: number; readonly b?: number }[];
	readonly pages: readonly PageRange[];
	/** Pages that differ, those of ranges beyond the limit included. */
	readonly differingPages: number;
	/** Ranges beyond the limit. */
	readonly moreRanges: number;
	readonly devices: readonly DeviceDifference[];
	readonly bodies: readonly BodyDifference[];
}

/** Options of {@link diffImages}. */
export interface ImageDiffOptions {
	/** Ranges and fields returned at most, each. Default 10000. */
	readonly limit?: number;
}

/** Compares what two streams say, whatever their encodings. @throws ImageError `store` unless both have page contents */
export function diffImages(a: StreamImage, b: StreamImage, { limit = 10_000 }: ImageDiffOptions = {}): ImageDiff {
	const [machineA, machineB] = [a.configuration?.machineType, b.configuration?.machineType];
	const blocks = blockDifferences(a, b);
	const collector = new RangeCollector(limit);
	for (const block of a.blocks) {
		const other = b.blocks.find(({ idstr }) => idstr === block.idstr);
		if (other !== undefined) comparePages(a, block, b, other, collector);
	}
	const { devices, bodies } = deviceDifferences(a, b, limit);
	const machine = machineA === machineB ? undefined : ([machineA, machineB] as const);
	const equal = [blocks, collector.ranges, devices, bodies].every(({ length }) => length === 0);
	return {
		equal: equal && machine === undefined,
		...(machine === undefined ? {} : { machine }),
		blocks,
		pages: collector.ranges,
		differingPages: collector.pages,
		moreRanges: collector.more,
		devices,
		bodies,
	};
}

function blockDifferences(a: StreamImage, b: StreamImage): ImageDiff['blocks'] {
	const names = new Set([...a.blocks, ...b.blocks].map(({ idstr }) => idstr));
	const length = (image: StreamImage, name: string): number | undefined =>
		image.blocks.find(({ idstr }) => idstr === name)?.usedLength;
	return [...names].flatMap((idstr) => {
		const [left, right] = [length(a, idstr), length(b, idstr)];
		if (left === right) return [];
		return [{ idstr, ...(left === undefined ? {} : { a: left }), ...(right === undefined ? {} : { b: right }) }];
	});
}

/** Joins pages that follow one another. */
class RangeCollector {
	readonly ranges: PageRange[] = [];
	pages = 0;
	more = 0;
	readonly #limit: number;
	#last: { block: string; start: number; end: number; reason: PageDifferenceReason } | undefined;

	constructor(limit: number) {
		this.#limit = limit;
	}

	add(block: string, page: number, reason: PageDifferenceReason, pages = 1): void {
		this.pages += pages;
		const start = page * PAGE_SIZE;
		const last = this.#last;
		if (last?.block === block && last.end === start && last.reason === reason) {
			last.end += pages * PAGE_SIZE;
			return;
		}
		this.#last = { block, start, end: start + pages * PAGE_SIZE, reason };
		if (this.ranges.length < this.#limit) this.ranges.push(this.#last);
		else this.more += 1;
	}
}

function comparePages(
	imageA: StreamImage,
	a: ImageBlock,
	imageB: StreamImage,
	b: ImageBlock,
	collector: RangeCollector,
): void {
	const [storeA, storeB] = [storeOf(imageA), storeOf(imageB)];
	const [left, right] = [new Uint8Array(PAGE_SIZE), new Uint8Array(PAGE_SIZE)];
	for (const { kindA, kindB, start, end } of commonRuns(a, b)) {
		if (isMissing(kindA) !== isMissing(kindB)) collector.add(a.idstr, start, 'missing', end - start);
		if (isMissing(kindA) || isMissing(kindB) || (isZeroKind(kindA) && isZeroKind(kindB))) continue;
		const sealed = isSealed(kindA) || isSealed(kindB);
		for (let page = start; page < end; page++) {
			storeA.read(a.index, page * PAGE_SIZE, left);
			storeB.read(b.index, page * PAGE_SIZE, right);
			if (firstDifference(left, right) >= 0 || kindOfSeal(kindA) !== kindOfSeal(kindB)) {
				collector.add(a.idstr, page, sealed ? 'encrypted' : 'content');
			} else if (sealed && firstDifference(sealedHeader(imageA, a, page), sealedHeader(imageB, b, page)) >= 0) {
				collector.add(a.idstr, page, 'encrypted');
			}
		}
	}
}

/** Stretches of pages that are of one kind in each of two blocks, as far as both go. */
function* commonRuns(
	a: ImageBlock,
	b: ImageBlock,
): Generator<{ kindA: PageKind; kindB: PageKind; start: number; end: number }, void, void> {
	const others = b.facts.runs()[Symbol.iterator]();
	let other = others.next();
	for (const run of a.facts.runs()) {
		for (let start = run.start; start < run.end && other.done !== true; ) {
			const end = Math.min(run.end, other.value.end);
			if (end > start) yield { kindA: run.kind, kindB: other.value.kind, start, end };
			start = end;
			if (other.value.end === end) other = others.next();
		}
	}
}

const kindOfSeal = (kind: Parameters<typeof isSealed>[0]): number => (isSealed(kind) ? kind : 0);

/** Index of the first byte that differs; -1 if none does. */
function firstDifference(a: Uint8Array, b: Uint8Array): number {
	const common = Math.min(a.length, b.length);
	for (let i = 0; i < common; i++) if (a[i] !== b[i]) return i;
	return a.length === b.length ? -1 : common;
}

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => firstDifference(a, b) < 0;

function deviceDifferences(
	a: StreamImage,
	b: StreamImage,
	limit: number,
): { devices: DeviceDifference[]; bodies: BodyDifference[] } {
	const [left, right] = [keyed(a), keyed(b)];
	const trees: [DeviceTree[], DeviceTree[]] = [[], []];
	const bodies: BodyDifference[] = [];
	for (const key of new Set([...left.keys(), ...right.keys()])) {
		const [one, other] = [left.get(key), right.get(key)];
		// Bytes that are the same say the same: what names them does not count.
		if (one !== undefined && other !== undefined && sameBytes(one.device.body, other.device.body)) continue;
		if (one?.tree !== undefined && other?.tree !== undefined) {
			trees[0].push(one.tree);
			trees[1].push(other.tree);
			continue;
		}
		const difference = bodyDifference(one, other);
		if (difference !== undefined && bodies.length < limit) bodies.push(difference);
	}
	return { devices: diffDevices(trees[0], trees[1], { limit }), bodies };
}

const keyed = (image: StreamImage): Map<string, DecodedDevice> =>
	new Map(deviceTrees(image).map((one) => [`${one.device.section.instanceId} ${one.device.section.idstr}`, one]));

function bodyDifference(a: DecodedDevice | undefined, b: DecodedDevice | undefined): BodyDifference | undefined {
	const section = (a ?? b)?.device.section;
	if (section === undefined) return undefined;
	const { idstr, instanceId } = section;
	const [left, right] = [a?.device.body, b?.device.body];
	if (left !== undefined && right !== undefined) {
		const at = firstDifference(left, right);
		return at < 0 ? undefined : { idstr, instanceId, at, a: left.length, b: right.length };
	}
	return {
		idstr,
		instanceId,
		...(left === undefined ? {} : { a: left.length }),
		...(right === undefined ? {} : { b: right.length }),
	};
}
