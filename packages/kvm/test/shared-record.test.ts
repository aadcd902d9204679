import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { E820Type, KernelOffset, MemoryMap, mustRest } from '../src/guest/index.js';
import type { Block } from '../src/vcpu/index.js';
import { launch } from './boot-rig.js';
import { type HostLog, newLog, type Rig, runHost } from './guest-rig.js';
import { createKernelRig, createSmpRig, E820, type KernelRigOptions, RAM, stop } from './kernel-rig.js';

const PAGE = 4096;
const { bootParams, helperGate, helperSharedMap, kexecKernel, workload } = MemoryMap;
const FRAMES = RAM / PAGE;
const RAM_FRAMES = E820.filter((e) => e.type === E820Type.ram).flatMap(({ addr, size }) =>
	Array.from({ length: size / PAGE }, (_, i) => addr / PAGE + i),
);
type Call = 'decrypted' | 'encrypted';
type Change = readonly [call: Call, va: number, pages: number];

/** RAM frames that the guest's own record calls shared. */
function recorded(rig: Rig): number[] {
	const map = rig.plain(helperSharedMap, FRAMES / 8);
	return RAM_FRAMES.filter((frame) => ((map[frame >> 3] ?? 0) >> (frame & 7)) & 1);
}

/** RAM frames that the page tables of a vCPU map shared, one to one. */
function mapped(rig: Rig, vcpu = 0): number[] {
	const table = (at: bigint) => new BigUint64Array(rig.plain(Number(at & 0xfffff000n), PAGE).slice().buffer);
	const [pointers = 0n] = table(rig.register('cr3', vcpu));
	const [directory = 0n] = table(pointers);
	const cBit = 1n << 51n;
	const leaves = [...table(directory)].slice(0, FRAMES / 512).flatMap((entry) => {
		const isLarge = (entry & 0x80n) !== 0n;
		return isLarge ? Array<bigint>(512).fill(entry) : [...table(entry)];
	});
	return RAM_FRAMES.filter((frame) => ((leaves[frame] ?? 0n) & cBit) === 0n);
}

/** RAM frames that a host which keeps a list has on it. */
function told(log: HostLog): number[] {
	const shared = new Set<number>();
	for (const { gpa, pages, attributes } of log.hypercalls) {
		for (let i = 0; i < pages; i++) {
			if (attributes === 0) shared.add(gpa / PAGE + i);
			else shared.delete(gpa / PAGE + i);
		}
	}
	return RAM_FRAMES.filter((frame) => shared.has(frame));
}

const calls = (index: number, list: readonly Change[], end: string): Record<string, Block> =>
	Object.fromEntries(
		list.map(([call, va, pages], i): [string, Block] => [
			`test_${index}_${i}`,
			(cpu) => {
				cpu.setNum('rdi', va);
				cpu.setNum('rsi', pages);
				return cpu.call(`set_memory_${call}`, i + 1 < list.length ? `test_${index}_${i + 1}` : end);
			},
		]),
	);

function run(list: readonly Change[], o: KernelRigOptions & { abi?: 'v12' | 'upstream' } = {}) {
	const blocks: Record<string, Block> = {
		test_start: (cpu) => cpu.jump('test_0_0'),
		...calls(0, list, 'test_stop'),
		test_stop: stop,
	};
	const { abi = 'upstream', ...rest } = o;
	const rig = createKernelRig(abi, { params: { helper: true }, workload: blocks, ...rest });
	return { rig, log: runHost(rig) };
}

const range = (from: number, bytes: number) => Array.from({ length: bytes / PAGE }, (_, i) => from / PAGE + i);
const bss = (base: number) => range(base + KernelOffset.bssDecrypted, KernelOffset.end - KernelOffset.bssDecrypted);

const change = fc.tuple(
	fc.constantFrom<Call>('decrypted', 'encrypted'),
	fc.integer({ min: 0, max: 1200 }),
	fc.integer({ min: 1, max: 600 }),
);

