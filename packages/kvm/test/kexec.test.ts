import { describe, expect, it } from 'vitest';
import { E820Type, KernelOffset, MemoryMap } from '../src/guest/index.js';
import type { Block } from '../src/vcpu/index.js';
import { newLog, type Rig, runHost } from './guest-rig.js';
import { createKernelRig, createSmpRig, E820, type KernelRigOptions, RAM, stop } from './kernel-rig.js';

const PAGE = 4096;
const { workload, kexecKernel } = MemoryMap;
const FIRST = MemoryMap.bootParams;
const RAM_ENTRIES = E820.filter((e) => e.type === E820Type.ram);
const encrypted = (value: number) => RAM_ENTRIES.map((e) => ({ gpa: e.addr, pages: e.size / PAGE, attributes: value }));
const bss = (base: number) => ({ gpa: base + KernelOffset.bssDecrypted, pages: 512, attributes: 0 });
const isShared = (rig: Rig, gpa: number) => rig.ram.subarray(gpa, gpa + PAGE).every((b) => b === 0x5a);

/** The first kernel shares two pages and starts a second one, which stops. */
const twice = (to = 0): Record<string, Block> => ({
	test_start: (cpu) => {
		if (cpu.num('rdi') !== FIRST) return stop(cpu);
		cpu.setNum('rdi', workload);
		cpu.setNum('rsi', 2);
		return cpu.call('set_memory_decrypted', 'test_kexec');
	},
	test_kexec: (cpu) => {
		cpu.setNum('rdi', to);
		return cpu.call('kexec', 'test_refused');
	},
	test_refused: (cpu) => {
		cpu.setReg('rbx', cpu.reg('rax'));
		return stop(cpu);
	},
});

function boot(abi: 'v12' | 'upstream', o: KernelRigOptions = {}) {
	const rig = createKernelRig(abi, { workload: twice(), ...o });
	const log = runHost(rig);
	return { rig, log, result: Number(BigInt.asIntN(64, rig.register('rbx'))) };
}

/** The pages that a host which keeps a list has on it in the end. */
function listOf(hypercalls: readonly { gpa: number; pages: number; attributes: number }[]): number[] {
	const shared = new Set<number>();
	for (const { gpa, pages, attributes } of hypercalls) {
		for (let i = 0; i < pages; i++) {
			if (attributes === 0) shared.add(gpa + i * PAGE);
			else shared.delete(gpa + i * PAGE);
		}
	}
	return [...shared].sort((a, b) => a - b);
}
const pagesOf = ({ gpa, pages }: { gpa: number; pages: number }) =>
	Array.from({ length: pages }, (_, i) => gpa + i * PAGE);

