import { describe, expect, it } from 'vitest';
import { ExitReason } from '../src/abi/run-page.js';
import { AP_TRAMPOLINE, E820Type, EfiStatus, KernelOffset, MemoryMap } from '../src/guest/index.js';
import type { Block } from '../src/vcpu/index.js';
import { type Boot, type BootOptions, launch } from './boot-rig.js';
import { E820, stop } from './kernel-rig.js';

const PAGE = 4096;
const { workload, kexecKernel, apGhcb } = MemoryMap;
const FIRST = MemoryMap.bootParams;
const RAM_ENTRIES = E820.filter((e) => e.type === E820Type.ram);
const encrypted = (value: number) => RAM_ENTRIES.map((e) => ({ gpa: e.addr, pages: e.size / PAGE, attributes: value }));
const bss = (base: number) => ({ gpa: base + KernelOffset.bssDecrypted, pages: 512, attributes: 0 });
const ghcbs = (base: number, vcpus: number) =>
	Array.from({ length: vcpus }, (_, i) => ({ gpa: base + KernelOffset.ghcbs + i * PAGE, pages: 1, attributes: 0 }));

/** What a kernel at `base` says to a host that offers live migration. */
function handshake({ abi, es, vcpus }: BootOptions, base: number) {
	const first = abi === 'upstream' ? encrypted(0x10) : [];
	return [...first, bss(base), ...(es ? ghcbs(base, vcpus) : [])];
}

function booted(o: BootOptions): Boot {
	const boot = launch(o);
	boot.finish();
	for (const [vcpu, end] of boot.ends)
		expect([vcpu, end, boot.threads[vcpu]?.fault?.message]).toEqual([vcpu, 2, undefined]);
	return boot;
}

/** Every abi, with and without encrypted registers, one vCPU and four. */
const KINDS = (['v12', 'upstream'] as const).flatMap((abi) =>
	[false, true].flatMap((es) =>
		[1, 4].map((vcpus) => [`${abi}, ${es ? 'SEV-ES' : 'SEV'}, ${vcpus} vCPUs`, { abi, es, vcpus }] as const),
	),
);

describe.each(KINDS)('%s', (_, kind) => {
	it('G5: negotiates without EFI', () => {
		const { log } = booted(kind);
		expect(log.hypercalls).toEqual(handshake(kind, FIRST));
		expect(log.migrationMsr).toBe(1n);
		const at = log.events.indexOf('wrmsr 4b564d08');
		// After .bss..decrypted and before the GHCBs.
		expect(log.events.slice(0, at)).toHaveLength(handshake({ ...kind, es: false }, FIRST).length);
		expect(log.events.filter((e) => e === 'out f4')).toHaveLength(kind.vcpus);
	});

	it('G4: asks the firmware with EFI', () => {
		const variable = { status: EfiStatus.success, value: 1 };
		const { log } = booted({ ...kind, params: { efi: true }, variable });
		expect(log.migrationMsr).toBe(1n);
		const refused = booted({ ...kind, params: { efi: true } });
		expect(refused.log.migrationMsr).toBe(0n);
		expect(refused.log.hypercalls).toEqual(handshake(kind, FIRST));
	});

	it('G1: says nothing to a host that offers nothing', () => {
		// v12 hosts offer it to every SEV guest by themselves.
		if (kind.abi === 'v12') return;
		const { log } = booted({ ...kind, offers: false });
		expect([log.hypercalls, log.migrationMsr]).toEqual([[], 0n]);
	});

	it('G8: goes on by kexec, from its first kernel', () => {
		const { log } = booted({ ...kind, params: { kexecs: 1 } });
		const reset = kind.abi === 'v12' ? encrypted(1) : [];
		expect(log.hypercalls).toEqual([...handshake(kind, FIRST), ...reset, ...handshake(kind, kexecKernel)]);
		expect(log.migrationMsr).toBe(1n);
	});

	it('leaves the same memory under another key, kexec or not: no byte of RAM is what the key makes of it', () => {
		for (const kexecs of [0, 1]) {
			const base = kexecs === 0 ? FIRST : kexecKernel;
			const [one, other] = ['one', 'other'].map((seed) => booted({ ...kind, seed, params: { kexecs } }));
			const areas = RAM_ENTRIES.flatMap(({ addr, size }) => {
				const cuts = [addr, base + KernelOffset.ghcbs, base + KernelOffset.ghcbsEnd, base + KernelOffset.bssDecrypted];
				const inside = [...cuts, base + KernelOffset.end].filter((at) => at >= addr && at < addr + size);
				return inside.map((at, i) => [at, inside[i + 1] ?? addr + size] as const);
			});
			const shared = [base + KernelOffset.ghcbs, base + KernelOffset.bssDecrypted];
			for (const [from, to] of areas) {
				const read = (boot: Boot | undefined) =>
					shared.includes(from) ? boot?.ram.subarray(from, to) : boot?.plain(from, to - from);
				// GHCBs that no vCPU uses are private, and zero: the host sees them through the key.
				if (from === shared[0]) continue;
				expect(Buffer.compare(read(one) ?? new Uint8Array(), read(other) ?? new Uint8Array())).toBe(0);
			}
		}
	});

	it('P-14: goes on by kexec with all vCPUs running, and brings them along', () => {
		const share: Record<string, Block> = {
			test_start: (cpu) => {
				if (cpu.num('rdi') !== FIRST) return cpu.jump('test_second');
				cpu.setNum('rbp', cpu.num('rsi'));
				cpu.setNum('rdi', workload + PAGE * cpu.num('rsi'));
				cpu.setNum('rsi', 1);
				return cpu.call('set_memory_decrypted', 'test_shared');
			},
			test_shared: (cpu) => {
				cpu.storeU8(workload + 0x100000 + cpu.num('rbp'), 1);
				return cpu.jump(cpu.num('rbp') === 0 ? 'test_wait' : 'test_idle');
			},
			test_idle: (cpu) => cpu.call('cpu_idle', 'test_idle'),
			test_wait: (cpu) => {
				for (let i = 1; i < kind.vcpus; i++) if (cpu.loadU8(workload + 0x100000 + i) !== 1) return cpu.hlt('test_wait');
				cpu.setNum('rdi', 0);
				return cpu.call('kexec', 'test_refused');
			},
			test_refused: (cpu) => cpu.ud2(),
			test_second: (cpu) => {
				cpu.setReg('rax', cpu.reg('rdi'));
				return cpu.out(0x80, 4, 'test_last');
			},
			test_last: stop,
		};
		const { log } = booted({ ...kind, workload: share });
		const list = new Set<number>();
		for (const { gpa, pages, attributes } of log.hypercalls) {
			for (let i = 0; i < pages; i++) {
				if (attributes === 0) list.add(gpa + i * PAGE);
				else list.delete(gpa + i * PAGE);
			}
		}
		const expected = handshake({ ...kind, abi: 'v12' }, kexecKernel).reduce((n, c) => n + c.pages, 0);
		expect([...list].every((gpa) => gpa >= kexecKernel && gpa < FIRST)).toBe(true);
		expect(list.size).toBe(expected);
		expect(log.events.filter((e) => e === 'out 80')).toHaveLength(kind.vcpus);
	});
});