describe('the guest’s own record of what it shares', () => {
	it('begins with .bss..decrypted alone, whatever was in memory', () => {
		expect(recorded(run([['encrypted', workload, 1]]).rig)).toEqual(bss(bootParams));
	});

	it('is not written without a helper, or without SEV', () => {
		for (const o of [{ params: {} }, { sev: false, params: { helper: true } }]) {
			const untouched = createKernelRig('upstream', o)
				.plain(helperSharedMap, FRAMES / 8)
				.slice();
			const { rig } = run([['decrypted', workload, 3]], o);
			expect(rig.plain(helperSharedMap, FRAMES / 8)).toEqual(untouched);
		}
	});

	it.each(['v12', 'upstream'] as const)('%s: follows set_memory_decrypted and set_memory_encrypted', (abi) => {
		const { rig } = run(
			[
				['decrypted', workload + 3 * PAGE, 700],
				['encrypted', workload + 10 * PAGE, 2],
			],
			{ abi },
		);
		const shared = range(workload + 3 * PAGE, 700 * PAGE).filter((f) => ![10, 11].includes(f - workload / PAGE));
		expect(recorded(rig)).toEqual([...bss(bootParams), ...shared]);
	});

	it('says what the page tables say when a change fails half-way', () => {
		// No memory is mapped above 4 GiB.
		const last = 2 ** 32 - PAGE;
		const list = [['decrypted', last, 2] as const, ['decrypted', workload, 1] as const];
		const { rig } = run(list);
		expect(recorded(rig)).toEqual([...bss(bootParams), workload / PAGE]);
	});

	test.prop([fc.array(change, { minLength: 1, maxLength: 5 })], { numRuns: 8 })(
		'equals page tables and the host’s list, whatever the changes',
		(changes) => {
			const list = changes.map(([call, page, n]): Change => [call, workload + page * PAGE, n]);
			const { rig, log } = run(list);
			expect(recorded(rig)).toEqual(mapped(rig));
			expect(recorded(rig)).toEqual(told(log));
		},
	);

	test.prop([fc.array(fc.array(change, { minLength: 1, maxLength: 3 }), { minLength: 3, maxLength: 3 })], {
		numRuns: 5,
	})('equals them after several vCPUs changed pages at once', (perVcpu) => {
		// The first two meet in the same pages; the third has large pages of its own.
		const lists = perVcpu.map((changes, v) =>
			changes.map(([call, page, n]): Change => {
				const first = page % 256;
				return [call, workload + (v < 2 ? 0 : 512 * PAGE) + first * PAGE, Math.min(n, 256)];
			}),
		);
		const blocks: Record<string, Block> = {
			test_start: (cpu) => cpu.jump(`test_${cpu.num('rsi')}_0`),
			...Object.assign({}, ...lists.map((list, v) => calls(v, list, 'test_stop'))),
			test_stop: stop,
		};
		const { rig, log, finish } = createSmpRig('upstream', { vcpus: 3, params: { helper: true }, workload: blocks });
		finish();
		expect(recorded(rig)).toEqual(mapped(rig));
		const own = (frames: number[]) => frames.filter((f) => f >= workload / PAGE + 512);
		expect(own(recorded(rig))).toEqual(own(told(log)));
	});

	it.each(['v12', 'upstream'] as const)('%s: starts anew with a kernel that kexec starts', (abi) => {
		const blocks: Record<string, Block> = {
			test_start: (cpu) => (cpu.num('rdi') === bootParams ? cpu.jump('test_0_0') : stop(cpu)),
			...calls(0, [['decrypted', workload, 5]], 'test_kexec'),
			test_kexec: (cpu) => {
				cpu.setNum('rdi', 0);
				return cpu.call('kexec', 'test_end');
			},
		};
		const { rig, log } = run([['decrypted', workload, 5]], { abi, workload: blocks });
		expect(rig.register('rdi')).toBe(BigInt(kexecKernel));
		expect(recorded(rig)).toEqual(bss(kexecKernel));
		expect(recorded(rig)).toEqual(mapped(rig));
		expect(recorded(rig)).toEqual(told(log));
	});

	it('is right when the next kernel goes where pages were shared', () => {
		const to = 0x400000;
		const blocks: Record<string, Block> = {
			test_start: (cpu) => (cpu.num('rdi') === bootParams ? cpu.jump('test_0_0') : stop(cpu)),
			...calls(0, [['decrypted', to, 0x20]], 'test_kexec'),
			test_kexec: (cpu) => {
				cpu.setNum('rdi', to);
				return cpu.call('kexec', 'test_end');
			},
		};
		const { rig } = run([], { workload: blocks });
		expect(recorded(rig)).toEqual(bss(to));
	});

	it('has the GHCBs of a SEV-ES guest, one for each vCPU', () => {
		const boot = launch({ abi: 'upstream', es: true, vcpus: 4, params: { helper: true } });
		boot.finish();
		const map = boot.plain(helperSharedMap, FRAMES / 8);
		const shared = RAM_FRAMES.filter((frame) => ((map[frame >> 3] ?? 0) >> (frame & 7)) & 1);
		expect(shared).toEqual([...range(bootParams + KernelOffset.ghcbs, 4 * PAGE), ...bss(bootParams)]);
	});
});

