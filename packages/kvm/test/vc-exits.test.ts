import { describe, expect, it } from 'vitest';
import { Cap, MsrExitReason } from '../src/abi/capabilities.js';
import { ExitCode, type Ghcb, ghcb, ghcbValidBit, IoInfo, MSR_GHCB } from '../src/abi/ghcb.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import type { Block, GuestCpu } from '../src/vcpu/index.js';
import { createGhcbRig, GHCB, type GhcbRig } from './ghcb-rig.js';
import { loadGates } from './idt-rig.js';

/*
 * A guest with page tables, in which the GHCB alone is shared, and a #VC handler as in the GHCB standard: it copies what the
 * exit needs, and only that, executes VMGEXIT, and takes the answer over.
 */
const TABLES = 0x30000;
const IDT = 0x1000;
const C = 1n << 51n;
/** Where the handler keeps the guest's registers over VMGEXIT: exit code, RAX, RBX, RCX, RDX, RSI. */
const SAVED = 0x2000;
const NAMES = ['rax', 'rbx', 'rcx', 'rdx', 'rsi'] as const;

const at = (field: keyof Ghcb): number => GHCB + ghcb.offsetOf(field);
const put = (
	cpu: GuestCpu,
	field: 'rax' | 'rbx' | 'rcx' | 'rdx' | 'rsi' | 'swExitCode' | 'swExitInfo1' | 'swExitInfo2',
	value: bigint,
): void => {
	cpu.storeU64(at(field), value);
	mark(cpu, field);
};
const mark = (cpu: GuestCpu, field: keyof Ghcb): void => {
	const bit = ghcbValidBit(field);
	const byte = at('validBitmap') + (bit >>> 3);
	cpu.storeU8(byte, cpu.loadU8(byte) | (1 << (bit & 7)));
};
const isMarked = (cpu: GuestCpu, field: keyof Ghcb): boolean => {
	const bit = ghcbValidBit(field);
	return ((cpu.loadU8(at('validBitmap') + (bit >>> 3)) >>> (bit & 7)) & 1) === 1;
};

const blocks: Record<string, Block> = {
	reset: (cpu) => {
		cpu.fill(TABLES, 0x4000, 0);
		for (let level = 0; level < 3; level++)
			cpu.storeU64(TABLES + 0x1000 * level, BigInt(TABLES + 0x1000 * (level + 1)) | 3n | C);
		for (let page = 0; page < 256; page++) {
			cpu.storeU64(TABLES + 0x3000 + 8 * page, BigInt(4096 * page) | 3n | (page === GHCB / 4096 ? 0n : C));
		}
		cpu.cr4 |= 0x20n;
		cpu.efer = 0x100n;
		cpu.cr3 = BigInt(TABLES) | C;
		cpu.cr0 |= 0x80000001n;
		loadGates(cpu, IDT, { 29: cpu.address('vc') });
		cpu.setNum('rsp', 0x9ff0);
		cpu.setNum('rcx', MSR_GHCB);
		cpu.setNum('rax', GHCB);
		cpu.setNum('rdx', 0);
		return cpu.wrmsr('body');
	},
	vc: (cpu) => {
		const code = cpu.loadNum(cpu.num('rsp'));
		cpu.storeNum(SAVED, code);
		for (const [i, name] of NAMES.entries()) cpu.storeU64(SAVED + 8 + 8 * i, cpu.reg(name));
		cpu.storeU64(SAVED + 0x40, cpu.exitInfo1);
		cpu.fill(GHCB, 4096, 0);
		const inputs: readonly (typeof NAMES)[number][] =
			code === ExitCode.CPUID
				? ['rax', 'rcx']
				: code === ExitCode.VMMCALL
					? NAMES
					: code === ExitCode.MSR
						? cpu.exitInfo1 === 0n
							? ['rcx']
							: ['rax', 'rcx', 'rdx']
						: ['rax'];
		for (const name of inputs) put(cpu, name, cpu.reg(name));
		if (code === ExitCode.VMMCALL) mark(cpu, 'cpl');
		put(cpu, 'swExitCode', BigInt(code));
		put(cpu, 'swExitInfo1', cpu.exitInfo1);
		put(cpu, 'swExitInfo2', cpu.exitInfo2);
		// The frame: skip the instruction.
		cpu.storeNum(cpu.num('rsp') + 8, cpu.nrip);
		return cpu.vmgexit('vc_answer');
	},
	vc_answer: (cpu) => {
		const code = cpu.loadNum(SAVED);
		const info1 = cpu.loadU64(SAVED + 0x40);
		cpu.storeU64(SAVED + 0x80, cpu.loadU64(at('swExitInfo1')));
		cpu.storeU64(SAVED + 0x88, cpu.loadU64(at('swExitInfo2')));
		const outputs: readonly (typeof NAMES)[number][] =
			code === ExitCode.CPUID
				? ['rax', 'rbx', 'rcx', 'rdx']
				: code === ExitCode.MSR
					? info1 === 0n
						? ['rax', 'rdx']
						: []
					: code === ExitCode.VMMCALL || (info1 & BigInt(IoInfo.in)) !== 0n
						? ['rax']
						: [];
		for (const name of outputs) {
			if (!isMarked(cpu, name)) return cpu.ud2();
			cpu.setReg(name, cpu.loadU64(at(name as 'rax')));
		}
		cpu.setNum('rsp', cpu.num('rsp') + 8);
		return cpu.iret();
	},
	done: (cpu) => {
		for (const [i, name] of NAMES.entries()) cpu.storeU64(GHCB + 0x800 + 8 * i, cpu.reg(name));
		cpu.storeU64(GHCB + 0x840, cpu.loadU64(SAVED + 0x80));
		cpu.storeU64(GHCB + 0x848, cpu.loadU64(SAVED + 0x88));
		cpu.setNum('rcx', MSR_GHCB);
		cpu.setNum('rax', 0x100);
		cpu.setNum('rdx', 0);
		return cpu.wrmsr('stop');
	},
	stop: (cpu) => cpu.vmgexit('stop'),
};