describe('kexec', () => {
	it('G8: v12 reports every RAM entry as encrypted, no other, then boots again with its own .bss..decrypted', () => {
		const { log } = boot('v12');
		const pages = [0, 1].map((i) => ({ gpa: workload + i * PAGE, pages: 1, attributes: 0 }));
		expect(log.hypercalls).toEqual([bss(FIRST), ...pages, ...encrypted(1), bss(kexecKernel)]);
		expect(log.events.filter((e) => e.startsWith('wrmsr'))).toHaveLength(2);
	});

	it('P-14: v12 leaves a host that keeps the list with the new kernel’s pages and the firmware’s', () => {
		const { log } = boot('v12');
		const firmware = { gpa: MemoryMap.ghcb, pages: 2, attributes: 0 };
		expect(listOf([firmware, ...log.hypercalls])).toEqual([...pagesOf(bss(kexecKernel)), ...pagesOf(firmware)]);
	});

	it('G6: upstream does so early in the new kernel, after it has taken back its readiness', () => {
		const { log } = boot('upstream');
		const pages = [0, 1].map((i) => ({ gpa: workload + i * PAGE, pages: 1, attributes: 0 }));
		const handshake = (base: number) => [...encrypted(0x10), bss(base)];
		expect(log.hypercalls).toEqual([...handshake(FIRST), ...pages, ...handshake(kexecKernel)]);
		const last = log.events.slice(-7);
		expect(last).toEqual(['wrmsr 4b564d08', ...Array(4).fill('hypercall'), 'wrmsr 4b564d08', 'out f4']);
		expect(log.migrationMsr).toBe(1n);
	});

	it('is not ready for migration between the two kernels, upstream; v12 stays ready', () => {
		for (const [abi, msr] of [
			['upstream', 0n],
			['v12', 1n],
		] as const) {
			const tables = BigInt(kexecKernel + KernelOffset.pageTables);
			const seen: bigint[] = [];
			const log = newLog();
			const rig: Rig = createKernelRig(abi, {
				workload: twice(),
				afterBlock: () => {
					if ((rig.register('cr3') & 0xfffff000n) === tables) seen.push(log.migrationMsr);
				},
			});
			runHost(rig, log);
			expect(seen[0]).toBe(msr);
		}
	});

	it('v12 does not report anything if the host had offered nothing', () => {
		const { log } = boot('v12', { features: 0 });
		expect(log.events).toEqual(['out f4']);
	});

	it('v12 does not reset an entry that does not begin on a page: −EINVAL that nobody sees', () => {
		const high = { addr: 0x1000800, size: RAM - 0x1000800, type: E820Type.ram };
		const low = { addr: 0x100000, size: MemoryMap.firmware - 0x100000, type: E820Type.ram };
		const { log } = boot('v12', { params: { e820: [low, high] } });
		// KVM answers the unaligned one itself; the shared pages of the workload stay on the list.
		expect(log.hypercalls.filter((c) => c.attributes === 1)).toEqual([
			{ gpa: low.addr, pages: low.size / PAGE, attributes: 1 },
		]);
		expect(listOf(log.hypercalls)).toEqual([
			...pagesOf(bss(kexecKernel)),
			...pagesOf(bss(FIRST)),
			workload,
			workload + PAGE,
		]);
	});

	it('resets the whole pages of such an entry if the walk is not as posted', () => {
		const low = { addr: 0x100800, size: MemoryMap.firmware - 0x100800, type: E820Type.ram };
		const none = { addr: MemoryMap.firmwareEnd + 0x400, size: PAGE, type: E820Type.ram };
		const high = { addr: 0x1000000, size: RAM - 0x1000000 - 1, type: E820Type.ram };
		const { log } = boot('v12', { params: { e820: [low, none, high] }, kernel: { e820Walk: 'whole-pages' } });
		expect(log.hypercalls.filter((c) => c.attributes === 1)).toEqual([
			{ gpa: 0x101000, pages: (MemoryMap.firmware - 0x101000) / PAGE, attributes: 1 },
			{ gpa: high.addr, pages: (RAM - high.addr) / PAGE - 1, attributes: 1 },
		]);
	});

	it('counts the pages of an entry by its size alone', () => {
		const odd = [
			...E820.slice(0, 3),
			{ addr: MemoryMap.firmwareEnd, size: RAM - MemoryMap.firmwareEnd - 0x7ff, type: E820Type.ram },
		];
		const { log } = boot('v12', { params: { e820: odd } });
		const reset = log.hypercalls.filter((c) => c.attributes === 1).at(-1);
		expect(reset).toEqual({ gpa: MemoryMap.firmwareEnd, pages: (RAM - MemoryMap.firmwareEnd) / PAGE, attributes: 1 });
	});

	it('the new kernel’s memory is private but for its own .bss..decrypted, and all of it is defined', () => {
		const { rig } = boot('v12');
		const at = kexecKernel + KernelOffset.bssDecrypted;
		expect(rig.ram.subarray(at, kexecKernel + KernelOffset.end).every((b) => b === 0)).toBe(true);
		expect(rig.plain(FIRST, 0x400000).every((b) => b === 0)).toBe(true);
		expect(rig.plain(workload, 2 * PAGE).every((b) => b === 0)).toBe(true);
		expect(isShared(rig, workload)).toBe(false);
	});

	it('goes back and forth, by the boot parameter too', () => {
		const { log, rig } = boot('v12', { workload: {}, params: { kexecs: 3 } });
		expect(log.hypercalls.filter((c) => c.attributes === 0)).toEqual([FIRST, kexecKernel, FIRST, kexecKernel].map(bss));
		expect(rig.register('rdi')).toBe(BigInt(kexecKernel));
		expect(rig.register('r9')).toBe(BigInt(bss(kexecKernel).gpa));
	});

	it('v4 resets nothing: the pages of the old kernel stay on the list', () => {
		const { log } = boot('v12', { features: 0, kernel: { series: 'v4' } });
		expect(log.hypercalls).toEqual([0, 1].map((i) => ({ gpa: workload + i * PAGE, pages: 1, attributes: 0 })));
	});

	it('takes another place', () => {
		const { log } = boot('v12', { workload: twice(0x400000) });
		expect(log.hypercalls.at(-1)).toEqual(bss(0x400000));
	});

	it('repeats the whole handshake with EFI, firmware and all', () => {
		const o = { params: { efi: true }, variable: { status: 0n, value: 1 } };
		for (const abi of ['v12', 'upstream'] as const) {
			const { log } = boot(abi, o);
			expect(log.migrationMsr).toBe(1n);
			expect(log.hypercalls.at(-1)).toEqual(bss(kexecKernel));
			expect(log.events.at(-2)).toBe('wrmsr 4b564d08');
		}
	});

	it.each([
		['the firmware’s memory', 0x800000],
		['reserved memory', 0x700000],
		['no RAM', 0x40000000],
		['its own memory', 0xe00000],
		['where page tables are split', 0x1600000],
		['what is not on a 2 MiB boundary', 0x300000],
	])('refuses %s with −EINVAL', (_, to) => {
		const { result, log } = boot('v12', { workload: twice(to) });
		expect(result).toBe(-22);
		expect(log.hypercalls.filter((c) => c.attributes === 1)).toEqual([]);
	});
});

