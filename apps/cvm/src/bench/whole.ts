import { checkDemoOptions, type DemoOptions } from '../demo/options.js';
import type { DemoResult } from '../demo/report.js';
import { runDemo } from '../demo/run.js';
import { DemoFailure } from '../exit.js';

/** One whole migration between two processes: pages per second of guest RAM, and the most memory that each process had. */
export interface WholeResult {
	readonly pagesPerSecond: number;
	/** Bytes of guest RAM. */
	readonly memory: number;
	readonly downtime: number;
	/** Peak resident bytes of each host process, by name. */
	readonly peaks: Readonly<Record<string, number>>;
}

/** Whole migrations that are measured, and what each is held against. */
export const WHOLE = { psp: 'aes-128-gcm', mh: 'aes-256-gcm-16k', plain: 'aes-128-gcm' } as const;

/** The demonstration that is measured. @throws Misuse for a size that makes no guest */
export const wholeOptions = (mode: keyof typeof WHOLE, memory: string): DemoOptions =>
	checkDemoOptions({
		...{
			mode,
			memory,
			vcpus: '2',
			workload: 'ab',
			hops: '1',
			policy: '0x20',
			seed: '1',
			bandwidth: '0',
			downtime: '300',
		},
	});

/** Runs the demonstration without its proof's output. @throws DemoFailure */
export async function measureWhole(options: DemoOptions): Promise<WholeResult> {
	let result: DemoResult | undefined;
	await runDemo(options, {
		step: () => undefined,
		progress: () => undefined,
		result: (r) => {
			result = r;
		},
	});
	const [hop] = result?.hops ?? [];
	const { ram, downtime } = hop?.info ?? {};
	const total = hop?.info['total-time'];
	if (!result?.verified || !hop || !ram || !total) throw new DemoFailure('bench: the migration was not verified');
	return {
		pagesPerSecond: ((ram.normal + ram.duplicate) * 1000) / total,
		memory: options.memoryBytes,
		downtime: downtime ?? 0,
		peaks: hop.peaks,
	};
}