interface Outcome {
	readonly rig: GhcbRig;
	/** RAX, RBX, RCX, RDX, RSI that the guest had afterwards, then the result of the exchange. */
	readonly seen: readonly bigint[];
	readonly exits: readonly number[];
}

function run(
	body: Block,
	answer: (rig: GhcbRig) => void = () => undefined,
	prepare: (rig: GhcbRig) => void = () => undefined,
): Outcome {
	const rig = createGhcbRig({ steps: 1000, blocks: { ...blocks, body } });
	prepare(rig);
	const exits: number[] = [];
	for (;;) {
		expect(rig.run()).toBe(0);
		if (rig.exitReason() === ExitReason.SYSTEM_EVENT) break;
		expect(rig.threads[0]?.fault).toBeUndefined();
		exits.push(rig.exitReason());
		answer(rig);
	}
	const view = new DataView(rig.ram.bytes.buffer, rig.ram.bytes.byteOffset + GHCB + 0x800);
	const seen = [0, 8, 16, 24, 32, 64, 72].map((offset) => view.getBigUint64(offset, true));
	return { rig, seen, exits };
}

describe('what a migrating SEV-ES guest asks through #VC and its GHCB', () => {
	it('CPUID of KVM’s leaves, without an exit to the VMM', () => {
		const { seen, exits } = run((cpu) => {
			cpu.setNum('rax', 0x40000000);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('done');
		});
		expect([...seen.slice(0, 4), exits.length]).toEqual([0x40000001n, 0x4b4d564bn, 0x564b4d56n, 0x4dn, 0]);
	});
	it('hypercall 12: KVM_EXIT_HYPERCALL, and RAX is what the VMM said', () => {
		const { rig, seen, exits } = run(
			(cpu) => {
				for (const [name, value] of [
					['rax', 12],
					['rbx', 0x5000],
					['rcx', 3],
					['rdx', 0x10],
				] as const) {
					cpu.setNum(name, value);
				}
				return cpu.vmmcall('done');
			},
			(r) => {
				expect([32, 40, 48, 56].map((offset) => r.u64(offset))).toEqual([12n, 0x5000n, 3n, 0x10n]);
				r.view().setBigInt64(RunOffset.hypercallRet, -22n, true);
			},
			(r) => r.vm.enableCap(Cap.EXIT_HYPERCALL, [1n << 12n]),
		);
		expect(exits).toEqual([ExitReason.HYPERCALL]);
		expect(seen.slice(0, 4)).toEqual([2n ** 64n - 22n, 0x5000n, 3n, 0x10n]);
		expect(rig.host64('rbx')).toBe(0x5000n);
	});
	it('the migration MSR: KVM_EXIT_X86_WRMSR, because the VMM filters it', () => {
		const { exits, seen } = run(
			(cpu) => {
				cpu.setNum('rcx', 0x4b564d08);
				cpu.setNum('rax', 1);
				cpu.setNum('rdx', 0);
				return cpu.wrmsr('done');
			},
			(r) => {
				expect([r.u32(40), r.u32(44), r.u64(48)]).toEqual([4, 0x4b564d08, 1n]);
				r.view().setUint8(RunOffset.msrError, 0);
			},
			(r) => {
				r.vm.enableCap(Cap.X86_USER_SPACE_MSR, [BigInt(MsrExitReason.FILTER)]);
				const range = { flags: 3, base: 0x4b564d08, nmsrs: 1, bitmap: new Uint8Array(8) };
				expect(r.vm.setMsrFilter({ flags: 0, ranges: [range] })).toBe(0);
			},
		);
		expect(exits).toEqual([ExitReason.X86_WRMSR]);
		expect(seen.slice(5)).toEqual([0n, 0n]);
	});
	it('an MSR that nobody has: #GP for the guest to raise', () => {
		const { seen, exits } = run((cpu) => {
			cpu.setNum('rcx', 0xdeadbeef);
			return cpu.rdmsr('done');
		});
		expect([seen.slice(5), exits]).toEqual([[1n, 0x8000030dn], []]);
	});
	it('OUT and IN: KVM_EXIT_IO', () => {
		const out = run((cpu) => {
			cpu.setNum('rax', 0x41);
			return cpu.out(0x3f8, 1, 'done');
		});
		expect(out.exits).toEqual([ExitReason.IO]);
		expect(out.rig.vcpus[0]?.run[RunOffset.ioData]).toBe(0x41);
		const into = run(
			(cpu) => cpu.in(0x511, 4, 'done'),
			(r) => r.view().setUint32(RunOffset.ioData, 0xcafebabe, true),
		);
		expect(into.seen[0]).toBe(0xcafebaben);
	});
});
