import { describe, expect, it } from 'vitest';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import type { Block, GuestCpu } from '../src/vcpu/index.js';
import { createRig, programOf, type Rig } from './guest-rig.js';
import { gate, loadGates } from './idt-rig.js';

const MIB = 1 << 20;
const IDT = 0x1000;
const STACK = 0x8008;

/** Loads gates for the vectors named, all at `handler`, and a stack; then goes on to `body`. */
const rigOf = (blocks: Readonly<Record<string, Block>>, vectors: readonly number[] = [6, 13, 14, 29]): Rig => {
	const reset: Block = (cpu) => {
		const handler = cpu.address('handler');
		loadGates(cpu, IDT, Object.fromEntries(vectors.map((vector) => [vector, handler])));
		cpu.setNum('rsp', STACK);
		return cpu.jump('body');
	};
	const end: Block = (cpu) => cpu.out(0xf4, 1, 'end');
	return createRig({ ramBytes: MIB, program: programOf({ reset, handler: end, end, ...blocks }) });
};
const address = (block: string): bigint => BigInt(0x10000 + 16 * ['reset', 'handler', 'end', 'body'].indexOf(block));
/** u64s from RSP on. */
const frame = (rig: Rig, words: number): bigint[] => {
	const bytes = rig.plain(Number(rig.register('rsp')), 8 * words);
	return [...new BigUint64Array(bytes.slice().buffer)];
};

describe('an exception with a gate', () => {
	it('pushes SS, RSP, RFLAGS, CS and RIP, below a stack pointer that is aligned down', () => {
		const rig = rigOf({ body: (cpu) => cpu.ud2('end') });
		rig.setRegister('rflags', 0x10302n);
		rig.setRegister('cs', 0x33n);
		rig.setRegister('ss', 0x2bn);
		expect(rig.vcpus[0]?.run()).toBe(0);
		expect(rig.view().getUint32(RunOffset.exitReason, true)).toBe(ExitReason.IO);
		expect(rig.register('rsp')).toBe(0x8000n - 40n);
		expect(frame(rig, 5)).toEqual([address('body'), 0x33n, 0x10302n, BigInt(STACK), 0x2bn]);
		// TF, RF, IF are off in the handler.
		expect(rig.register('rflags')).toBe(2n);
		expect(rig.register('cs') & 0xffffn).toBe(8n);
		expect(rig.register('nrip')).toBe(address('end'));
	});
	it('#GP pushes an error code of 0 below', () => {
		const rig = rigOf({
			body: (cpu) => {
				cpu.setNum('rcx', 0xdeadbeef);
				return cpu.rdmsr('end');
			},
		});
		rig.vcpus[0]?.run();
		expect(rig.register('rsp')).toBe(0x8000n - 48n);
		expect(frame(rig, 2)).toEqual([0n, address('body')]);
	});
	it('a trap gate leaves the interrupt flag', () => {
		const rig = rigOf({
			body: (cpu) => {
				cpu.store(IDT + 6 * 16, gate(cpu.address('handler'), { type: 0x8f }));
				return cpu.ud2();
			},
		});
		rig.setRegister('rflags', 0x202n);
		rig.vcpus[0]?.run();
		expect(rig.register('rflags')).toBe(0x202n);
	});
	it('IRET goes on where the handler says, with what was pushed', () => {
		const rig = rigOf({
			body: (cpu) => cpu.ud2('after'),
			handler: (cpu) => {
				cpu.storeNum(cpu.num('rsp'), cpu.nrip);
				return cpu.iret();
			},
			after: (cpu) => cpu.jump('end'),
		});
		rig.setRegister('rflags', 0x202n);
		rig.vcpus[0]?.run();
		expect(rig.vcpus[0]?.fault).toBeUndefined();
		expect(['rsp', 'rflags', 'cpl'].map((name) => rig.register(name as 'rsp'))).toEqual([BigInt(STACK), 0x202n, 0n]);
	});
	it('an access that the VMM refuses is raised when KVM_RUN comes back', () => {
		const rig = rigOf({
			body: (cpu) => {
				cpu.setNum('rcx', 0xdeadbeef);
				return cpu.wrmsr('end');
			},
			handler: (cpu) => cpu.out(0x99, 1, 'end'),
		});
		rig.words[5] = 2;
		expect(rig.vcpus[0]?.run()).toBe(0);
		rig.view().setUint8(RunOffset.msrError, 1);
		expect(rig.vcpus[0]?.run()).toBe(0);
		expect(rig.view().getUint16(RunOffset.ioPort, true)).toBe(0x99);
		expect(frame(rig, 2)).toEqual([0n, address('body')]);
		expect(rig.register('nrip')).toBe(address('end'));
	});
	it('a block that faults in its middle is itself where a handler may go on', () => {
		const rig = rigOf({
			body: (cpu) => {
				cpu.cr0 |= 0x80000001n;
				return cpu.jump('end');
			},
			handler: (cpu) => {
				cpu.efer = 0n;
				return cpu.out(0x98, 1, 'end');
			},
		});
		rig.setRegister('efer', 0x100n);
		rig.vcpus[0]?.run();
		expect(rig.register('nrip')).toBe(address('body'));
		expect(frame(rig, 2)).toEqual([0n, address('body')]);
	});
});

