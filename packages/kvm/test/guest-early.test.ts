import { describe, expect, it } from 'vitest';
import { MemoryMap } from '../src/guest/index.js';
import type { Block } from '../src/vcpu/index.js';
import { type HostLog, runHost } from './guest-rig.js';
import { createKernelRig, type KernelRigOptions, stop } from './kernel-rig.js';

const { workload, bssDecrypted } = MemoryMap;
const PAGE = 4096;
const LARGE = 0x200000;
const GIB = 2 ** 30;

/** Calls a service of the kernel with RDI and RSI, before and after the negotiation alike, and stops. RAX goes to RBX. */
const calling = (label: string, va: number, amount: number): Record<string, Block> => ({
	test_start: (cpu) => {
		cpu.fill(workload, 4 * PAGE, 0x5a);
		cpu.setNum('rdi', va);
		cpu.setNum('rsi', amount);
		for (const name of ['rbp', 'r12', 'r13', 'r14', 'r15'] as const) cpu.setNum(name, va + 1);
		return cpu.call(label, 'test_stop');
	},
	test_stop: (cpu) => {
		for (const name of ['rbp', 'r12', 'r13', 'r14', 'r15'] as const) expect(cpu.num(name)).toBe(va + 1);
		cpu.setReg('rbx', cpu.reg('rax'));
		return stop(cpu);
	},
});

function run(abi: 'v12' | 'upstream', blocks: Record<string, Block>, o: KernelRigOptions = {}) {
	const rig = createKernelRig(abi, { workload: blocks, ...o });
	const log = runHost(rig);
	const boot = log.hypercalls.findIndex((c) => c.gpa === bssDecrypted) + 1;
	const calls: HostLog['hypercalls'] = log.hypercalls.slice(boot);
	return { rig, log, calls, result: Number(BigInt.asIntN(64, rig.register('rbx'))) };
}

const text = (log: HostLog) => String.fromCharCode(...log.console);

describe('early_set_memory_decrypted', () => {
	it('converts what the pages hold, and reports them', () => {
		const { rig, calls, result } = run('upstream', calling('early_set_memory_decrypted', workload, 2 * PAGE));
		expect(result).toBe(0);
		expect(calls).toEqual([0, 1].map((i) => ({ gpa: workload + i * PAGE, pages: 1, attributes: 0 })));
		expect(rig.ram.subarray(workload, workload + 2 * PAGE).every((b) => b === 0x5a)).toBe(true);
		expect(rig.ram.subarray(workload + 2 * PAGE, workload + 3 * PAGE).every((b) => b === 0x5a)).toBe(false);
		expect(rig.plain(workload + 2 * PAGE, PAGE).every((b) => b === 0x5a)).toBe(true);
	});

	it('keeps a large leaf that is wholly asked for, and reports it in one call', () => {
		const { calls, rig } = run('v12', calling('early_set_memory_decrypted', workload, LARGE));
		expect(calls).toEqual([{ gpa: workload, pages: 512, attributes: 0 }]);
		expect(rig.ram[workload + 1]).toBe(0x5a);
	});

	it('changes whole leaves also for bytes in their middle', () => {
		const { calls, rig } = run('v12', calling('early_set_memory_decrypted', workload + 0x20, 0x10));
		expect(calls[0]).toEqual({ gpa: workload, pages: 1, attributes: 0 });
		expect(rig.ram.subarray(workload, workload + PAGE).every((b) => b === 0x5a)).toBe(true);
	});

	it.each([
		['v12', undefined, 2],
		['upstream', '6.1', 2],
		['upstream', '6.10', 1],
	] as const)(
		'%s %s: bytes at the end of a page are %i pages to the host, of which the guest shared one',
		(abi, release, pages) => {
			const kernel = release === undefined ? {} : { release };
			const blocks = calling('early_set_memory_decrypted', workload + PAGE - 0x10, 0x10);
			const { calls, rig } = run(abi, blocks, { kernel });
			const gpas = Array.from({ length: pages }, (_, i) => workload + i * PAGE);
			expect(calls.map((c) => c.gpa)).toEqual(gpas);
			// The trap: the second page is private all the same.
			expect(rig.plain(workload + PAGE, PAGE).every((b) => b === 0x5a)).toBe(true);
		},
	);

	it('is undone by early_set_memory_encrypted', () => {
		const blocks = {
			...calling('early_set_memory_decrypted', workload, PAGE),
			test_stop: (cpu) => {
				cpu.setNum('rdi', workload);
				cpu.setNum('rsi', PAGE);
				return cpu.call('early_set_memory_encrypted', 'test_last');
			},
			test_last: stop,
		} satisfies Record<string, Block>;
		const { calls, rig } = run('upstream', blocks);
		expect(calls.map((c) => c.attributes)).toEqual([0, 0x10]);
		expect(rig.plain(workload, PAGE).every((b) => b === 0x5a)).toBe(true);
	});

	it('fails where nothing is mapped, and reports nothing', () => {
		const { calls, result } = run('v12', calling('early_set_memory_decrypted', 2 ** 32, PAGE));
		expect([calls.length, result]).toEqual([0, 1]);
	});

	it('does nothing without SEV', () => {
		const { log, result } = run('v12', calling('early_set_memory_decrypted', workload, PAGE), { sev: false });
		expect([log.hypercalls.length, result]).toEqual([0, 0]);
	});

	it('reports nothing before the host has offered live migration, as set_memory_decrypted', () => {
		const { log, rig } = run('upstream', calling('early_set_memory_decrypted', workload, PAGE), { features: 0 });
		expect(log.hypercalls).toEqual([]);
		expect(rig.ram[workload]).toBe(0x5a);
	});
});