describe('the order in which record and host learn of a change', () => {
	/** What the record said of the workload's first page at each hypercall about it. */
	function atCalls(list: readonly Change[]): [attributes: number, recorded: boolean][] {
		const log = newLog();
		const seen: [number, boolean][] = [];
		const count = { before: 0 };
		const rig: Rig = createKernelRig('upstream', {
			params: { helper: true },
			workload: { test_start: (cpu) => cpu.jump('test_0_0'), ...calls(0, list, 'test_stop'), test_stop: stop },
			afterBlock: () => rig.kick(),
		});
		for (let i = 0; i < 100_000; i++) {
			const { end } = runHost(rig, log);
			for (const { gpa, attributes } of log.hypercalls.slice(count.before)) {
				if (gpa === workload) seen.push([attributes, recorded(rig).includes(gpa / PAGE)]);
			}
			count.before = log.hypercalls.length;
			if (end >= 0) return seen;
			rig.unkick(0);
		}
		throw new Error('the guest does not end');
	}

	it('is: shared in the record first, private in the record last', () => {
		const list: Change[] = [
			['decrypted', workload, 1],
			['encrypted', workload, 1],
		];
		// Both times the record says "shared" while the host is told.
		expect(atCalls(list)).toEqual([
			[0, true],
			[0x10, true],
		]);
	});
});

describe('a guest that is stopped between any two steps', () => {
	it('never records a page as shared that is private and holds something, and never less than the host knows', () => {
		const list: Change[] = [
			['decrypted', workload, 700],
			['encrypted', workload + 100 * PAGE, 500],
			['decrypted', workload + 300 * PAGE, 4],
		];
		// Their contents are undefined until the second call ends.
		const inTransit = new Set(range(workload + 100 * PAGE, 500 * PAGE));
		const log = newLog();
		const rig: Rig = createKernelRig('upstream', {
			params: { helper: true },
			workload: { test_start: (cpu) => cpu.jump('test_0_0'), ...calls(0, list, 'test_stop'), test_stop: stop },
			afterBlock: () => rig.kick(),
		});
		let steps = 0;
		for (let last = -1; last < 0; ) {
			last = runHost(rig, log).end;
			rig.unkick(0);
			// From the kernel's own tables on.
			if (log.hypercalls.length < 4) continue;
			steps++;
			const [record, tables] = [new Set(recorded(rig)), new Set(mapped(rig))];
			expect([...record].filter((f) => !tables.has(f) && !inTransit.has(f))).toEqual([]);
			expect(told(log).filter((f) => !record.has(f))).toEqual([]);
		}
		expect(steps).toBeGreaterThan(100);
		expect(recorded(rig)).toEqual(mapped(rig));
	});
});

describe('the gate', () => {
	const asks: Record<string, Block> = {
		test_start: (cpu) => {
			cpu.setNum('rbx', mustRest(cpu) ? 1 : 0);
			return stop(cpu);
		},
	};
	it.each([
		['open', 0, true, 0n],
		['closed', 1, true, 1n],
		['closed by another value', 0x100, true, 1n],
		['nothing to a guest without a helper', 1, false, 0n],
	])('is %s', (_, gate, helper, expected) => {
		const rig = createKernelRig('upstream', { params: { helper }, workload: asks });
		rig.poke(helperGate, new Uint8Array(Uint32Array.of(gate).buffer));
		runHost(rig);
		expect(rig.register('rbx')).toBe(expected);
	});
});
