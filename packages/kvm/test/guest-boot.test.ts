import { describe, expect, it } from 'vitest';
import { ExitReason } from '../src/abi/run-page.js';
import { E820Type, EfiStatus, KernelOffset, MemoryMap } from '../src/guest/index.js';
import { VmWord } from '../src/vm/state.js';
import { newLog, type Rig, runHost } from './guest-rig.js';
import { createKernelRig, E820, type KernelRigOptions, RAM } from './kernel-rig.js';

const BSS = { gpa: MemoryMap.bssDecrypted, pages: 512 };
const RAM_ENTRIES = E820.filter((e) => e.type === E820Type.ram);
const EFI = { params: { efi: true } };

const boot = (abi: 'v12' | 'upstream', o: KernelRigOptions = {}) => {
	const rig = createKernelRig(abi, o);
	return { rig, log: runHost(rig) };
};

describe('negotiation', () => {
	it.each([
		['v12', 1 << 17],
		['upstream', 1 << 16],
		['upstream', 0],
	] as const)('G1: %s makes no hypercall and writes no MSR with CPUID features 0x%x', (abi, features) => {
		expect(boot(abi, { features }).log.events).toEqual(['out f4']);
	});

	it.each(['v12', 'upstream'] as const)('G1: %s makes none without SEV, whatever CPUID says', (abi) => {
		expect(boot(abi, { sev: false }).log.events).toEqual(['out f4']);
	});

	it.each(['v12', 'upstream'] as const)('G1: %s goes by SEV_STATUS, not by CPUID', (abi) => {
		const rig = createKernelRig(abi);
		rig.words[VmWord.sevActive] = 0;
		expect(runHost(rig).events).toEqual(['out f4']);
	});

	it.each(['v12', 'upstream'] as const)('G2: %s finds KVM at 0x40000100 behind Hyper-V', (abi) => {
		const { log } = boot(abi, { base: 0x40000100 });
		expect(log.migrationMsr).toBe(1n);
	});

	it('G2: finds KVM at the last place, and not after it', () => {
		expect(boot('v12', { base: 0x4000ff00 }).log.migrationMsr).toBe(1n);
		expect(boot('v12', { base: 0x40010000 }).log.events).toEqual(['out f4']);
	});

	it('G3: v12 begins with .bss..decrypted, shared', () => {
		expect(boot('v12').log.hypercalls).toEqual([{ ...BSS, attributes: 0 }]);
	});

	it.each(['v12', 'upstream'] as const)('G5: %s without EFI writes the MSR right after that', (abi) => {
		const { log } = boot(abi);
		expect(log.events.slice(-3)).toEqual(['hypercall', 'wrmsr 4b564d08', 'out f4']);
		expect(log.migrationMsr).toBe(1n);
	});

	it('G6: upstream first reports every RAM entry of E820 as encrypted, and no other', () => {
		const expected = RAM_ENTRIES.map((e) => ({ gpa: e.addr, pages: e.size / 4096, attributes: 0x10 }));
		expect(boot('upstream').log.hypercalls).toEqual([...expected, { ...BSS, attributes: 0 }]);
	});

	it('G6: counts the pages of an entry by its size alone, rounded up', () => {
		const odd = { addr: 0x100800, size: 0x1001, type: E820Type.ram };
		const { log } = boot('upstream', { params: { e820: [odd] } });
		// The host answers an unaligned address with −EINVAL itself; nobody sees it, and the guest does not care.
		expect(log.hypercalls).toEqual([{ ...BSS, attributes: 0 }]);
		expect(log.migrationMsr).toBe(1n);
		const even = boot('upstream', { params: { e820: [{ ...odd, addr: 0x100000 }] } });
		expect(even.log.hypercalls[0]).toEqual({ gpa: 0x100000, pages: 2, attributes: 0x10 });
	});

	const { success, notFound, deviceError } = EfiStatus;
	it.each([
		['v12', 'is absent', notFound, 1, 0n],
		['v12', 'cannot be read', deviceError, 1, 0n],
		['v12', 'is 0', success, 0, 0n],
		['v12', 'is 1', success, 1, 1n],
		['v12', 'is 255', success, 255, 1n],
		['upstream', 'is absent', notFound, 1, 0n],
		['upstream', 'cannot be read', deviceError, 1, 0n],
		['upstream', 'is 0', success, 0, 0n],
		['upstream', 'is 1', success, 1, 1n],
	] as const)('G4, P-13: %s with EFI where the variable %s', (abi, _, status, value, msr) => {
		const { log } = boot(abi, { ...EFI, variable: { status, value } });
		expect(log.migrationMsr).toBe(msr);
		expect(log.hypercalls.at(-1)).toEqual({ ...BSS, attributes: 0 });
		expect(log.events.filter((e) => e.startsWith('wrmsr'))).toHaveLength(Number(msr));
	});

	it('G4: with EFI writes the MSR in the late initcall, after the firmware was asked', () => {
		const labels: (string | number)[] = [];
		const rig: Rig = createKernelRig('v12', {
			...EFI,
			variable: { status: success, value: 1 },
			afterBlock: (rip) => labels.push(rip),
		});
		const asked = MemoryMap.firmwareText + 3 * 16;
		let sawAsked = false;
		for (;;) {
			rig.vcpus[0]?.run();
			sawAsked ||= labels.includes(asked);
			const reason = rig.view().getUint32(8, true);
			if (reason === ExitReason.X86_WRMSR) break;
			expect(reason).toBe(ExitReason.HYPERCALL);
			expect(sawAsked).toBe(false);
		}
		expect(sawAsked).toBe(true);
	});

	it.each(['v12', 'upstream'] as const)(
		'G4: %s asks for the variable by its name and GUID as EFI stores them',
		(abi) => {
			const asked: Uint8Array[] = [];
			const rig: Rig = createKernelRig(abi, {
				...EFI,
				variable: { status: success, value: 1 },
				afterBlock: (rip) => {
					if (rip !== MemoryMap.firmwareText + 3 * 16) return;
					asked.push(rig.plain(Number(rig.register('rcx')), 48), rig.plain(Number(rig.register('rdx')), 16));
				},
			});
			runHost(rig);
			// 24 code units with the NUL; 0cf29b71-9e51-433a-a3b7-81f3ab16b875, its first three groups little-endian.
			const guid = '719bf20c519e3a43a3b781f3ab16b875';
			expect(asked).toHaveLength(2);
			expect(Buffer.from(asked[0] ?? []).toString('utf16le')).toBe('SevLiveMigrationEnabled\0');
			expect(Buffer.from(asked[1] ?? []).toString('hex')).toBe(guid);
		},
	);

	it('P-13: does not ask the firmware when the host offers nothing', () => {
		const { log } = boot('v12', { ...EFI, features: 0, variable: { status: success, value: 1 } });
		expect(log.events).toEqual(['out f4']);
	});

	it('P-13: does not write the MSR under EFI without runtime services', () => {
		const rig = createKernelRig('v12', { ...EFI, variable: { status: success, value: 1 } });
		const at = MemoryMap.bootParams + 72;
		for (;;) {
			rig.vcpus[0]?.run();
			if (rig.view().getUint32(8, true) === ExitReason.HYPERCALL) break;
		}
		rig.poke(at, new Uint8Array(8));
		rig.view().setUint8(1, 0);
		const log = runHost(rig, newLog());
		expect(log.events).toEqual(['out f4']);
	});
});

