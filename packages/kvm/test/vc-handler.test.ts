import { describe, expect, it } from 'vitest';
import { ExitCode, ghcb, ghcbValidBit } from '../src/abi/ghcb.js';
import { esBlocks } from '../src/guest/es-boot.js';
import { KernelOffset, setVcGate, vcBlocks } from '../src/guest/index.js';
import { KernelData } from '../src/guest/kernel-data.js';
import type { Block, GuestCpu, Next, RegName } from '../src/vcpu/index.js';

const GHCB = 0x1000;
const STACK = 0x3000;
const NRIP = 0xabc0;
const MEMORY = 0x80000;
const NEXT = {} as Next;
const RETURN = { error: 0, rip: 8, cs: 16 } as const;

/** A vCPU without hypervisor or page tables: one block at a time, and where it ended. */
function bareCpu(o: { gsBase?: number; exitInfo1?: bigint } = {}) {
	const bytes = new Uint8Array(MEMORY);
	const view = new DataView(bytes.buffer);
	const registers = new Map<RegName, bigint>();
	const ended: { as: string; to?: string | number }[] = [];
	const end =
		(as: string) =>
		(to?: string | number): Next => {
			ended.push(to === undefined ? { as } : { as, to });
			return NEXT;
		};
	const integer = (size: number) => (va: number) => {
		let value = 0n;
		for (let i = size - 1; i >= 0; i--) value = value * 256n + BigInt(bytes[va + i] ?? 0);
		return value;
	};
	const put = (size: number) => (va: number, value: number | bigint) => {
		for (let i = 0; i < size; i++) bytes[va + i] = Number((BigInt(value) >> BigInt(8 * i)) & 0xffn);
	};
	const cpu: Partial<Record<keyof GuestCpu, unknown>> = {
		reg: (name: RegName) => registers.get(name) ?? 0n,
		setReg: (name: RegName, value: bigint) => void registers.set(name, BigInt.asUintN(64, value)),
		num: (name: RegName) => Number(registers.get(name) ?? 0n),
		setNum: (name: RegName, value: number) => void registers.set(name, BigInt(value)),
		...{ gsBase: o.gsBase ?? GHCB, exitInfo1: o.exitInfo1 ?? 0n, nrip: NRIP, cr3: BigInt(KernelOffset.pageTables) },
		loadU8: (va: number) => bytes[va] ?? 0,
		loadU32: (va: number) => view.getUint32(va, true),
		loadU64: integer(8),
		loadNum: (va: number) => Number(integer(8)(va)),
		storeU8: put(1),
		storeU32: put(4),
		storeU64: put(8),
		storeNum: put(8),
		fill: (va: number, length: number, byte: number) => void bytes.fill(byte, va, va + length),
		address: () => 0x1_2345_6780,
		jump: end('jump'),
		vmgexit: end('vmgexit'),
		wrmsr: end('wrmsr'),
		iret: end('iret'),
		ud2: end('ud2'),
	};
	registers.set('rsp', BigInt(STACK));
	const run = (blocks: Readonly<Record<string, Block>>, label: string) => {
		const block = blocks[label];
		if (block === undefined) throw new Error(`label: expected one of the blocks, got ${label}`);
		block(cpu as unknown as GuestCpu);
		return ended.at(-1);
	};
	return { cpu: cpu as unknown as GuestCpu, bytes, view, registers, run };
}
type Cpu = ReturnType<typeof bareCpu>;

/** The fields that the guest says are valid, in the order of the layout. */
const validFields = ({ bytes }: Cpu) =>
	Object.keys(ghcb.fields).filter((name) => {
		const bit = ghcbValidBit(name as Parameters<typeof ghcbValidBit>[0]);
		return bit < 128 && (((bytes[GHCB + 0x3f0 + (bit >> 3)] ?? 0) >> (bit & 7)) & 1) === 1;
	});
const EXIT = ['swExitCode', 'swExitInfo1', 'swExitInfo2'];

/** What the handler puts into the GHCB for an exit code. */
function asked(code: number, o: { hypercall?: 'kvm' | 'ovmf'; rax?: bigint; info1?: bigint; cs?: bigint } = {}) {
	const guest = bareCpu({ exitInfo1: o.info1 ?? 0n });
	guest.view.setBigUint64(STACK + RETURN.error, BigInt(code), true);
	guest.view.setBigUint64(STACK + RETURN.cs, o.cs ?? 8n, true);
	guest.registers.set('rax', o.rax ?? 0n);
	const end = guest.run(vcBlocks({ prefix: 'vc', hypercall: o.hypercall ?? 'kvm' }), 'vc.handler');
	return { guest, end, fields: validFields(guest) };
}

const u64 = ({ view }: Cpu, field: 'rax' | 'swExitCode' | 'swExitInfo1') =>
	view.getBigUint64(GHCB + ghcb.offsetOf(field), true);

