import { PAGE_SIZE } from '@cvm/layout';
import { HANDOVER_CAPABILITY, MAPPED_RAM_CAPABILITY, RegionListWord } from '../abi/stream.js';
import type { DialectRules } from '../dialect.js';
import type { BitmapSlot, Configuration, ConfigurationSubsection } from '../events.js';
import { nameInto } from '../latin1.js';
import type { SharedRegion } from '../ports.js';
import { capabilitiesOf } from '../read/configuration.js';
import type { PageStatus } from './content.js';
import { ImageError } from './error.js';

const CAPABILITIES = 'configuration/capabilities';
/** Entries of a host-order list: a page of them. AMDESE/qemu `build33`. */
const MAX_HOST_REGIONS = 256;

/** A configuration for another encoding: the capability `mapped-ram` as told, our hand-over, which is a protocol, off. */
export function convertConfiguration(configuration: Configuration, mapped: boolean): Configuration {
	const before = capabilitiesOf(configuration);
	const kept = before.filter((name) => name !== MAPPED_RAM_CAPABILITY && name !== HANDOVER_CAPABILITY);
	const names = mapped ? [...kept, MAPPED_RAM_CAPABILITY] : kept;
	if (names.length === before.length && names.every((name) => before.includes(name))) return configuration;
	const subsections = configuration.subsections.filter(({ name }) => name !== CAPABILITIES);
	if (names.length > 0) {
		// QEMU expects its subsections in order: page bits, capabilities, uuid.
		const at = subsections.findIndex(({ name }) => name === 'configuration/uuid');
		subsections.splice(at < 0 ? subsections.length : at, 0, capabilities(names));
	}
	return { machineType: configuration.machineType, subsections };
}

/** be32 count and as many cstr8. */
function capabilities(names: readonly string[]): ConfigurationSubsection {
	const data = new Uint8Array(names.reduce((sum, name) => sum + 1 + name.length, 4));
	new DataView(data.buffer).setUint32(0, names.length);
	let at = 4;
	for (const name of names) {
		data[at] = name.length;
		at = nameInto(data, at + 1, name);
	}
	return { name: CAPABILITIES, version: 1, data };
}

/** The list of shared pages in the form of another dialect. @throws ImageError `dialect` if it has no such form */
export function convertStatus(status: PageStatus, to: DialectRules['pageStatus']): PageStatus {
	if (status.kind === to) return status;
	const { offset } = status;
	if (to === 'regions') {
		return { kind: 'regions', regions: narrow(wideRegions(status)), terminator: RegionListWord.end, offset };
	}
	if (to === 'host-regions') {
		const regions = wideRegions(status);
		if (regions.length > MAX_HOST_REGIONS) {
			throw new ImageError(
				'dialect',
				`regions: expected at most ${MAX_HOST_REGIONS} for sev-list, got ${regions.length}`,
			);
		}
		return { kind: 'host-regions', list: { start: RegionListWord.entry, regions, end: RegionListWord.end }, offset };
	}
	const target = to === undefined ? 'a dialect without one' : 'a bitmap, which needs the memory slots of the VM';
	throw new ImageError('dialect', `page status: expected a list for a list, got ${target}`);
}

interface WideRegion {
	readonly gfnStart: bigint;
	readonly gfnEnd: bigint;
}

function wideRegions(status: PageStatus): WideRegion[] {
	if (status.kind === 'host-regions') return [...status.list.regions];
	if (status.kind === 'bitmap') return status.slots.flatMap(sharedRuns);
	return status.regions.map(({ gfnStart, gfnEnd }) => ({ gfnStart: BigInt(gfnStart), gfnEnd: BigInt(gfnEnd) }));
}

/** Runs of pages that are not encrypted: their bits are clear. */
function sharedRuns({ startGpa, pages, bitmap }: BitmapSlot): WideRegion[] {
	const runs: WideRegion[] = [];
	const first = startGpa / BigInt(PAGE_SIZE);
	const count = Math.min(Number(pages), bitmap.length * 8);
	let start = -1;
	for (let page = 0; page <= count; page++) {
		const shared = page < count && ((bitmap[page >> 3] ?? 0) & (1 << (page & 7))) === 0;
		if (shared && start < 0) start = page;
		if (shared || start < 0) continue;
		runs.push({ gfnStart: first + BigInt(start), gfnEnd: first + BigInt(page) });
		start = -1;
	}
	return runs;
}

const narrow = (regions: readonly WideRegion[]): SharedRegion[] =>
	regions.map(({ gfnStart, gfnEnd }) => {
		if (gfnStart > 0xffffffffn || gfnEnd > 0xffffffffn) {
			throw new ImageError('dialect', `regions: expected frame numbers of 32 bits, got 0x${gfnEnd.toString(16)}`);
		}
		return { gfnStart: Number(gfnStart), gfnEnd: Number(gfnEnd) };
	});
