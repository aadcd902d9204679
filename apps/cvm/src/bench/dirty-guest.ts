import { type GuestProgram, link } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';

/** Bytes of RAM of the guest whose dirty log is harvested. */
export const DIRTY_RAM = 4 * 2 ** 30;
/** One page in a hundred. */
export const DIRTY_PAGES = Math.ceil(DIRTY_RAM / PAGE_SIZE / 100);
/** Where the guest counts what it has done: a u32. */
export const PROGRESS_AT = 0x1000;
/** Stores of one block. */
const STORES = 64;
/** A prime that is far from any multiple of 2: the pages lie scattered, and come again after {@link DIRTY_PAGES}. */
const STRIDE = 7919;

const store = (cpu: { storeU8(va: number, value: number): void }, index: number): void => {
	cpu.storeU8(((index % DIRTY_PAGES) * 100 + (((index % DIRTY_PAGES) * STRIDE) % 100)) * PAGE_SIZE, index & 0xff);
};

/**
 * Guest code that stores to every hundredth page or so, without paging. `reset` goes through them once and halts at a port;
 * with RBX = 1 it goes on for good, counting its blocks.
 */
export const dirtyGuest = (): GuestProgram =>
	link({
		name: 'dirty',
		base: 0x10000,
		at: { reset: 0xfffffff0 },
		blocks: {
			reset: (cpu) => {
				cpu.setNum('r12', 0);
				return cpu.jump('store');
			},
			store: (cpu) => {
				const at = cpu.num('r12');
				const isEndless = cpu.num('rbx') === 1;
				const count = isEndless ? STORES : Math.min(STORES, DIRTY_PAGES - at);
				for (let i = 0; i < count; i++) store(cpu, at + i);
				cpu.setNum('r12', at + count);
				if (isEndless) cpu.storeU32(PROGRESS_AT, (cpu.loadU32(PROGRESS_AT) + 1) >>> 0);
				return isEndless || at + count < DIRTY_PAGES ? cpu.jump('store') : cpu.out(0xf4, 1, 'reset');
			},
		},
	});
