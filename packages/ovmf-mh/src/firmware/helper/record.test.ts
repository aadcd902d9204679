import type { GuestCpu } from '@cvm/kvm/vcpu';
import { describe, expect, it } from 'vitest';
import { HelperGeometry } from '../../geometry.js';
import { type RecordedGuest, recordedGuest, recordForHelper } from './record.js';

/** A processor that has the record's page alone. */
function onePage(): GuestCpu {
	const page = new Uint8Array(4096);
	const at = (va: number, length: number): number => {
		expect([va, length]).toEqual([HelperGeometry.record, 4096]);
		return 0;
	};
	const cpu: Pick<GuestCpu, 'load' | 'store'> = {
		load: (va, out) => out.set(page.subarray(at(va, out.length))),
		store: (va, data) => page.set(data, at(va, data.length)),
	};
	return cpu as GuestCpu;
}
const guest: RecordedGuest = {
	...{ cBit: 51, saveAreas: [0x9000, 0xa000] },
	ram: [
		{ start: 0, end: 0xa0000 },
		{ start: 0x100000, end: 0x7ff00000 },
	],
};

describe('the record that firmware leaves for the helper', () => {
	it('comes back as it was written', () => {
		const cpu = onePage();
		recordForHelper(cpu, guest);
		expect(recordedGuest(cpu)).toEqual(guest);
	});

	it('is not there before it was written', () => {
		expect(recordedGuest(onePage())).toBeUndefined();
	});

	it.each([
		['half pages', [{ start: 0, end: 0x1800 }]],
		['empty ranges', [{ start: 0x1000, end: 0x1000 }]],
		['descending ranges', [...guest.ram].reverse()],
		['RAM above 2 GiB', [{ start: 0, end: 0x80001000 }]],
	])('takes no %s', (_name, ram) => {
		expect(() => recordForHelper(onePage(), { ...guest, ram })).toThrow(RangeError);
	});

	it('takes no more than its page holds', () => {
		const ram = Array.from({ length: 255 }, (_, i) => ({ start: 0x2000 * i, end: 0x2000 * i + 0x1000 }));
		expect(() => recordForHelper(onePage(), { cBit: 0, saveAreas: [], ram })).toThrow(
			'helper record: expected at most 508 words, got 510',
		);
		expect(() => recordForHelper(onePage(), { cBit: 0, saveAreas: [], ram: ram.slice(1) })).not.toThrow();
	});
});
