/** The CPUs of a machine, by APIC id, as three different ways of counting find them. Ascending. */
export interface CpuViews {
	/** Enabled processor entries of the ACPI MADT: what an OS goes by. */
	readonly madt: readonly number[];
	/** Firmware's MP services: what a boot loader may ask. */
	readonly mpServices: readonly number[];
	/** Who gets an interrupt that CPU `self` sends to "all but self", and the sender. */
	readonly broadcast: readonly number[];
}

const LOCAL_APIC = 0;
const LOCAL_X2APIC = 9;
const ENABLED = 1;

/** APIC ids of the enabled CPUs in MADT entries (ACPI 6.5 §5.2.12.2, §5.2.12.12); others are skipped, a broken one ends the list. */
export function madtCpus(entries: Uint8Array): number[] {
	const view = new DataView(entries.buffer, entries.byteOffset, entries.length);
	const ids: number[] = [];
	for (let at = 0; at + 2 <= entries.length; ) {
		const [type, length] = [view.getUint8(at), view.getUint8(at + 1)];
		if (length < 2 || at + length > entries.length) break;
		if (type === LOCAL_APIC && length >= 8 && view.getUint32(at + 4, true) & ENABLED) ids.push(view.getUint8(at + 3));
		if (type === LOCAL_X2APIC && length >= 16 && view.getUint32(at + 8, true) & ENABLED) {
			ids.push(view.getUint32(at + 4, true));
		}
		at += length;
	}
	return ids.sort((a, b) => a - b);
}

/**
 * Counts three times.
 *
 * @param mpProcessors what MP services number, 0 … n − 1, which are APIC ids here
 * @param lapics APIC ids of the vCPUs of this VM that have an interrupt controller
 */
export function enumerateCpus(
	madtEntries: Uint8Array,
	mpProcessors: number,
	lapics: readonly number[],
	self = 0,
): CpuViews {
	const others = lapics.filter((id) => id !== self);
	return {
		madt: madtCpus(madtEntries),
		mpServices: Array.from({ length: mpProcessors }, (_, i) => i),
		broadcast: [...others, self].sort((a, b) => a - b),
	};
}

/** One line about the first CPU that not all three find; `undefined` if they agree. */
export function cpuMismatch(views: CpuViews): string | undefined {
	const ways = [
		['MADT', views.madt],
		['MP services', views.mpServices],
		['broadcast', views.broadcast],
	] as const;
	const all = [...new Set(ways.flatMap(([, ids]) => ids))].sort((a, b) => a - b);
	for (const id of all) {
		const knows = ways.filter(([, ids]) => ids.includes(id)).map(([name]) => name);
		if (knows.length < ways.length) return `CPU ${id}: expected by all, got only ${knows.join(' and ')}`;
	}
	return undefined;
}
