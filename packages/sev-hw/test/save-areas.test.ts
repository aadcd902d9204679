import { describe, expect, it } from 'vitest';
import { Policy } from '../src/abi/policy.js';
import { openSaveAreas } from '../src/silicon.js';
import { vmsa } from '../src/vmsa/layout.js';
import { controllerOf, ES_ASID, GuestState, guestIn, initialised, patternVmsa, type Rig } from './rig.js';
import { plaintextOf, SIZE, sendFields } from './save-area-rig.js';

const { ES } = Policy;

const open = (rig: Rig) => openSaveAreas(rig.machine.silicon, controllerOf(rig));

describe('save areas as the processor uses them', () => {
	const setUp = (state: GuestState = GuestState.RUNNING) => {
		const rig = initialised({ es: true });
		const guest = guestIn(rig, state, ES);
		return { rig, guest, at: Number(guest.saveArea), areas: open(rig), page: new Uint8Array(SIZE) };
	};
	it('VMRUN loads what was launched', () => {
		const { rig, guest, at, areas, page } = setUp();
		expect(areas.load(ES_ASID, at, page)).toBe(true);
		expect(page).toEqual(plaintextOf(rig, guest.saveArea));
		const { firmwareZero, slotPaddr } = vmsa.decode(page);
		const expected = patternVmsa();
		vmsa.patch(expected, { firmwareZero, slotPaddr });
		expect(page).toEqual(expected);
	});
	it('a #VMEXIT is loaded by the next VMRUN, in any thread', () => {
		const { rig, at, areas, page } = setUp();
		areas.load(ES_ASID, at, page);
		vmsa.patch(page, { rip: 0x1234n });
		areas.store(ES_ASID, at, page);
		const again = new Uint8Array(SIZE);
		expect(open(rig).load(ES_ASID, at, again)).toBe(true);
		expect(vmsa.decode(again).rip).toBe(0x1234n);
	});
	it('what a #VMEXIT wrote can be sent', () => {
		const { rig, guest, at, areas, page } = setUp(GuestState.SUPDATE);
		areas.load(ES_ASID, at, page);
		vmsa.patch(page, { rip: 0x1234n });
		areas.store(ES_ASID, at, page);
		rig.must('SEND_UPDATE_VMSA', sendFields(rig, guest));
	});
	it.each([0, 0x388, 0xfb0])('a change of the ciphertext at %d is noticed', (offset) => {
		const { rig, at, areas, page } = setUp();
		const { dram } = rig.machine;
		dram[at + offset] = (dram[at + offset] ?? 0) ^ 1;
		expect(areas.load(ES_ASID, at, page)).toBe(false);
		expect(page.every((b) => b === 0)).toBe(true);
	});
	it('an old ciphertext is noticed', () => {
		const { rig, at, areas, page } = setUp();
		const old = rig.machine.dram.slice(at, at + SIZE);
		areas.load(ES_ASID, at, page);
		vmsa.patch(page, { rip: 0x1234n });
		areas.store(ES_ASID, at, page);
		rig.machine.dram.set(old, at);
		expect(areas.load(ES_ASID, at, page)).toBe(false);
	});
	it('a page that is no save area is none', () => {
		const { areas, page } = setUp();
		expect(areas.load(ES_ASID, 0x2f0000, page)).toBe(false);
	});
	it('a decommissioned guest has none', () => {
		const { rig, guest, at, areas, page } = setUp();
		areas.load(ES_ASID, at, page);
		rig.must('DEACTIVATE', { handle: guest.handle });
		rig.must('DECOMMISSION', { handle: guest.handle });
		expect(rig.platform.vmsaSlots.count).toBe(0);
		expect(() => areas.load(ES_ASID, at, page)).toThrow('key');
	});
});