describe('leaves of 1 GiB', () => {
	const kernel = { gbPages: true } as const;

	it('are reported whole by one hypercall', () => {
		const { calls, result } = run('upstream', calling('set_memory_decrypted', GIB, 2 ** 18), { kernel });
		expect(result).toBe(0);
		expect(calls).toEqual([{ gpa: GIB, pages: 2 ** 18, attributes: 0 }]);
	});

	it('are split into leaves of 2 MiB where less is asked for', () => {
		const { calls } = run('v12', calling('set_memory_decrypted', GIB + LARGE, 1024), { kernel });
		expect(calls).toEqual([1, 2].map((i) => ({ gpa: GIB + i * LARGE, pages: 512, attributes: 0 })));
	});

	it('are split into leaves of 4 KiB where it must be', () => {
		const { calls } = run('v12', calling('set_memory_decrypted', GIB + PAGE, 1), { kernel });
		expect(calls).toEqual([{ gpa: GIB + PAGE, pages: 1, attributes: 0 }]);
	});

	it('are reported whole for a part that is as it should be', () => {
		const { calls } = run('upstream', calling('set_memory_encrypted', GIB + 5 * LARGE, 3), { kernel });
		expect(calls).toEqual([{ gpa: GIB, pages: 2 ** 18, attributes: 0x10 }]);
	});

	it('are not used around .bss..decrypted', () => {
		const { calls } = run('upstream', calling('set_memory_decrypted', workload, 512), { kernel });
		expect(calls).toEqual([{ gpa: workload, pages: 512, attributes: 0 }]);
	});
});

describe('the walk that tells the host', () => {
	const LAST = 2 ** 32 - LARGE;
	const across = calling('set_memory_decrypted', LAST, 1024);

	it.each([
		['v12', undefined],
		['upstream', '5.16'],
	] as const)('%s %s: ends at a missing leaf, and goes that far although the change failed', (abi, release) => {
		const kernel = release === undefined ? {} : { release };
		const { calls, result } = run(abi, across, { kernel });
		expect(result).toBe(-14);
		expect(calls).toEqual([{ gpa: LAST, pages: 512, attributes: 0 }]);
	});

	it('does not begin after a failure from Linux 5.19 on', () => {
		expect(run('upstream', across).calls).toEqual([]);
	});

	it('warns of a missing leaf, once, upstream; v12 is silent', () => {
		const twice = {
			...across,
			test_stop: (cpu) => {
				cpu.setNum('rdi', LAST);
				cpu.setNum('rsi', 1024);
				return cpu.call('set_memory_decrypted', 'test_last');
			},
			test_last: stop,
		} satisfies Record<string, Block>;
		const upstream = run('upstream', twice, { kernel: { release: '5.16', printk: true } });
		expect(text(upstream.log)).toBe('kpte lookup for vaddr\n');
		expect(text(run('v12', twice, { kernel: { printk: true } }).log)).not.toContain('kpte');
	});
});
