import { bootParams, MemoryMap, mustRest } from '@cvm/kvm/guest';
import type { Block, CodeFragment } from '@cvm/kvm/vcpu';
import { PROGRESS, PROGRESS_STRIDE } from '../progress.js';
import { at, mix } from './work-state.js';

/** A guest program: its code, and where the kernel enters it on every vCPU. */
export interface Workload {
	readonly fragment: CodeFragment;
	readonly start: string;
}

/** Where the programs' text is linked; each gets 64 KiB. */
const TEXT_BASE = MemoryMap.workloadText;
const TEXT_SIZE = 0x10000;
let linked = 0;

/**
 * A program made of its own blocks, which start at `<name>.tick` and end each round with a jump to `<name>.publish`. Around
 * them stands what all programs share: reading the boot parameters into the state page, publishing the number of steps
 * through the shared page, and resting until the next timer tick.
 *
 * On entry (from the kernel): RDI boot parameters, RSI vCPU index, RDX and RCX the slice of RAM, R8 the state page.
 */
export function workload(name: string, blocks: Readonly<Record<string, Block>>): Workload {
	const start = `${name}.start`;
	const around: Record<string, Block> = {
		[start]: (cpu) => {
			const params = Number(cpu.reg('rdi'));
			const index = cpu.reg('rsi');
			const state = Number(cpu.reg('r8'));
			const seed = cpu.loadU64(params + bootParams.offsetOf('seed'));
			cpu.setReg('r15', BigInt(state));
			cpu.storeU64(state + at.steps, 0n);
			cpu.storeU64(state + at.limit, cpu.loadU64(params + bootParams.offsetOf('stepLimit')));
			cpu.storeU64(state + at.base, cpu.reg('rdx'));
			cpu.storeU64(state + at.size, cpu.reg('rcx'));
			cpu.storeU64(state + at.index, index);
			cpu.storeNum(state + at.published, PROGRESS + PROGRESS_STRIDE * Number(index));
			// The walkers start at the front of their slice; the others draw from a generator of their own.
			cpu.storeU64(state + at.cursor, name === 'ab' ? 0n : mix(seed, index));
			cpu.storeU64(state + at.checksum, seed);
			return cpu.jump(`${name}.gate`);
		},
		[`${name}.publish`]: (cpu) => {
			const state = Number(cpu.reg('r15'));
			const steps = cpu.loadU64(state + at.steps);
			const limit = cpu.loadU64(state + at.limit);
			if (limit === 0n || steps < limit) {
				cpu.storeU64(cpu.loadNum(state + at.published), steps);
				return cpu.hlt(`${name}.gate`);
			}
			cpu.setReg('rdi', BigInt('D'.charCodeAt(0)));
			return cpu.call('console_putc', `${name}.done`);
		},
		// The migration helper closed the gate: the guest is leaving, and no step of it may be made here any more.
		[`${name}.gate`]: (cpu) => (mustRest(cpu) ? cpu.hlt(`${name}.gate`) : cpu.jump(`${name}.tick`)),
		[`${name}.done`]: (cpu) => {
			// The last word is published only now: whoever sees it and stops the guest finds it at rest.
			const state = cpu.num('r15');
			cpu.storeU64(cpu.loadNum(state + at.published), cpu.loadU64(state + at.steps));
			return cpu.hlt(`${name}.rest`);
		},
		[`${name}.rest`]: (cpu) => cpu.hlt(`${name}.rest`),
	};
	const base = TEXT_BASE + TEXT_SIZE * linked++;
	return { fragment: { name, base, blocks: { ...around, ...blocks } }, start };
}