describe('a SEV-ES guest', () => {
	const kind = { abi: 'upstream', es: true, vcpus: 1 } as const;

	it('shares its GHCB pages with the host and nothing else of its own', () => {
		const { log, ram } = booted({ ...kind, vcpus: 2 });
		const { ghcbs: at } = KernelOffset;
		const shared = log.hypercalls.filter((c) => c.attributes === 0 && c.pages === 1);
		expect(shared).toEqual(ghcbs(FIRST, 2));
		// The exit code of the last exchange stands there: OUT.
		for (const i of [0, 1]) {
			const page = new DataView(ram.buffer, ram.byteOffset + FIRST + at + i * PAGE, PAGE);
			expect(page.getBigUint64(0x390, true)).toBe(0x7bn);
		}
	});

	it('reports what its firmware shared: the GHCBs in which vCPUs wait', () => {
		const { log } = booted({ ...kind, firmwareReports: true });
		expect(log.hypercalls[0]).toEqual({ gpa: apGhcb, pages: 32, attributes: 0 });
	});

	it.each([
		[1, 'KVM_SEV_ES_INIT', false],
		[2, 'KVM_SEV_INIT2', true],
	] as const)('agrees on version %i of the protocol after %s', (version, _, init2) => {
		const { log, ram } = booted({ ...kind, vcpus: 2, init2 });
		expect(log.hypercalls).toEqual(handshake({ ...kind, vcpus: 2 }, FIRST));
		for (const i of [0, 1]) expect(ram[FIRST + KernelOffset.ghcbs + i * PAGE + 0xffa]).toBe(version);
	});

	it('writes the trampoline to the AP jump table', () => {
		const { plain } = booted({ ...kind, vcpus: 2 });
		expect([...plain(MemoryMap.apJumpTable, 16).subarray(0, 4)]).toEqual([0, 0, 0, AP_TRAMPOLINE / 16 / 256]);
	});

	it('leaves the others where they are if there is no jump table', () => {
		const boot = launch({ ...kind, vcpus: 2, jumpTable: 0 });
		for (let i = 0; i < 20000 && !boot.turn(0, 5); i++) boot.turn(1, 5);
		expect(boot.ends.get(0)).toBe(ExitReason.IO);
		expect(boot.turn(1, 100)).toBe(false);
	});

	it('panics at a jump table that is not a page', () => {
		const boot = launch({ ...kind, vcpus: 2, jumpTable: MemoryMap.apJumpTable + 16 });
		for (let i = 0; i < 20000 && !boot.turn(0, 5); i++) boot.turn(1, 5);
		expect(boot.ends.get(0)).toBe(ExitReason.SHUTDOWN);
	});

	it('keeps its registers over #VC, but for the results', () => {
		const names = ['rbx', 'rdx', 'rsi', 'rdi', 'rbp', 'r8', 'r12', 'r15'] as const;
		const blocks: Record<string, Block> = {
			test_start: (cpu) => {
				for (const [i, name] of names.entries()) cpu.setNum(name, 0x1000 + i);
				cpu.setReg('rax', 0x1122334455667788n);
				cpu.setNum('rcx', 5);
				return cpu.in(0x70, 2, 'test_in');
			},
			test_in: (cpu) => {
				expect(cpu.reg('rax')).toBe(0x112233445566c3d4n);
				for (const [i, name] of names.entries()) expect(cpu.num(name)).toBe(0x1000 + i);
				expect(cpu.num('rcx')).toBe(5);
				return cpu.in(0x70, 4, 'test_in4');
			},
			test_in4: (cpu) => {
				expect(cpu.reg('rax')).toBe(0xa1b2c3d4n);
				cpu.setNum('rcx', 0x4b564d08);
				return cpu.rdmsr('test_msr');
			},
			test_msr: (cpu) => {
				expect([cpu.reg('rax'), cpu.reg('rdx')]).toEqual([1n, 0n]);
				cpu.setReg('rax', 0x12345678abcdn);
				return cpu.out(0x80, 2, 'test_out');
			},
			test_out: (cpu) => {
				expect(cpu.reg('rax')).toBe(0x12345678abcdn);
				return stop(cpu);
			},
		};
		const { log } = booted({ ...kind, workload: blocks });
		expect(log.events.slice(-5)).toEqual(['in 70', 'in 70', 'rdmsr 4b564d08', 'out 80', 'out f4']);
	});

	it('dies of a #GP that the host wants raised', () => {
		const blocks: Record<string, Block> = {
			test_start: (cpu) => {
				cpu.setNum('rcx', 0x4b564d08);
				cpu.setNum('rax', 2);
				cpu.setNum('rdx', 0);
				return cpu.wrmsr('test_last');
			},
			test_last: stop,
		};
		const boot = launch({ ...kind, workload: blocks });
		boot.finish();
		expect(boot.ends.get(0)).toBe(ExitReason.SHUTDOWN);
	});

	it('ends itself where its handler knows no way: an access to memory that is not there', () => {
		const blocks: Record<string, Block> = {
			test_start: (cpu) => {
				cpu.setNum('r8', cpu.loadU32(0x80000000));
				return stop(cpu);
			},
		};
		const boot = launch({ ...kind, workload: blocks });
		boot.finish();
		expect(boot.ends.get(0)).toBe(ExitReason.SYSTEM_EVENT);
		expect(boot.view(0).getBigUint64(40, true)).toBe(0x100n);
	});

	it('G7: VMCALL is #UD', () => {
		const boot = launch({ ...kind, workload: { test_start: (cpu) => cpu.vmcall('test_end') } });
		boot.finish();
		expect(boot.ends.get(0)).toBe(ExitReason.SHUTDOWN);
		expect(boot.threads[0]?.fault?.code).toBe('ud');
		expect(boot.log.hypercalls).toEqual(handshake(kind, FIRST));
	});

	it('reads and writes a device’s memory through the GHCB', () => {
		const blocks: Record<string, Block> = {
			test_start: (cpu) => {
				cpu.setNum('rdi', 0xfee00010);
				cpu.setNum('rsi', 4);
				cpu.setNum('rdx', 0x1234);
				return cpu.call('vc.mmio_write', 'test_read');
			},
			test_read: (cpu) => cpu.call('vc.mmio_read', 'test_done'),
			test_done: stop,
		};
		const boot = launch({ ...kind, workload: blocks });
		const exits: unknown[] = [];
		for (let i = 0; i < 20000 && !boot.turn(0, 100); i++);
		for (let i = 0; i < 2; i++) {
			const view = boot.view(0);
			expect(boot.ends.get(0)).toBe(ExitReason.MMIO);
			exits.push([view.getBigUint64(32, true), view.getUint32(40, true), view.getUint32(48, true), view.getUint8(52)]);
			view.setUint32(40, 0xcafe, true);
			expect(boot.threads[0]?.run()).toBe(0);
		}
		expect(exits[0]).toEqual([0xfee00010n, 0x1234, 4, 1]);
		expect(exits[1]).toEqual([0xfee00010n, expect.any(Number), 4, 0]);
	});
});
