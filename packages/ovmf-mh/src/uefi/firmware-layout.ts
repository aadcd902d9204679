import { PAGE_SIZE } from '@cvm/layout';
import { type GpaRange, HandlerAllocations, HelperGeometry } from '../geometry.js';
import { HANDLER_HOBS } from './hob.js';
import { type Allocation, EfiMemoryType } from './memory-map.js';

/** Which handler a firmware has, and where that of 2021 got its pages. */
export interface LayoutOptions {
	readonly helper: 'none' | 'rfc-2021' | 'hardened';
	/** Default: {@link HandlerAllocations}. */
	readonly places?: { readonly pageTablePool: number; readonly stack: number };
	/** MEMFD, which the firmware keeps whole. */
	readonly firmware: GpaRange;
}

/**
 * What a firmware with a handler allocates, in the order in which it does: HOBs of PEI first, then the driver's stack, page tables and
 * data (edk2 branch sev-mirror2-patches, SetupMigrationHandler). PROJECT: the firmware keeps the whole of MEMFD, as Reserved; what
 * the handler has in it is RuntimeServicesData, as posted.
 */
export function firmwareAllocations({ helper, places = HandlerAllocations, firmware }: LayoutOptions): Allocation[] {
	const { reserved, runtimeServicesData } = EfiMemoryType;
	const runtime = (name: string, start: number, bytes: number): Allocation => ({
		name,
		start,
		bytes,
		type: runtimeServicesData,
	});
	const memfd = { name: 'MEMFD', start: firmware.start, bytes: firmware.end - firmware.start, type: reserved };
	if (helper === 'none') return [memfd];
	if (helper === 'rfc-2021') {
		const { stackBytes, pageTablePoolBytes, dataBytes, data } = HandlerAllocations;
		return [
			memfd,
			...HANDLER_HOBS,
			runtime('stack', places.stack, stackBytes),
			runtime('page tables', places.pageTablePool, pageTablePoolBytes),
			runtime('data', data, dataBytes),
		];
	}
	const { private: start, privateEnd, windows, windowsEnd } = HelperGeometry;
	return [
		memfd,
		...HANDLER_HOBS,
		runtime('helper', start, privateEnd - start),
		runtime('windows', windows, windowsEnd - windows),
	];
}

/** What two machines must have in common for a handler to survive the guest that it receives. */
export interface FirmwareLayout {
	/** Names the firmware build: its measurement, or a digest of its image. */
	readonly build: string;
	readonly ram: readonly GpaRange[];
	/** In the order of their allocation. */
	readonly allocations: readonly Allocation[];
}

const hex = (n: number): string => `0x${n.toString(16)}`;
const describeRange = ({ start, end }: GpaRange): string => `${hex(start)} to ${hex(end)}`;
const describe = ({ name, start, bytes, type }: Allocation): string =>
	`${name} at ${hex(start)}, ${bytes / PAGE_SIZE} pages of type ${type}`;

/**
 * Compares the memory of two firmwares and names the first difference; `undefined` if there is none.
 *
 * The target's RAM is overwritten by the source's while the target's handler works in it. As posted it lives in that RAM, and so both
 * must be the identical build with the same RAM and the same order of allocations: then code, tables, stack and entry page are
 * replaced by the same (resume-from-edk2-tooling, COMPLICATIONS: what is used on the target must be memory that the source's firmware
 * kept reserved).
 */
export function firstLayoutDifference(source: FirmwareLayout, target: FirmwareLayout): string | undefined {
	if (source.build !== target.build) return `firmware build: expected ${source.build}, got ${target.build}`;
	const list = (what: string, expected: readonly string[], got: readonly string[]): string | undefined => {
		const i = expected.findIndex((text, at) => text !== got[at]);
		const at = i >= 0 ? i : got.length > expected.length ? expected.length : -1;
		return at < 0 ? undefined : `${what} ${at}: expected ${expected[at] ?? 'none'}, got ${got[at] ?? 'none'}`;
	};
	return (
		list('RAM range', source.ram.map(describeRange), target.ram.map(describeRange)) ??
		list('allocation', source.allocations.map(describe), target.allocations.map(describe))
	);
}

/** Two machines between which the handler of 2021 would be destroyed in mid-migration. */
export class LayoutMismatch extends Error {
	override readonly name = 'LayoutMismatch';
}

/** @throws LayoutMismatch with the first difference */
export function assertSameLayout(source: FirmwareLayout, target: FirmwareLayout): void {
	const difference = firstLayoutDifference(source, target);
	if (difference !== undefined) throw new LayoutMismatch(difference);
}