describe('the #VC handler', () => {
	it.each<[string, Parameters<typeof asked>, readonly string[]]>([
		['CPUID', [ExitCode.CPUID, { rax: 1n }], ['rax', 'rcx']],
		['CPUID of XSAVE, which depends on XCR0', [ExitCode.CPUID, { rax: 0xdn }], ['rax', 'rcx', 'xcr0']],
		['RDMSR', [ExitCode.MSR], ['rcx']],
		['WRMSR', [ExitCode.MSR, { info1: 1n }], ['rax', 'rcx', 'rdx']],
		['IN', [ExitCode.IOIO, { info1: 0x3f80011n }], []],
		['OUT', [ExitCode.IOIO, { info1: 0x3f80010n }], ['rax']],
		['VMMCALL in Linux on KVM', [ExitCode.VMMCALL, { rax: 12n }], ['cpl', 'rax', 'rcx', 'rdx', 'rbx', 'rsi']],
		['VMMCALL 12 in OVMF', [ExitCode.VMMCALL, { rax: 12n, hypercall: 'ovmf' }], ['cpl', 'rax', 'rcx', 'rdx', 'rbx']],
		['another VMMCALL in OVMF', [ExitCode.VMMCALL, { rax: 11n, hypercall: 'ovmf' }], ['cpl', 'rax']],
	])('shows the host of %s what the event needs, and no more', (_, ask, expected) => {
		const { fields, guest, end } = asked(...ask);
		expect(fields.filter((f) => !EXIT.includes(f)).sort()).toEqual([...expected].sort());
		expect(fields).toEqual(expect.arrayContaining(EXIT));
		expect(u64(guest, 'swExitCode')).toBe(BigInt(ask[0]));
		expect(end).toEqual({ as: 'vmgexit', to: 'vc.answered' });
		expect(guest.view.getBigUint64(STACK + RETURN.rip, true)).toBe(BigInt(NRIP));
	});

	it('says which privilege the caller of VMMCALL has', () => {
		for (const [cs, cpl] of [
			[0x10n, 0],
			[0x33n, 3],
		] as const) {
			expect(asked(ExitCode.VMMCALL, { cs }).guest.bytes[GHCB + ghcb.offsetOf('cpl')]).toBe(cpl);
		}
	});

	it('passes no more of RAX to a port than the instruction does', () => {
		const { guest } = asked(ExitCode.IOIO, { info1: 0x3f80010n, rax: 0x1122334455667788n });
		expect(u64(guest, 'rax')).toBe(0x88n);
	});

	it.each([ExitCode.NPF, ExitCode.RDPMC, 0x40])('ends the guest at exit 0x%x, which it does not know', (code) => {
		expect(asked(code).end).toEqual({ as: 'jump', to: 'vc.terminate' });
	});

	it('ends the guest if there is no GHCB', () => {
		const guest = bareCpu({ gsBase: 0 });
		guest.view.setBigUint64(STACK, BigInt(ExitCode.CPUID), true);
		expect(guest.run(vcBlocks({ prefix: 'vc', hypercall: 'kvm' }), 'vc.handler')).toEqual({
			as: 'jump',
			to: 'vc.terminate',
		});
	});
});

/** What the handler makes of an answer. `valid`: the fields that the host marked. */
function answered(code: number, verdict: number, valid: readonly ('rax' | 'rbx' | 'rcx' | 'rdx')[], info1 = 0n) {
	const guest = bareCpu({ exitInfo1: info1 });
	guest.view.setBigUint64(STACK + RETURN.error, BigInt(code), true);
	guest.view.setUint32(GHCB + ghcb.offsetOf('swExitInfo1'), verdict, true);
	for (const [i, name] of (['rax', 'rbx', 'rcx', 'rdx'] as const).entries()) {
		guest.registers.set(name, 0xffff_0000_0000_0000n + BigInt(i));
		guest.view.setBigUint64(GHCB + ghcb.offsetOf(name), 0x100n + BigInt(i), true);
	}
	for (const name of valid) {
		const bit = ghcbValidBit(name);
		guest.bytes[GHCB + 0x3f0 + (bit >> 3)] = (guest.bytes[GHCB + 0x3f0 + (bit >> 3)] ?? 0) | (1 << (bit & 7));
	}
	const end = guest.run(vcBlocks({ prefix: 'vc', hypercall: 'kvm' }), 'vc.answered');
	return { end, registers: (['rax', 'rbx', 'rcx', 'rdx'] as const).map((n) => guest.registers.get(n)), guest };
}
const OLD = [0, 1, 2, 3].map((i) => 0xffff_0000_0000_0000n + BigInt(i));
const TERMINATE = { as: 'jump', to: 'vc.terminate' };