describe('memory after boot', () => {
	it('has a defined value in every byte of RAM that is not the firmware’s', () => {
		const { rig } = boot('v12');
		const first = rig.plain(0, MemoryMap.firmware);
		const low = first.slice(0, 0x9f000);
		expect(low.every((b) => b === 0)).toBe(true);
		// Not RAM in E820: never written through the key.
		expect(first.subarray(0x9f000, 0x100000).every((b) => b === 0)).toBe(false);
		expect(first.subarray(0x100000).every((b) => b === 0)).toBe(true);
		expect(rig.plain(MemoryMap.firmwareEnd, MemoryMap.bootParams - MemoryMap.firmwareEnd).every((b) => b === 0)).toBe(
			true,
		);
		// The kernel's own page by page: nothing stands between its data and its tables.
		const { bootParams, kernelPageTables } = MemoryMap;
		const own = rig.plain(bootParams + KernelOffset.idtEnd, kernelPageTables - bootParams - KernelOffset.idtEnd);
		expect(own.every((b) => b === 0)).toBe(true);
		const tail = MemoryMap.bssDecryptedEnd;
		expect(rig.plain(tail, RAM - tail).every((b) => b === 0)).toBe(true);
	});

	it('holds .bss..decrypted in plaintext for the host, and nothing else', () => {
		const { rig } = boot('v12');
		const { bssDecrypted, bssDecryptedEnd } = MemoryMap;
		expect(rig.ram.subarray(bssDecrypted, bssDecryptedEnd).every((b) => b === 0)).toBe(true);
		expect(rig.ram.subarray(0x100000, 0x200000).some((b) => b !== 0)).toBe(true);
	});

	it('is the same in two boots', () => {
		expect(Buffer.compare(boot('upstream').rig.ram, boot('upstream').rig.ram)).toBe(0);
	});

	it('is the same whether the guest ran in one go or was kicked after every block', () => {
		const straight = boot('upstream');
		const kicked: Rig = createKernelRig('upstream', { afterBlock: () => kicked.kick() });
		const log = newLog();
		do runHost(kicked, log);
		while (log.end < 0);
		expect(log.events).toEqual(straight.log.events);
		expect(Buffer.compare(kicked.ram, straight.rig.ram)).toBe(0);
		for (const name of ['rip', 'rsp', 'rax', 'rbx', 'r12', 'cr3', 'efer'] as const) {
			expect(kicked.register(name)).toBe(straight.rig.register(name));
		}
	});
});

