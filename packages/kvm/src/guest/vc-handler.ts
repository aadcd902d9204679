import { ExitCode, GHCB_BUFFER, GhcbMsr, GhcbResult, IoInfo } from '../abi/ghcb.js';
import type { Block, GuestCpu } from '../vcpu/program.js';
import { clearGhcb, ghcbAnswer, ghcbExit, ghcbVerdict, setGhcb, writeGhcbMsr } from './ghcb.js';
import { low32, pop, push } from './kernel-data.js';

/** Vector of #VC. */
const VECTOR_VC = 29;
const IDT_BYTES = 0x1000;
const CODE_SEGMENT = 0x08;
/** Present, DPL 0, 64-bit interrupt gate. */
const GATE_ATTRIBUTES = 0x8e00;

/** Makes an IDT at `at` that has the gate of #VC alone, and loads it: every other exception is a triple fault. */
export function loadIdt(cpu: GuestCpu, at: number, handler: string): void {
	cpu.fill(at, IDT_BYTES, 0);
	setVcGate(cpu, at, handler);
	cpu.lidt(at, IDT_BYTES - 1);
}

/** Points the gate of #VC to another handler (APM vol. 2 §4.8.4). */
export function setVcGate(cpu: GuestCpu, idt: number, handler: string): void {
	const gate = idt + 16 * VECTOR_VC;
	const address = cpu.address(handler);
	cpu.storeU32(gate, ((CODE_SEGMENT << 16) | (address & 0xffff)) >>> 0);
	cpu.storeU32(gate + 4, ((address & 0xffff0000) | GATE_ATTRIBUTES) >>> 0);
	cpu.storeU64(gate + 8, BigInt(Math.floor(address / 2 ** 32)));
}

export interface VcOptions {
	/** Labels are `<prefix>.handler`, `<prefix>.no_ghcb`, `<prefix>.terminate`, `<prefix>.mmio_read`, `<prefix>.mmio_write`. */
	readonly prefix: string;
	/**
	 * What VMMCALL passes besides RAX and CPL: Linux on KVM RBX, RCX, RDX and RSI (arch/x86/kernel/kvm.c
	 * `kvm_sev_es_hcall_prepare`), OVMF with the live-migration patches v6 RBX, RCX and RDX, and those for hypercall 12 alone.
	 * Upstream's OVMF passes nothing else, so that no hypercall with arguments can work.
	 */
	readonly hypercall: 'kvm' | 'ovmf' | 'ovmf-upstream';
}

/** What the stack holds when a handler starts: the error code, then RIP, CS. */
const Frame = { error: 0, rip: 8, cs: 16 } as const;
/** What `no_ghcb` pushes, lowest first: EAX, EBX, ECX, EDX in the order in which the protocol numbers them. */
const SAVED = ['rax', 'rbx', 'rcx', 'rdx', 'r12'] as const;
const SAVED_BYTES = 8 * SAVED.length;

const ioSize = (info1: bigint): number => (Number(info1) >>> IoInfo.sizeShift) & IoInfo.sizeMask;
const isOut = (info1: bigint): boolean => (Number(info1) & IoInfo.in) === 0;
/** What IN leaves in RAX. */
const keepHigh = (old: bigint, value: bigint, bytes: number): bigint => {
	if (bytes === 4) return BigInt.asUintN(32, value);
	const bits = BigInt(8 * bytes);
	return ((old >> bits) << bits) | BigInt.asUintN(8 * bytes, value);
};

/**
 * The #VC handlers of a SEV-ES guest, as guest code.
 *
 * `handler` asks the host through the GHCB that GS base points to (Linux arch/x86/kernel/sev-shared.c, sev-es.c): CPUID,
 * IN and OUT, RDMSR and WRMSR, VMMCALL. It changes no register but the results. An exception that the host wants raised is
 * `<prefix>.exception`, which ends in a triple fault, as nothing here handles #GP. What the handler does not know, such as
 * MMIO (which would need an instruction decoder), and what the host answers against the protocol ends in `terminate`.
 *
 * `no_ghcb` is for the time before there is a GHCB page: CPUID by the MSR protocol, register by register.
 *
 * `mmio_read` (RDI = GPA, RSI = bytes; RAX = value) and `mmio_write` (RDX = value) ask for what a decoder would have found.
 */
