import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { MemoryMap } from '../src/guest/index.js';
import type { Block } from '../src/vcpu/index.js';
import { type HostLog, newLog, type Rig, runHost } from './guest-rig.js';
import { createKernelRig, type KernelRigOptions, stop } from './kernel-rig.js';

const LARGE = 0x200000;
const { workload } = MemoryMap;
const NO_MEMORY = -12;
const FAULT = -14;

type Change = readonly [call: 'decrypted' | 'encrypted', va: number, pages: number];

/** A workload that makes some changes one after the other. The last RAX stays in RBX. */
function changing(...changes: readonly Change[]): Record<string, Block> {
	const blocks: Record<string, Block> = {};
	changes.forEach(([call, va, pages], i) => {
		blocks[i === 0 ? 'test_start' : `test_${i}`] = (cpu) => {
			cpu.setNum('rdi', va);
			cpu.setNum('rsi', pages);
			for (const name of ['rbx', 'rbp', 'r12', 'r13', 'r14', 'r15'] as const) cpu.setNum(name, va + 1);
			return cpu.call(`set_memory_${call}`, `test_${i}_done`);
		};
		blocks[`test_${i}_done`] = (cpu) => {
			for (const name of ['rbx', 'rbp', 'r12', 'r13', 'r14', 'r15'] as const) expect(cpu.num(name)).toBe(va + 1);
			cpu.setReg('rbx', cpu.reg('rax'));
			return cpu.jump(i === changes.length - 1 ? 'test_stop' : `test_${i + 1}`);
		};
	});
	return { ...blocks, test_stop: stop };
}

interface Outcome {
	readonly rig: Rig;
	readonly log: HostLog;
	/** Hypercalls after boot. */
	readonly calls: HostLog['hypercalls'];
	readonly result: number;
}

function run(abi: 'v12' | 'upstream', blocks: Record<string, Block>, o: KernelRigOptions = {}): Outcome {
	const rig = createKernelRig(abi, { workload: blocks, ...o });
	const log = runHost(rig);
	const boot = log.hypercalls.findIndex((c) => c.gpa === MemoryMap.bssDecrypted) + 1;
	return { rig, log, calls: log.hypercalls.slice(boot), result: Number(BigInt.asIntN(64, rig.register('rbx'))) };
}

const isShared = (rig: Rig, gpa: number) => rig.ram.subarray(gpa, gpa + 16).every((b) => b === 0x5a);

/** The block that writes 0x5A to a page. */
const paint = (...gpas: readonly number[]): Record<string, Block> => ({
	test_stop: (cpu) => {
		for (const gpa of gpas) cpu.fill(gpa, 4096, 0x5a);
		return cpu.jump('test_painted');
	},
	test_painted: stop,
});

