import { at, mix, splitmix64 } from './work-state.js';
import { type Workload, workload } from './workload.js';

const WRITES_PER_TICK = 8;

/**
 * Seeded writes all over its memory. Each one reads a word, replaces it by a mixture of the old value and the next random
 * number, and folds the result into a checksum in guest memory: a page that arrived stale changes every later checksum.
 */
export const random: Workload = workload('random', {
	'random.tick': (cpu) => {
		const state = Number(cpu.reg('r15'));
		const base = Number(cpu.loadU64(state + at.base));
		const words = cpu.loadU64(state + at.size) / 8n;
		const limit = Number(cpu.loadU64(state + at.limit));
		let steps = Number(cpu.loadU64(state + at.steps));
		let generator = cpu.loadU64(state + at.cursor);
		let checksum = cpu.loadU64(state + at.checksum);
		for (let i = 0; i < WRITES_PER_TICK && (limit === 0 || steps < limit); i++) {
			const draw = splitmix64(generator);
			generator = draw.state;
			const address = base + 8 * Number(draw.value % words);
			const written = mix(cpu.loadU64(address), draw.value);
			cpu.storeU64(address, written);
			checksum = mix(checksum, written);
			steps++;
		}
		cpu.storeU64(state + at.cursor, generator);
		cpu.storeU64(state + at.checksum, checksum);
		cpu.storeU64(state + at.steps, BigInt(steps));
		return cpu.jump('random.publish');
	},
});