export function vcBlocks({ prefix, hypercall }: VcOptions): Record<string, Block> {
	const l = (name: string) => `${prefix}.${name}`;
	const ask: Record<number, (cpu: GuestCpu, at: number, frame: number) => readonly [bigint, bigint] | undefined> = {
		[ExitCode.CPUID]: (cpu, at) => {
			setGhcb(cpu, at, 'rax', cpu.reg('rax'));
			setGhcb(cpu, at, 'rcx', cpu.reg('rcx'));
			// XGETBV is not part of the model; CR4.OSXSAVE is never set, and XCR0 has x87 alone.
			if (low32(cpu, 'rax') === 0xd) setGhcb(cpu, at, 'xcr0', 1n);
			return [0n, 0n];
		},
		[ExitCode.MSR]: (cpu, at) => {
			setGhcb(cpu, at, 'rcx', cpu.reg('rcx'));
			if (cpu.exitInfo1 !== 0n) {
				setGhcb(cpu, at, 'rax', cpu.reg('rax'));
				setGhcb(cpu, at, 'rdx', cpu.reg('rdx'));
			}
			return [cpu.exitInfo1, 0n];
		},
		[ExitCode.IOIO]: (cpu, at) => {
			const size = ioSize(cpu.exitInfo1);
			if (isOut(cpu.exitInfo1)) setGhcb(cpu, at, 'rax', BigInt.asUintN(8 * size, cpu.reg('rax')));
			return [cpu.exitInfo1, 0n];
		},
		[ExitCode.VMMCALL]: (cpu, at, frame) => {
			setGhcb(cpu, at, 'rax', cpu.reg('rax'));
			setGhcb(cpu, at, 'cpl', BigInt(cpu.loadU8(frame + Frame.cs) & 3));
			if (hypercall === 'kvm' || (hypercall === 'ovmf' && cpu.reg('rax') === 12n)) {
				setGhcb(cpu, at, 'rbx', cpu.reg('rbx'));
				setGhcb(cpu, at, 'rcx', cpu.reg('rcx'));
				setGhcb(cpu, at, 'rdx', cpu.reg('rdx'));
			}
			if (hypercall === 'kvm') setGhcb(cpu, at, 'rsi', cpu.reg('rsi'));
			return [0n, 0n];
		},
	};
	/** Takes over the results; false if the host left one out. */
	const take = (cpu: GuestCpu, at: number, code: number): boolean => {
		const rax = ghcbAnswer(cpu, at, 'rax');
		const info1 = cpu.exitInfo1;
		if (code === ExitCode.MSR && info1 !== 0n) return true;
		if (code === ExitCode.IOIO && isOut(info1)) return true;
		if (rax === undefined) return false;
		if (code === ExitCode.IOIO) {
			cpu.setReg('rax', keepHigh(cpu.reg('rax'), rax, ioSize(info1)));
			return true;
		}
		const wants =
			code === ExitCode.CPUID ? (['rbx', 'rcx', 'rdx'] as const) : code === ExitCode.MSR ? (['rdx'] as const) : [];
		const rest = wants.map((name) => ghcbAnswer(cpu, at, name));
		if (rest.includes(undefined)) return false;
		cpu.setReg('rax', rax);
		wants.forEach((name, i) => {
			cpu.setReg(name, rest[i] ?? 0n);
		});
		return true;
	};
	return {
		[l('handler')]: (cpu) => {
			const frame = cpu.num('rsp');
			const code = cpu.loadNum(frame + Frame.error);
			const at = cpu.gsBase;
			const request = ask[code];
			if (request === undefined || at === 0) return cpu.jump(l('terminate'));
			// Here, where nothing can have raised another exception.
			cpu.storeNum(frame + Frame.rip, cpu.nrip);
			clearGhcb(cpu, at);
			const [info1, info2] = request(cpu, at, frame) ?? [0n, 0n];
			return ghcbExit(cpu, at, code, info1, info2, l('answered'));
		},
		[l('answered')]: (cpu) => {
			const frame = cpu.num('rsp');
			const at = cpu.gsBase;
			const verdict = ghcbVerdict(cpu, at);
			if (verdict === GhcbResult.EXCEPTION) return cpu.jump(l('exception'));
			if (verdict !== GhcbResult.SUCCESS || !take(cpu, at, cpu.loadNum(frame + Frame.error)))
				return cpu.jump(l('terminate'));
			cpu.setNum('rsp', frame + Frame.rip);
			return cpu.iret();
		},
		[l('exception')]: (cpu) => cpu.ud2(),

		[l('no_ghcb')]: (cpu) => {
			const frame = cpu.num('rsp');
			if (cpu.loadNum(frame + Frame.error) !== ExitCode.CPUID) return cpu.jump(l('terminate'));
			cpu.storeNum(frame + Frame.rip, cpu.nrip);
			cpu.storeNum(frame + Frame.error, low32(cpu, 'rax'));
			push(cpu, ...SAVED);
			cpu.setNum('r12', 0);
			return cpu.jump(l('cpuid'));
		},
		[l('cpuid')]: (cpu) => {
			const register = cpu.num('r12');
			const leaf = cpu.loadNum(cpu.num('rsp') + SAVED_BYTES);
			if (register < 4) return writeGhcbMsr(cpu, GhcbMsr.CPUID_REQUEST | (register << 30), leaf, l('cpuid_exit'));
			pop(cpu, ...SAVED);
			cpu.setNum('rsp', cpu.num('rsp') + Frame.rip);
			return cpu.iret();
		},
		[l('cpuid_exit')]: (cpu) => cpu.vmgexit(l('cpuid_read')),
		[l('cpuid_read')]: (cpu) => cpu.rdmsr(l('cpuid_store')),
		[l('cpuid_store')]: (cpu) => {
			const register = cpu.num('r12');
			if ((low32(cpu, 'rax') & 0xfff) !== GhcbMsr.CPUID_RESPONSE) return cpu.jump(l('terminate'));
			cpu.storeNum(cpu.num('rsp') + 8 * register, low32(cpu, 'rdx'));
			cpu.setNum('r12', register + 1);
			return cpu.jump(l('cpuid'));
		},

		// Reason set 0, reason 0: general.
		[l('terminate')]: (cpu) => writeGhcbMsr(cpu, GhcbMsr.TERMINATE, 0, l('terminate_exit')),
		[l('terminate_exit')]: (cpu) => cpu.vmgexit(l('terminated')),
		// A host that goes on all the same gets nothing more out of this vCPU.
		[l('terminated')]: (cpu) => cpu.hlt(l('terminated')),

		...mmioBlocks(l),
	};
}