describe('kexec with several vCPUs', () => {
	/** vCPU 0 starts the next kernel; the others idle, and share a page each time they wake, if asked to. */
	const smp = (resharing: boolean): Record<string, Block> => ({
		test_start: (cpu) => {
			if (cpu.num('rdi') !== FIRST) return stop(cpu);
			cpu.setNum('rbp', cpu.num('rsi'));
			return cpu.jump(cpu.num('rsi') === 0 ? 'test_wait' : 'test_idle');
		},
		// Until the others have begun.
		test_wait: (cpu) => cpu.jump([1, 2].every((i) => cpu.loadU8(workload + i) === 1) ? 'test_kexec' : 'test_wait'),
		test_kexec: (cpu) => {
			cpu.setNum('rdi', 0);
			return cpu.call('kexec', 'test_refused');
		},
		test_refused: (cpu) => {
			cpu.setReg('rbx', cpu.reg('rax'));
			return cpu.out(0xf4, 1, 'test_end');
		},
		test_idle: (cpu) => {
			cpu.storeU8(workload + cpu.num('rbp'), 1);
			return cpu.call('cpu_idle', resharing ? 'test_share' : 'test_idle');
		},
		test_share: (cpu) => {
			cpu.setNum('rdi', workload + PAGE * (1 + cpu.num('rbp')));
			cpu.setNum('rsi', 1);
			return cpu.call('set_memory_decrypted', 'test_idle');
		},
	});

	it.each(['v12', 'upstream'] as const)(
		'%s: the others go back to the firmware, and run the new kernel after it',
		(abi) => {
			const { rig, log, finish } = createSmpRig(abi, { vcpus: 3, workload: smp(false) });
			finish();
			expect(log.hypercalls.at(-1)).toEqual(bss(kexecKernel));
			for (const i of [0, 1, 2]) {
				expect(rig.register('rdi', i)).toBe(BigInt(kexecKernel));
				expect(rig.register('rsp', i)).toBe(BigInt(kexecKernel + KernelOffset.stacks + 0x4000 * (i + 1)));
				expect(rig.register('cr3', i) & 0xfffff000n).toBe(BigInt(kexecKernel + KernelOffset.pageTables));
			}
			// Upstream every vCPU takes readiness back.
			expect(log.events.filter((e) => e.startsWith('wrmsr'))).toHaveLength(abi === 'v12' ? 2 : 5);
		},
	);

	it.each([
		['run', true],
		['stopped', false],
	] as const)(
		'v12: with the others %s during the reset, what they share then stays on the list: %s',
		(others, stays) => {
			const o = { vcpus: 3, workload: smp(true), kernel: { othersDuringReset: others } };
			const { log, finish } = createSmpRig('v12', o);
			finish();
			const stale = listOf(log.hypercalls).filter((gpa) => gpa >= workload);
			expect(stale.length > 0).toBe(stays);
		},
	);

	it('upstream: what they share meanwhile is reset by the next kernel, before it wakes them', () => {
		const { log, finish } = createSmpRig('upstream', { vcpus: 3, workload: smp(true) });
		finish();
		expect(listOf(log.hypercalls)).toEqual(pagesOf(bss(kexecKernel)));
	});

	it('is refused with −EOPNOTSUPP if the firmware does not take them back', () => {
		const { rig, turn } = createSmpRig('v12', { vcpus: 3, workload: smp(false), apReset: false });
		for (let i = 0; i < 100000 && !turn(0, 3); i++) for (const vcpu of [1, 2]) turn(vcpu, 3);
		expect(BigInt.asIntN(64, rig.register('rbx'))).toBe(-95n);
	});

	it('is for vCPU 0 alone', () => {
		const workload1: Record<string, Block> = {
			...twice(),
			test_start: (cpu) => (cpu.num('rsi') === 0 ? stop(cpu) : cpu.jump('test_kexec')),
		};
		const { rig, finish } = createSmpRig('v12', { vcpus: 2, workload: workload1 });
		finish();
		expect(BigInt.asIntN(64, rig.register('rbx', 1))).toBe(-22n);
	});

	it('by the boot parameter happens before they are woken', () => {
		const { rig, log, finish } = createSmpRig('v12', { vcpus: 3, params: { kexecs: 1 }, apReset: false });
		finish();
		expect(log.hypercalls.at(-1)).toEqual(bss(kexecKernel));
		for (const i of [0, 1, 2]) expect(rig.register('rdi', i)).toBe(BigInt(kexecKernel));
	});
});
