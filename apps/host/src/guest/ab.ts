import { at } from './work-state.js';
import { type Workload, workload } from './workload.js';

/** Pages touched between two timer ticks: at 1 kHz this dirties about 16 MB/s on each vCPU. */
const PAGES_PER_TICK = 4;
const PAGE = 4096;

/**
 * Walks its memory for ever and increments the first byte of every page, as QEMU's own migration test guest does
 * (tests/migration, "a-b boot block"). In a memory that was moved correctly, the byte of each page differs by at most one
 * from its neighbours', and exactly at the cursor.
 */
export const ab: Workload = workload('ab', {
	'ab.tick': (cpu) => {
		const state = Number(cpu.reg('r15'));
		const base = Number(cpu.loadU64(state + at.base));
		const size = Number(cpu.loadU64(state + at.size));
		const limit = Number(cpu.loadU64(state + at.limit));
		let steps = Number(cpu.loadU64(state + at.steps));
		let cursor = Number(cpu.loadU64(state + at.cursor));
		for (let i = 0; i < PAGES_PER_TICK && (limit === 0 || steps < limit); i++) {
			cpu.addU8(base + cursor, 1);
			cursor = (cursor + PAGE) % size;
			steps++;
		}
		cpu.storeU64(state + at.cursor, BigInt(cursor));
		cpu.storeU64(state + at.steps, BigInt(steps));
		return cpu.jump('ab.publish');
	},
});