/** MMIO by the GHCB's shared buffer, which the host reads and writes. */
function mmioBlocks(l: (name: string) => string): Record<string, Block> {
	const start = (cpu: GuestCpu): void => {
		clearGhcb(cpu, cpu.gsBase);
		const ghcb = cpu.gsBase;
		setGhcb(cpu, ghcb, 'swScratch', BigInt(ghcb + GHCB_BUFFER.begin));
		cpu.storeU64(ghcb + GHCB_BUFFER.begin, 0n);
	};
	return {
		[l('mmio_read')]: (cpu) => {
			start(cpu);
			return ghcbExit(cpu, cpu.gsBase, ExitCode.MMIO_READ, cpu.reg('rdi'), cpu.reg('rsi'), l('mmio_read_done'));
		},
		[l('mmio_read_done')]: (cpu) => {
			if (ghcbVerdict(cpu, cpu.gsBase) !== GhcbResult.SUCCESS) return cpu.jump(l('terminate'));
			const value = cpu.loadU64(cpu.gsBase + GHCB_BUFFER.begin);
			cpu.setReg('rax', BigInt.asUintN(8 * cpu.num('rsi'), value));
			return cpu.ret();
		},
		[l('mmio_write')]: (cpu) => {
			start(cpu);
			cpu.storeU64(cpu.gsBase + GHCB_BUFFER.begin, cpu.reg('rdx'));
			return ghcbExit(cpu, cpu.gsBase, ExitCode.MMIO_WRITE, cpu.reg('rdi'), cpu.reg('rsi'), l('mmio_write_done'));
		},
		[l('mmio_write_done')]: (cpu) =>
			ghcbVerdict(cpu, cpu.gsBase) === GhcbResult.SUCCESS ? cpu.ret() : cpu.jump(l('terminate')),
	};
}
