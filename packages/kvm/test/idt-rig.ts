/** Gates of a guest's IDT. */
import type { GuestCpu } from '../src/vcpu/index.js';

/** An interrupt gate (APM vol. 2 §4.8.4) as guest memory has it. */
export function gate(address: number, o: { selector?: number; type?: number; ist?: number } = {}): Uint8Array {
	const out = new Uint8Array(16);
	const view = new DataView(out.buffer);
	view.setUint16(0, address & 0xffff, true);
	view.setUint16(2, o.selector ?? 8, true);
	view.setUint8(4, o.ist ?? 0);
	view.setUint8(5, o.type ?? 0x8e);
	view.setUint16(6, address >>> 16, true);
	view.setUint32(8, address / 2 ** 32, true);
	return out;
}

/** Loads an IDT at `base` that has gates for the vectors given, and none for the others up to 31. */
export function loadGates(cpu: GuestCpu, base: number, gates: Readonly<Record<number, number>>): void {
	cpu.fill(base, 512, 0);
	for (const [vector, address] of Object.entries(gates)) cpu.store(base + 16 * Number(vector), gate(address));
	cpu.lidt(base, 511);
}
