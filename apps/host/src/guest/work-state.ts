import { layout, u64 } from '@cvm/layout';

/**
 * The private page in which a workload keeps everything it knows, one per vCPU. A program here has no other memory: what is
 * not in this page, in its slice of RAM or in a register does not survive a block, let alone a migration.
 */
const workState = layout('cvm_work_state', 64, {
	/** Steps done. */
	steps: u64(0),
	/** Steps after which the program stops; 0 is never. */
	limit: u64(8),
	/** First VA of the slice of RAM that this vCPU works on. */
	base: u64(16),
	/** Bytes of the slice. */
	size: u64(24),
	/** State of the generator (random) or position of the walk (ab, shared-io). */
	cursor: u64(32),
	/** Running checksum over everything that was written. */
	checksum: u64(40),
	/** VA of this vCPU's word in the shared page: steps done, for whoever watches from outside. */
	published: u64(48),
	index: u64(56),
});

/** Offsets within {@link workState}, for single loads and stores. */
export const at = {
	steps: workState.offsetOf('steps'),
	limit: workState.offsetOf('limit'),
	base: workState.offsetOf('base'),
	size: workState.offsetOf('size'),
	cursor: workState.offsetOf('cursor'),
	checksum: workState.offsetOf('checksum'),
	published: workState.offsetOf('published'),
	index: workState.offsetOf('index'),
} as const;

const MASK = (1n << 64n) - 1n;

/** splitmix64: the state after one draw, and the draw. */
export function splitmix64(state: bigint): { readonly state: bigint; readonly value: bigint } {
	const next = (state + 0x9e3779b97f4a7c15n) & MASK;
	let z = next;
	z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
	z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
	return { state: next, value: z ^ (z >> 31n) };
}

/** One step of the running checksum: order matters, so a lost or repeated write shows. */
export const mix = (checksum: bigint, value: bigint): bigint =>
	((checksum ^ value) * 0x100000001b3n + 0x9e3779b97f4a7c15n) & MASK;