describe('the kernel refuses to run', () => {
	it.each<[string, KernelRigOptions]>([
		['an unknown workload', { params: { workload: 'nothing' } }],
		['no CPUs', { params: { cpus: 0 } }],
		['more CPUs than it has stacks', { params: { cpus: 33 } }],
		['too little RAM for a slice', { params: { ramBytes: MemoryMap.workload + 0x1ff000 } }],
	])('%s', (_, o) => {
		const { rig, log } = boot('v12', o);
		expect(log.end).toBe(ExitReason.SHUTDOWN);
		expect(rig.vcpus[0]?.fault?.code).toBe('ud');
	});
});

describe('several vCPUs', () => {
	it('wait in the mailbox until the boot vCPU is through the late initcall, then share the workload memory', () => {
		const rig: Rig = createKernelRig('upstream', {
			vcpus: 3,
			afterBlock: () => {
				if (++steps > 50) rig.kick(1);
			},
		});
		let steps = 0;
		// It polls, in vain.
		expect(runHost(rig, newLog(), 1).end).toBe(-4);
		steps = -1e9;
		const log = runHost(rig);
		expect(log.migrationMsr).toBe(1n);
		const logs = [1, 2].map((i) => runHost(rig, newLog(), i));
		expect(logs.map((l) => l.events)).toEqual([['out f4'], ['out f4']]);
		const slice = 0x200000n;
		for (const i of [0, 1, 2]) {
			expect(rig.register('rsi', i)).toBe(BigInt(i));
			expect(rig.register('rdi', i)).toBe(BigInt(MemoryMap.bootParams));
			expect(rig.register('rdx', i)).toBe(BigInt(MemoryMap.workload) + BigInt(i) * slice);
			expect(rig.register('rcx', i)).toBe(slice);
			expect(rig.register('r8', i)).toBe(BigInt(MemoryMap.workloadState + 4096 * i));
			expect(rig.register('rsp', i)).toBe(BigInt(MemoryMap.kernelStacks + 0x4000 * (i + 1)));
		}
	});

	it('that the boot parameters do not count stay parked', () => {
		const rig: Rig = createKernelRig('v12', {
			vcpus: 2,
			params: { cpus: 1 },
			afterBlock: () => {
				if (++steps > 100) rig.kick(1);
			},
		});
		let steps = -1e9;
		runHost(rig);
		steps = 0;
		expect(runHost(rig, newLog(), 1).events).toEqual([]);
	});
});

describe('the console', () => {
	it('writes a character to the serial port', () => {
		const { log } = boot('v12', {
			workload: {
				test_start: (cpu) => {
					cpu.setNum('rdi', 0x41);
					return cpu.call('console_putc', 'second');
				},
				second: (cpu) => {
					cpu.setNum('rdi', 0x42);
					return cpu.call('console_putc', 'done');
				},
				done: (cpu) => cpu.out(0xf4, 1, 'test_end'),
			},
		});
		expect(log.console).toEqual([0x41, 0x42]);
	});
});