describe('set_memory_decrypted', () => {
	it('splits a large page and shares exactly the pages asked for', () => {
		const va = workload + 5 * 4096;
		const gpas = [va - 4096, va, va + 4096, va + 2 * 4096];
		const { rig } = run('upstream', { ...changing(['decrypted', va, 2]), ...paint(...gpas) });
		expect(gpas.map((g) => isShared(rig, g))).toEqual([false, true, true, false]);
		expect(gpas.map((g) => rig.plain(g, 1)[0] === 0x5a)).toEqual([true, false, false, true]);
	});

	it('reports one page for each 4 KiB leaf', () => {
		const { calls, result } = run('v12', changing(['decrypted', workload + 4096, 3]));
		expect(result).toBe(0);
		expect(calls).toEqual([1, 2, 3].map((i) => ({ gpa: workload + i * 4096, pages: 1, attributes: 0 })));
	});

	it('keeps a large page that is wholly asked for, and reports it in one call', () => {
		const { calls, rig } = run('upstream', { ...changing(['decrypted', workload, 512]), ...paint(workload) });
		expect(calls).toEqual([{ gpa: workload, pages: 512, attributes: 0 }]);
		expect(isShared(rig, workload)).toBe(true);
	});

	it('takes a range over several large pages apart where it must', () => {
		const { calls } = run('upstream', changing(['decrypted', workload + LARGE - 4096, 514]));
		expect(calls).toEqual([
			{ gpa: workload + LARGE - 4096, pages: 1, attributes: 0 },
			{ gpa: workload + LARGE, pages: 512, attributes: 0 },
			{ gpa: workload + 2 * LARGE, pages: 1, attributes: 0 },
		]);
	});

	it('reports the whole leaf, also where nothing had to change', () => {
		const { calls } = run('upstream', changing(['decrypted', workload, 512], ['decrypted', workload + 4096, 1]));
		expect(calls[1]).toEqual({ gpa: workload, pages: 512, attributes: 0 });
	});

	it.each([
		['v12', 1],
		['upstream', 0x10],
	] as const)('is undone by set_memory_encrypted; %s says 0x%x', (abi, attributes) => {
		const blocks = { ...changing(['decrypted', workload, 1], ['encrypted', workload, 1]), ...paint(workload) };
		const { calls, rig } = run(abi, blocks);
		expect(calls.at(-1)).toEqual({ gpa: workload, pages: 1, attributes });
		expect(isShared(rig, workload)).toBe(false);
		expect(rig.plain(workload, 1)[0]).toBe(0x5a);
	});

	it('does not convert contents: they read differently afterwards', () => {
		const { rig } = run('upstream', {
			...changing(['decrypted', workload, 1]),
			test_stop: (cpu) => {
				cpu.setReg('r9', cpu.loadU64(workload));
				return stop(cpu);
			},
		});
		const ciphertext = new DataView(rig.ram.buffer, rig.ram.byteOffset).getBigUint64(workload, true);
		expect(rig.register('r9')).toBe(ciphertext);
		expect(ciphertext).not.toBe(0n);
	});

	it('ends at a missing leaf with −EFAULT and reports nothing', () => {
		const { calls, result } = run('upstream', changing(['decrypted', 2 ** 32, 1]));
		expect([result, calls.length]).toEqual([FAULT, 0]);
	});

	it('answers −ENOMEM for a part of a large page above RAM, which has no table', () => {
		const { calls, result, rig } = run('upstream', changing(['decrypted', 2 ** 31 + 4096, 1]));
		expect([result, calls.length]).toEqual([NO_MEMORY, 0]);
		expect(rig.register('rsp')).toBe(BigInt(MemoryMap.kernelStacks + 0x4000));
	});

	it('splits each large page into a table of its own, whatever the order', () => {
		const tables = (...order: readonly number[]) => {
			const { rig } = run('upstream', changing(...order.map((n) => ['decrypted', workload + n * LARGE, 1] as const)));
			return rig.plain(MemoryMap.splitPageTables, MemoryMap.splitPageTablesEnd - MemoryMap.splitPageTables);
		};
		expect(Buffer.compare(tables(0, 1), tables(1, 0))).toBe(0);
	});

	it('does nothing for no pages', () => {
		const { calls, result } = run('upstream', changing(['decrypted', workload, 0]));
		expect([result, calls.length]).toEqual([0, 0]);
	});

	it('rounds the address down to its page', () => {
		expect(run('v12', changing(['decrypted', workload + 0x123, 1])).calls[0]?.gpa).toBe(workload);
	});

	it('does nothing in a guest without SEV', () => {
		const { result, log, rig } = run(
			'upstream',
			{ ...changing(['decrypted', workload, 1]), ...paint(workload) },
			{ sev: false },
		);
		expect([result, log.hypercalls.length]).toEqual([0, 0]);
		expect(isShared(rig, workload)).toBe(true);
	});

	it('changes the page tables but reports nothing on a host that offers no migration', () => {
		const blocks = { ...changing(['decrypted', workload, 1]), ...paint(workload) };
		const { log, rig } = run('upstream', blocks, { features: 0 });
		expect(log.hypercalls).toEqual([]);
		expect(isShared(rig, workload)).toBe(true);
	});

	test.prop(
		[
			fc.array(
				fc.tuple(
					fc.constantFrom('decrypted' as const, 'encrypted' as const),
					fc.integer({ min: 0, max: 3 * 512 }),
					fc.integer({ min: 1, max: 600 }),
				),
				{ minLength: 1, maxLength: 5 },
			),
		],
		{ numRuns: 8 },
	)('leaves the host with the truth about every page, whatever the changes', (changes) => {
		const list = changes.map(
			([call, page, pages]): Change => [call, workload + page * 4096, Math.min(pages, 2048 - page)],
		);
		const expected = new Set<number>();
		for (const [call, va, pages] of list) {
			for (let i = 0; i < pages; i++) {
				if (call === 'decrypted') expected.add(va + i * 4096);
				else expected.delete(va + i * 4096);
			}
		}
		const all = Array.from({ length: 2048 }, (_, i) => workload + i * 4096);
		const { rig, calls } = run('upstream', { ...changing(...list), ...paint(...all) });
		const told = new Set<number>();
		for (const { gpa, pages, attributes } of calls) {
			for (let i = 0; i < pages; i++) {
				if ((attributes & 0x10) === 0) told.add(gpa + i * 4096);
				else told.delete(gpa + i * 4096);
			}
		}
		expect(all.filter((g) => isShared(rig, g))).toEqual(all.filter((g) => expected.has(g)));
		expect(all.filter((g) => told.has(g))).toEqual(all.filter((g) => expected.has(g)));
	});
});

describe('two vCPUs that change attributes at once', () => {
	it('take turns on the page tables, whoever is stopped where', () => {
		// vCPU 0 is kicked while it holds the lock; vCPU 1 spins, is kicked, and gets it later.
		const blocks: Record<string, Block> = {
			test_start: (cpu) => {
				cpu.setNum('rdi', workload + (cpu.num('rsi') + 1) * 4096);
				cpu.setNum('rsi', 1);
				return cpu.call('set_memory_decrypted', 'test_stop');
			},
			test_stop: stop,
		};
		let left = Number.POSITIVE_INFINITY;
		const rig: Rig = createKernelRig('upstream', {
			workload: blocks,
			vcpus: 2,
			afterBlock: () => {
				if (--left === 0) for (const vcpu of [0, 1]) rig.kick(vcpu);
			},
		});
		const logs = [newLog(), newLog()];
		const turn = (vcpu: number, count: number) => {
			left = count;
			const other = 1 - vcpu;
			const log = runHost(rig, logs[vcpu] ?? newLog(), vcpu);
			// The kick was meant for the one that ran.
			rig.unkick(other);
			return log.end;
		};
		left = Number.POSITIVE_INFINITY;
		const ends = [0, 0];
		for (let i = 0; i < 100000 && ends.some((e) => e !== 2); i++) {
			for (const vcpu of [0, 1]) if (ends[vcpu] !== 2) ends[vcpu] = turn(vcpu, 1 + (i % 3));
		}
		expect(ends).toEqual([2, 2]);
		const told = logs.flatMap((l) => l.hypercalls).filter((c) => c.gpa >= workload && c.pages === 1);
		expect(told.map((c) => c.gpa).sort()).toEqual([workload + 4096, workload + 2 * 4096]);
	});
});