describe('a page fault', () => {
	const TABLES = 0x20000;
	const enter = (cpu: GuestCpu, last: bigint): void => {
		cpu.fill(TABLES, 0x4000, 0);
		cpu.storeU64(TABLES, BigInt(TABLES + 0x1000) | 3n);
		cpu.storeU64(TABLES + 0x1000, BigInt(TABLES + 0x2000) | 3n);
		cpu.storeU64(TABLES + 0x2000, 0x83n | (1n << 51n));
		cpu.storeU64(TABLES + 0x2008, last);
		cpu.cr4 = 0x20n;
		cpu.efer = 0x100n;
		cpu.cr3 = BigInt(TABLES);
		cpu.cr0 = 0x80000001n;
	};
	const faulting = (last: bigint, access: (cpu: GuestCpu) => void, cpl = 0): Rig => {
		const rig = rigOf({
			body: (cpu) => {
				enter(cpu, last);
				return cpu.jump('access');
			},
			access: (cpu) => {
				access(cpu);
				return cpu.jump('end');
			},
			handler: (cpu) => {
				cpu.setNum('r8', cpu.cr2);
				cpu.setNum('r9', cpu.cpl);
				return cpu.out(0x97, 1, 'end');
			},
		});
		rig.setRegister('cpl', BigInt(cpl));
		rig.vcpus[0]?.run();
		return rig;
	};
	it.each<[string, bigint, (cpu: GuestCpu) => void, bigint]>([
		['a read of what is not mapped', 0n, (cpu) => cpu.loadU8(0x212345), 0n],
		['a write of what is not mapped', 0n, (cpu) => cpu.storeU8(0x212345, 1), 2n],
		['a write of what is read-only', 0x81n | (1n << 51n), (cpu) => cpu.storeU8(0x212345, 1), 3n],
	])('%s has its error code and CR2', (_, last, access, code) => {
		const rig = faulting(last, access);
		expect(rig.vcpus[0]?.fault).toBeUndefined();
		expect([rig.register('r8'), frame(rig, 1)[0]]).toEqual([0x212345n, code]);
	});
});

describe('a change of privilege', () => {
	const TSS = 0x2000;
	it('takes RSP0 from the TSS, and IRET gives back the stack and CPL 3', () => {
		let blocks = 0;
		const seen: bigint[] = [];
		const program = programOf({
			reset: (cpu) => {
				loadGates(cpu, IDT, { 6: cpu.address('handler') });
				cpu.setNum('rsp', STACK);
				cpu.storeU64(TSS + 4, 0x9000n);
				cpu.ltr(TSS, 103);
				return cpu.jump('body');
			},
			body: (cpu) => cpu.ud2('end'),
			handler: (cpu) => {
				seen.push(cpu.reg('rsp'), BigInt(cpu.cpl));
				cpu.storeNum(cpu.num('rsp'), cpu.nrip);
				return cpu.iret();
			},
			end: (cpu) => cpu.jump('end'),
		});
		const inner: Rig = createRig({
			ramBytes: MIB,
			program,
			afterBlock: () => {
				if (++blocks === 4) inner.kick();
			},
		});
		inner.setRegister('cpl', 3n);
		inner.setRegister('cs', 0x33n);
		inner.setRegister('ss', 0x2bn);
		expect(inner.vcpus[0]?.run()).toBe(-4);
		expect(seen).toEqual([0x9000n - 40n, 0n]);
		expect(['rsp', 'cpl', 'ss'].map((name) => inner.register(name as 'rsp'))).toEqual([BigInt(STACK), 3n, 0x2bn]);
	});
	it('without a TSS is a triple fault', () => {
		const rig = rigOf({
			body: (cpu) => {
				cpu.ltr(TSS, 10);
				return cpu.ud2();
			},
		});
		rig.setRegister('cpl', 3n);
		rig.vcpus[0]?.run();
		expect(rig.vcpus[0]?.fault?.code).toBe('ud');
	});
	it('a gate with IST takes that stack without a change of privilege', () => {
		const rig = rigOf({
			body: (cpu) => {
				cpu.storeU64(TSS + 0x24, 0xa000n);
				cpu.ltr(TSS, 103);
				cpu.store(IDT + 6 * 16, gate(cpu.address('handler'), { ist: 1 }));
				return cpu.ud2();
			},
		});
		rig.vcpus[0]?.run();
		expect(rig.register('rsp')).toBe(0xa000n - 40n);
	});
});

