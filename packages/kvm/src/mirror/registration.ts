import { type Infer, layout, PAGE_SIZE, u64 } from '@cvm/layout';
import type { RamMap } from './ram-map.js';
import {
	type MirrorStrategy,
	type MirrorWindow,
	type PhysicalLimits,
	ramWindows,
	resolveLimits,
	windowAddresses,
	windowOver,
} from './strategy.js';

/** PROJECT: what a migration handler asks for, 24 bytes little-endian: bytes of the main VM, and where the mirror shall see them. */
export const mirrorRecord = layout('mirror_record', 24, { mainGpa: u64(0), length: u64(8), mirrorGpa: u64(16) });
/** A decoded {@link mirrorRecord}. */
export type MirrorRecord = Infer<typeof mirrorRecord>;

/** PROJECT: most records that are taken at a time. */
export const MAX_MIRROR_RECORDS = 16;

/** Why records were refused. */
export type RecordFault =
	/** Not whole records, or too many. */
	| 'size'
	/** An address or the length is no multiple of 4096. */
	| 'alignment'
	/** The length is 0. */
	| 'empty'
	/** A range wraps or ends above the physical limit. */
	| 'limit'
	/** The main range is not wholly in RAM. */
	| 'not-ram'
	/** The mirror range meets that of an earlier record. */
	| 'overlap'
	/** The mirror range meets the window of RAM addresses. */
	| 'window';

/** What a write to the migration MSR came to. */
export type RegistrationAnswer =
	/** 1, and the records are in force. */
	| { readonly kind: 'taken' }
	/** 1 again without a 0 in between: the first set stays. */
	| { readonly kind: 'kept' }
	/** 0: nothing is registered. */
	| { readonly kind: 'cleared' }
	/** Nothing changed. `record`: index of the first one that is wrong. */
	| { readonly kind: 'refused'; readonly fault: RecordFault; readonly record: number };

/** Option 2, with what the guest does to it. */
export interface RegistrationStrategy extends MirrorStrategy {
	/** Those in force. */
	readonly records: readonly MirrorRecord[];
	/** The guest wrote bit 0 of its migration MSR; `records` is what its handler left for the VMM at that moment. */
	writeMsr(isEnabled: boolean, records: Uint8Array): RegistrationAnswer;
	/** The guest was reset. */
	reset(): void;
}

/** A record after its checks, as numbers. */
interface Area {
	readonly mainGpa: number;
	readonly length: number;
	readonly mirrorGpa: number;
}

/**
 * Option 2: the migration handler registers the areas that it needs itself; the mirror sees them where the handler wants them, and
 * all of RAM at `window + ramAddr`. No slot is shared with the main VM, the memory behind the slots is. The areas are looked up
 * in the RAM map when the windows are asked for: when a migration starts. What has been unmapped since then is left out.
 *
 * @throws MirrorError `window`
 */
export function createRegistrationStrategy(map: RamMap, limits: PhysicalLimits = {}): RegistrationStrategy {
	const { window, limit } = resolveLimits(map, limits);
	let areas: readonly Area[] = [];
	let records: readonly MirrorRecord[] = [];
	let isEnabled = false;
	const clear = (): void => {
		areas = [];
		records = [];
		isEnabled = false;
	};

	const check = (record: MirrorRecord, before: readonly Area[]): Area | RecordFault => {
		const { mainGpa, length, mirrorGpa } = record;
		const page = BigInt(PAGE_SIZE);
		if ([mainGpa, length, mirrorGpa].some((n) => n % page !== 0n)) return 'alignment';
		if (length === 0n) return 'empty';
		if (mainGpa + length > BigInt(limit) || mirrorGpa + length > BigInt(limit)) return 'limit';
		const area = { mainGpa: Number(mainGpa), length: Number(length), mirrorGpa: Number(mirrorGpa) };
		if (map.split(area.mainGpa, area.length).some(({ ramAddr }) => ramAddr < 0)) return 'not-ram';
		const meets = (start: number, end: number) => area.mirrorGpa < end && start < area.mirrorGpa + area.length;
		if (before.some((other) => meets(other.mirrorGpa, other.mirrorGpa + other.length))) return 'overlap';
		return meets(window, window + map.size) ? 'window' : area;
	};

	const take = (bytes: Uint8Array): RegistrationAnswer => {
		const count = bytes.length / mirrorRecord.size;
		if (!Number.isInteger(count) || count > MAX_MIRROR_RECORDS) return { kind: 'refused', fault: 'size', record: 0 };
		const checked: Area[] = [];
		const decoded: MirrorRecord[] = [];
		for (let i = 0; i < count; i++) {
			const record = mirrorRecord.decodePrefix(bytes.subarray(i * mirrorRecord.size));
			const area = check(record, checked);
			if (typeof area === 'string') return { kind: 'refused', fault: area, record: i };
			checked.push(area);
			decoded.push(record);
		}
		areas = checked;
		records = decoded;
		isEnabled = true;
		return { kind: 'taken' };
	};

	return {
		name: 'registration',
		get records() {
			return records;
		},
		writeMsr: (enable, bytes) => {
			if (enable) return isEnabled ? { kind: 'kept' } : take(bytes);
			clear();
			return { kind: 'cleared' };
		},
		reset: clear,
		copies: () => false,
		windows: () => [...areas.flatMap((area) => windowsOf(map, area)), ...ramWindows(map, window)],
		...windowAddresses(map, window),
	};
}

/** An area may lie in several mappings and blocks: one window for each piece. */
const windowsOf = (map: RamMap, { mainGpa, length, mirrorGpa }: Area): MirrorWindow[] =>
	map
		.split(mainGpa, length)
		.filter(({ ramAddr }) => ramAddr >= 0)
		.map((piece) => windowOver(map, mirrorGpa + (piece.gpa - mainGpa), piece.ramAddr, piece.length));
