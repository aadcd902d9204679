import { resumeFragment } from '@cvm/ovmf-mh/firmware';
import { describe, expect, it } from 'vitest';
import { HelperGeometry, MAX_SAVE_AREAS, saveAreasOf } from '../src/geometry.js';
import { ResumeState } from '../src/resume/index.js';
import { createLifeMachine, START, TARGET } from './life-cycle-rig.js';

const PAGE = 4096;
const SLOT = 0x100;
const firmware = { helper: 'hardened', vcpuStates: true } as const;
/** Save areas as the record names them: its last words. */
const recorded = (machine: ReturnType<typeof createLifeMachine>): number[] => {
	const page = machine.plain(HelperGeometry.record, PAGE);
	const view = new DataView(page.buffer);
	const [ranges, areas] = [view.getUint32(12, true), view.getUint32(16, true)];
	return Array.from({ length: areas }, (_, i) => Number(view.getBigUint64(32 + 8 * (2 * ranges + i), true)));
};

describe('the firmware of a SEV-ES guest whose helper carries vCPU states', () => {
	it('as a target brings every vCPU to rest in memory of the helper’s, where no page that arrives reaches it', () => {
		const machine = createLifeMachine({ es: true, vcpus: 3, files: TARGET, firmware });
		machine.until('all at rest', () => [0, 1, 2].every((i) => machine.at.get(i) === 'mh.resume.wait'));
		expect(recorded(machine)).toEqual(saveAreasOf(3));
		const { bytes } = machine.ram;
		bytes.fill(0xa5, 0, HelperGeometry.private);
		bytes.fill(0xa5, HelperGeometry.windowsEnd);
		for (let i = 0; i < 3; i++) for (let n = 0; n < 3; n++) machine.turn(i);
		expect([0, 1, 2].map((i) => machine.at.get(i))).toEqual(Array(3).fill('mh.resume.wait'));
		const slots = machine.plain(HelperGeometry.resume, PAGE);
		for (let i = 0; i < 3; i++) {
			expect(new DataView(slots.buffer).getUint32(SLOT * i + 0xf8, true)).toBe(ResumeState.mhReady);
		}
	});
	it('as a target whose gate opens without anything having arrived: all fail', () => {
		const machine = createLifeMachine({ es: true, vcpus: 2, files: TARGET, firmware });
		machine.until('all at rest', () => [0, 1].every((i) => machine.at.get(i) === 'mh.resume.wait'));
		const gate = machine.plain(HelperGeometry.gate, PAGE);
		gate.fill(0, 0, 4);
		machine.place(HelperGeometry.gate, gate);
		machine.until('all failed', () => [0, 1].every((i) => machine.at.get(i) === 'mh.resume.failed'));
	});
	it('as a source boots as always', () => {
		const machine = createLifeMachine({ es: true, vcpus: 2, files: START, firmware });
		machine.boot();
		expect(recorded(machine)).toEqual(saveAreasOf(2));
	});
	it('records none without SEV-ES, or if it was not built for it', () => {
		for (const o of [
			{ es: false, firmware },
			{ es: true, firmware: { helper: 'hardened' } as const },
		]) {
			const machine = createLifeMachine({ vcpus: 1, files: START, ...o });
			machine.boot();
			expect(recorded(machine)).toEqual([]);
		}
	});
});

it('there is room for so many save areas, and no more', () => {
	expect(saveAreasOf(MAX_SAVE_AREAS).at(-1)).toBe(HelperGeometry.privateEnd - PAGE);
	expect(HelperGeometry.resume + SLOT * MAX_SAVE_AREAS).toBeLessThanOrEqual(HelperGeometry.gate);
	expect(() => saveAreasOf(MAX_SAVE_AREAS + 1)).toThrow('vCPUs: expected at most 16, got 17');
});
it('is refused for what this model cannot be', () => {
	expect(() => resumeFragment({ cpuRestore: 'vmsaCreate' })).toThrow('needs SEV-SNP');
	for (const directMap of [-1, 0.5, 2 ** 46])
		expect(() => resumeFragment({ directMap })).toThrow('direct map: expected');
});
