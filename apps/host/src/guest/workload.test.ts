import { BootFlag, bootParams, KernelOffset, MemoryMap } from '@cvm/kvm/guest';
import type { GuestCpu, Next, Target } from '@cvm/kvm/vcpu';
import { describe, expect, it } from 'vitest';
import { workload } from './workload.js';

const flagsAt = MemoryMap.bootParams + bootParams.offsetOf('flags');

/** What the block at the gate ends in, with a gate and boot flags. */
function atGate(gate: number, flags: number): string {
	const { fragment } = workload('gated', {});
	const words = new Map([
		[flagsAt, flags],
		[MemoryMap.helperGate, gate],
	]);
	const ends: string[] = [];
	const end =
		(how: string) =>
		(to: Target): Next => {
			ends.push(`${how} ${to}`);
			return {} as Next;
		};
	const cpu: Pick<GuestCpu, 'cr3' | 'loadU32' | 'hlt' | 'jump'> = {
		cr3: BigInt(MemoryMap.bootParams + KernelOffset.pageTables),
		loadU32: (va) => words.get(va) ?? 0,
		hlt: end('hlt'),
		jump: end('jump'),
	};
	fragment.blocks['gated.gate']?.(cpu as GuestCpu);
	return ends.join();
}

describe('the gate before each step of a workload', () => {
	it('lets it go on while it is open, or without a helper', () => {
		expect(atGate(0, BootFlag.efi | BootFlag.helper)).toBe('jump gated.tick');
		expect(atGate(1, BootFlag.efi)).toBe('jump gated.tick');
	});

	it('keeps it resting while it is closed', () => {
		expect(atGate(1, BootFlag.efi | BootFlag.helper)).toBe('hlt gated.gate');
	});
});
