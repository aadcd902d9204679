import { describe, expect, it } from 'vitest';
import { type GpaRange, HelperGeometry, helperRanges } from '../src/geometry.js';
import { HelperCommand, HelperPhase, helperReport } from '../src/mailbox/abi.js';
import {
	CANARY,
	connect,
	contains,
	type Link,
	memoryOf,
	migrate,
	pagesOf,
	pairOf,
	populate,
	RAM,
} from './hardened-couriers.js';
import { createMachine, type Machine, RAM_BYTES } from './hardened-rig.js';

const gateOf = (machine: Machine): number => machine.read(HelperGeometry.gate, 4)[0] ?? -1;
const phaseOf = (host: Link['sourceHost']): number => helperReport.decode(host.control(HelperCommand.query)).phase;

/** RAM without what is the helper's own. */
function guestRanges(): GpaRange[] {
	const out: GpaRange[] = [];
	let start = 0;
	for (const own of [...helperRanges()].sort((a, b) => a.start - b.start)) {
		if (own.start > start) out.push({ start, end: own.start });
		start = own.end;
	}
	return [...out, { start, end: RAM_BYTES }];
}

describe.each([1, 3])('the hardened helper on %i mirror vCPUs', (helpers) => {
	it('moves a guest: handshake, epochs with writes, freeze, proof, hand-over', async () => {
		const link = pairOf({ helpers });
		populate(link.source, pagesOf(RAM));
		const memory = await migrate(link);
		expect(Buffer.compare(memoryOf(link.target), memory)).toBe(0);
		expect(link.runs).toBe(1);
		expect([gateOf(link.source), gateOf(link.target)]).toEqual([1, 0]);
		expect(phaseOf(link.sourceHost)).toBe(HelperPhase.retired);
		expect(phaseOf(link.targetHost)).toBe(HelperPhase.idle);
		// Not a page of the guest is left at the source.
		expect(contains(memoryOf(link.source), CANARY)).toBe(false);
		expect(contains(memory, CANARY)).toBe(true);
	});
});

describe('the hardened helper', () => {
	it('moves all of RAM, the firmware’s too, but for its own', async () => {
		const link = pairOf({ helpers: 2, ram: [{ start: 0, end: RAM_BYTES }] });
		populate(link.source, pagesOf(RAM));
		const ranges = guestRanges();
		const memory = await migrate(link, ranges);
		expect(memory.length).toBeGreaterThan(15 << 20);
		expect(Buffer.compare(memoryOf(link.target, ranges), memory)).toBe(0);
	});

	it('moves a guest on, from its target to a third machine', async () => {
		const link = pairOf({ helpers: 2 });
		populate(link.source, pagesOf(RAM));
		await migrate(link);
		const third = createMachine({ seed: 'third', role: 'target', helpers: 2, ram: RAM });
		const onward = connect(link.target, third);
		const memory = await migrate(onward);
		expect(Buffer.compare(memoryOf(third), memory)).toBe(0);
		expect([gateOf(link.source), gateOf(link.target), gateOf(third)]).toEqual([1, 1, 0]);
	});

	it('K15: works wherever the C-bit is', async () => {
		const link = pairOf({ generation: 'naples' });
		expect(link.source.cBit).toBe(47);
		populate(link.source, pagesOf(RAM));
		const memory = await migrate(link);
		expect(Buffer.compare(memoryOf(link.target), memory)).toBe(0);
		expect(pairOf().source.cBit).toBe(51);
	});

	it('does nothing for an index that no helper has', () => {
		const machine = createMachine({ seed: 'index', role: 'source', ram: RAM });
		machine.mirrors[0]?.setRegs({ rbx: 8n });
		machine.step(0);
		expect(machine.ports[0]?.mailbox.every((byte) => byte === 0)).toBe(true);
	});
});