describe('a triple fault is', () => {
	const shutdown = (rig: Rig): string | undefined => {
		expect(rig.vcpus[0]?.run()).toBe(0);
		expect(rig.view().getUint32(RunOffset.exitReason, true)).toBe(ExitReason.SHUTDOWN);
		return rig.vcpus[0]?.fault?.code;
	};
	it('an exception without a gate', () => {
		expect(shutdown(rigOf({ body: (cpu) => cpu.ud2() }, [29]))).toBe('ud');
	});
	it.each([
		['a limit of 0', (cpu: GuestCpu) => cpu.lidt(IDT, 0)],
		['a limit that cuts the gate', (cpu: GuestCpu) => cpu.lidt(IDT, 7 * 16 - 2)],
		['an IDT without memory', (cpu: GuestCpu) => cpu.lidt(0x10000000, 511)],
		['a stack without memory', (cpu: GuestCpu) => cpu.setNum('rsp', 0x10000000)],
		['a stack below 0', (cpu: GuestCpu) => cpu.setNum('rsp', 8)],
		['a gate that is not present', (cpu: GuestCpu) => cpu.store(IDT + 96, gate(cpu.address('handler'), { type: 0xe }))],
		['a call gate', (cpu: GuestCpu) => cpu.store(IDT + 96, gate(cpu.address('handler'), { type: 0x8c }))],
		['a handler at CPL 3', (cpu: GuestCpu) => cpu.store(IDT + 96, gate(cpu.address('handler'), { selector: 0x33 }))],
	])('%s', (_, change) => {
		const rig = rigOf({
			body: (cpu) => {
				change(cpu);
				return cpu.ud2();
			},
		});
		expect(shutdown(rig)).toBe('ud');
	});
	it('a limit that just holds the gate is none', () => {
		const rig = rigOf({
			body: (cpu) => {
				cpu.lidt(IDT, 7 * 16 - 1);
				return cpu.ud2();
			},
		});
		rig.vcpus[0]?.run();
		expect(rig.vcpus[0]?.fault).toBeUndefined();
	});
	it('a handler that is no code', () => {
		const rig = rigOf({
			body: (cpu) => {
				cpu.store(IDT + 96, gate(0x123450));
				return cpu.ud2();
			},
		});
		expect(shutdown(rig)).toBe('code');
	});
});

describe('the code segment', () => {
	it('is added to RIP; a jump within it stays in it, one out of it loads a flat one', () => {
		const seen: (readonly [bigint, bigint])[] = [];
		const program = programOf({
			reset: (cpu) => cpu.jump('near'),
			near: (cpu) => cpu.jump('far'),
			far: (cpu) => cpu.out(0xf4, 1, 'far'),
		});
		const rig: Rig = createRig({
			ramBytes: MIB,
			program,
			afterBlock: () => seen.push([rig.register('csBase'), rig.register('rip')]),
		});
		rig.setRegister('csBase', 0x10000n);
		rig.setRegister('cs', (0x1fn << 32n) | 0x9b1000n);
		rig.setRegister('rip', 0x10n);
		rig.vcpus[0]?.run();
		expect(rig.vcpus[0]?.fault).toBeUndefined();
		expect(seen[0]).toEqual([0n, 0x10020n]);
	});
	it('stays while jumps are within its limit', () => {
		const program = programOf({
			reset: (cpu) => cpu.jump('near'),
			near: (cpu) => cpu.out(0xf4, 1, 'near'),
		});
		const rig = createRig({ ramBytes: MIB, program });
		rig.setRegister('csBase', 0xffff0000n);
		rig.setRegister('cs', (0xffffn << 32n) | 0x9bf000n);
		rig.setRegister('rip', 0xfff0n);
		rig.vcpus[0]?.run();
		expect([rig.register('csBase'), rig.register('rip')]).toEqual([0n, 0x10010n]);
	});
});
