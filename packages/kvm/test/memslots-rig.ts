import { gpa, PAGE_SIZE } from '@cvm/layout';
import { createKernel } from '../src/kernel.js';
import { createHostMemory } from '../src/memory/host-memory.js';
import { createMemslots, type UserMemoryRegion } from '../src/memory/memslots.js';
import { createVmHandle, openVmState } from '../src/vm/state.js';

const MIB = 2 ** 20;

/** Memslots alone, without a VM around them. Half of the RAM is mapped. */
export function memslotsRig(ramPages = 256) {
	const dram = new Uint8Array(new SharedArrayBuffer(MIB + ramPages * PAGE_SIZE));
	const memory = createHostMemory(dram);
	const handle = createVmHandle({
		kernel: createKernel('upstream'),
		cbitPosition: 51,
		ramBytes: dram.length,
		silicon: { kind: 'cvm-silicon' },
	});
	const memslots = createMemslots(handle, memory, { patience: 5 });
	const ram = memory.mmap((ramPages / 2) * PAGE_SIZE);
	const region = (over: Partial<UserMemoryRegion> = {}): UserMemoryRegion => ({
		slot: 0,
		flags: 0,
		guestPhysAddr: gpa(0x10000),
		memorySize: 16 * PAGE_SIZE,
		userspaceAddr: ram.hva,
		...over,
	});
	return { memory, memslots, ram, region, handle, state: openVmState(handle) };
}