describe('an answer of the host', () => {
	it.each([
		[ExitCode.CPUID, ['rax', 'rbx', 'rcx', 'rdx'], 0n, [0x100n, 0x101n, 0x102n, 0x103n]],
		[ExitCode.MSR, ['rax', 'rdx'], 0n, [0x100n, OLD[1], OLD[2], 0x103n]],
		[ExitCode.MSR, [], 1n, OLD],
		[ExitCode.VMMCALL, ['rax'], 0n, [0x100n, ...OLD.slice(1)]],
		[ExitCode.IOIO, ['rax'], 0x11n, [0xffff_0000_0000_0000n, ...OLD.slice(1)]],
		[ExitCode.IOIO, ['rax'], 0x41n, [0x100n, ...OLD.slice(1)]],
		[ExitCode.IOIO, [], 0x10n, OLD],
	] as const)('to exit 0x%x is taken over, and nothing else: %j', (code, valid, info1, expected) => {
		const { end, registers, guest } = answered(code, 0, valid, info1);
		expect(end).toEqual({ as: 'iret' });
		expect(registers).toEqual(expected);
		expect(guest.registers.get('rsp')).toBe(BigInt(STACK + RETURN.rip));
	});

	it.each([
		['CPUID', ExitCode.CPUID, ['rax', 'rbx', 'rcx'], 0n],
		['CPUID', ExitCode.CPUID, [], 0n],
		['RDMSR', ExitCode.MSR, ['rax'], 0n],
		['VMMCALL', ExitCode.VMMCALL, [], 0n],
		['IN', ExitCode.IOIO, ['rdx'], 0x11n],
	] as const)('to %s that leaves a result out ends the guest', (_, code, valid, info1) => {
		const { end, registers } = answered(code, 0, valid, info1);
		expect(end).toEqual(TERMINATE);
		expect(registers).toEqual(OLD);
	});

	it('may want an exception, which nothing here survives', () => {
		expect(answered(ExitCode.MSR, 1, []).end).toEqual({ as: 'jump', to: 'vc.exception' });
	});

	it.each([2, 3, 0xffffffff])('with the verdict %i ends the guest', (verdict) => {
		expect(answered(ExitCode.MSR, verdict, ['rax', 'rdx']).end).toEqual(TERMINATE);
	});
});

describe('without a GHCB', () => {
	const blocks = vcBlocks({ prefix: 'vc', hypercall: 'kvm' });

	it('only CPUID is handled', () => {
		const guest = bareCpu();
		guest.view.setBigUint64(STACK, BigInt(ExitCode.MSR), true);
		expect(guest.run(blocks, 'vc.no_ghcb')).toEqual(TERMINATE);
	});

	it('an answer that is none ends the guest', () => {
		const guest = bareCpu();
		guest.registers.set('rax', 0x004n);
		expect(guest.run(blocks, 'vc.cpuid_store')).toEqual(TERMINATE);
	});

	it('the end is asked for by the MSR protocol: reason set 0, reason 0', () => {
		const guest = bareCpu();
		expect(guest.run(blocks, 'vc.terminate')).toEqual({ as: 'wrmsr', to: 'vc.terminate_exit' });
		expect(['rcx', 'rax', 'rdx'].map((n) => guest.registers.get(n as RegName))).toEqual([0xc0010130n, 0x100n, 0n]);
	});
});

describe('the version of the protocol', () => {
	const C_BIT = 51;
	const negotiated = (min: number, max: number, cBit = C_BIT, code = 1) => {
		const guest = bareCpu();
		guest.view.setUint32(KernelData.cBit, C_BIT, true);
		guest.registers.set('rax', BigInt(code) | (BigInt(cBit) << 24n));
		guest.registers.set('rdx', BigInt(min) | (BigInt(max) << 16n));
		const end = guest.run(esBlocks, 'es_info_check');
		return { end, rax: guest.registers.get('rax'), version: guest.view.getUint32(KernelData.ghcbVersion, true) };
	};

	it.each([
		[1, 1, 1],
		[1, 2, 2],
		[2, 2, 2],
		[1, 9, 2],
	])('from %i to %i is %i', (min, max, version) => {
		const result = negotiated(min, max);
		expect(result.end).toEqual({ as: 'wrmsr', to: 'kvm_init_platform' });
		expect(result.version).toBe(version);
		expect(result.rax).toBe(BigInt(KernelOffset.bootGhcb));
	});

	it.each([
		['is too new', 3, 9, C_BIT, 1],
		['is none', 0, 0, C_BIT, 1],
		['comes with another C-bit', 1, 2, 47, 1],
		['is no answer', 1, 2, C_BIT, 2],
	])('that %s ends the guest: reason set 0, reason 1', (_, min, max, cBit, code) => {
		const result = negotiated(min, max, cBit, code);
		expect(result.end).toEqual({ as: 'wrmsr', to: 'vc.terminate_exit' });
		expect(result.rax).toBe(0x10100n);
	});
});

it('a gate holds its handler’s address in three parts', () => {
	const { cpu, bytes } = bareCpu();
	setVcGate(cpu, 0x2000, 'handler');
	const gate = [...bytes.subarray(0x2000 + 29 * 16, 0x2000 + 30 * 16)];
	expect(gate).toEqual([0x80, 0x67, 8, 0, 0, 0x8e, 0x45, 0x23, 1, 0, 0, 0, 0, 0, 0, 0]);
});
