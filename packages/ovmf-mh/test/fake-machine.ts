import { MemoryMap } from '@cvm/kvm/guest';
import { type CodeFragment, type GuestCpu, link, type Next, type RegName } from '@cvm/kvm/vcpu';
import type { FwCfgDevice } from '@cvm/ovmf-mh/host';

/** What the fake CPU's exits meet. */
export interface FakeHost {
	/** EAX, EBX, ECX, EDX. */
	cpuid(leaf: number, subleaf: number): readonly [number, number, number, number];
	/** SEV_STATUS. */
	readonly sevStatus: bigint;
	readonly fwCfg?: FwCfgDevice;
	/** RAX in return. */
	vmmcall?(gpa: bigint, pages: bigint, attributes: bigint): bigint;
}

const RAM = 0x1800000;
/** Stands for encryption: the private view of a byte. Enough to see through which mapping a byte was written. */
const KEY = 0x5a;
export const C_BIT = 47;
const NEXT = {} as Next;
/** Addresses of the upper half are negative. */
const modulo = (value: number, by: number) => ((value % by) + by) % by;
const REGISTERS: readonly RegName[] = [
	...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
	...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
];

/**
 * A tiny CPU over one byte array, without threads, memslots or KVM: enough to run firmware alone. Private bytes are stored
 * XORed. `run` stops at HLT, after `limit` blocks, or at a `stop` label.
 */
export function createFakeMachine(host: FakeHost, ...fragments: readonly CodeFragment[]) {
	const program = link(...fragments);
	const raw = new Uint8Array(RAM).fill(0x77);
	const registers = new Map<RegName, bigint>(REGISTERS.map((name) => [name, 0n]));
	const control = { cr0: 0n, cr3: 0n, cr4: 0n, efer: 0n };
	const sev = (host.sevStatus & 1n) !== 0n;
	const calls: { gpa: bigint; pages: bigint; attributes: bigint }[] = [];
	const seen: { flushes: number; ports: Set<number> } = { flushes: 0, ports: new Set() };
	let rip: number = MemoryMap.resetVector;
	let halted = false;

	const reg = (name: RegName) => registers.get(name) ?? 0n;
	const setReg = (name: RegName, value: bigint) => registers.set(name, BigInt.asUintN(64, value));
	const word = (at: number) => new DataView(raw.buffer).getBigUint64(at, true);
	const decode = (value: bigint) => (sev ? value ^ 0x5a5a5a5a5a5a5a5an : value);

	/** Physical address and whether the access is private. Table reads are private under SEV, whatever their entries say. */
	const translate = (va: number): { at: number; isPrivate: boolean } => {
		if ((control.cr0 & 0x80000000n) === 0n) return { at: va, isPrivate: sev };
		if ((control.cr4 & 0x20n) === 0n || (control.efer & 0x100n) === 0n) throw new Error('paging without long mode');
		let table = Number(control.cr3 & 0xffffff000n);
		for (const shift of [39, 30, 21, 12]) {
			const entry = decode(word(table + 8 * modulo(Math.floor(va / 2 ** shift), 512)));
			if ((entry & 1n) === 0n) throw new Error(`nothing mapped at 0x${va.toString(16)}`);
			const address = Number(entry & 0xffffff000n);
			if (shift === 12 || (entry & 0x80n) !== 0n) {
				const size = 2 ** shift;
				return { at: address + modulo(va, size), isPrivate: sev && (entry & (1n << BigInt(C_BIT))) !== 0n };
			}
			table = address;
		}
		throw new Error('unreachable');
	};
	const isShared = (va: number) => !translate(va).isPrivate;
	/** Visits the pages of a range: where it lies and what to XOR. */
	const pages = (va: number, length: number, visit: (at: number, from: number, bytes: number, key: number) => void) => {
		for (let done = 0; done < length; ) {
			const bytes = Math.min(length - done, 4096 - modulo(va + done, 4096));
			const { at, isPrivate } = translate(va + done);
			if (at + bytes > RAM) throw new Error(`no memory at 0x${at.toString(16)}`);
			visit(at, done, bytes, isPrivate ? KEY : 0);
			done += bytes;
		}
	};
	const load = (va: number, out: Uint8Array) =>
		pages(va, out.length, (at, from, bytes, key) => {
			for (let i = 0; i < bytes; i++) out[from + i] = (raw[at + i] ?? 0) ^ key;
		});
	const store = (va: number, data: Uint8Array) =>
		pages(va, data.length, (at, from, bytes, key) => {
			for (let i = 0; i < bytes; i++) raw[at + i] = (data[from + i] ?? 0) ^ key;
		});
	const fill = (va: number, length: number, byte: number) =>
		pages(va, length, (at, _, bytes, key) => {
			raw.fill(byte ^ key, at, at + bytes);
		});
	const integer = (va: number, size: number) => {
		const out = new Uint8Array(8);
		load(va, out.subarray(0, size));
		return new DataView(out.buffer).getBigUint64(0, true);
	};
	const setInteger = (va: number, size: number, value: bigint) => {
		const out = new Uint8Array(8);
		new DataView(out.buffer).setBigUint64(0, BigInt.asUintN(64, value), true);
		store(va, out.subarray(0, size));
	};
	const safe = (value: bigint) => {
		if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError('too large for a number');
		return Number(value);
	};
	const go = (to: string | number) => {
		rip = typeof to === 'number' ? to : program.address(to);
		return NEXT;
	};

	const cpu: GuestCpu = {
		reg,
		setReg,
		num: (name) => safe(reg(name)),
		setNum: (name, value) => setReg(name, BigInt(value)),
		get cr0() {
			return control.cr0;
		},
		set cr0(value) {
			control.cr0 = value;
		},
		get cr3() {
			return control.cr3;
		},
		set cr3(value) {
			control.cr3 = value;
		},
		get cr4() {
			return control.cr4;
		},
		set cr4(value) {
			control.cr4 = value;
		},
		get efer() {
			return control.efer;
		},
		set efer(value) {
			control.efer = value;
		},
		cr2: 0,
		cpl: 0,
		gsBase: 0,
		nrip: 0,
		exitInfo1: 0n,
		exitInfo2: 0n,
		lidt: () => {
			throw new Error('the firmware loads an IDT for SEV-ES alone');
		},
		ltr: () => {
			throw new Error('not used by firmware');
		},
		xsave: () => {
			throw new Error('not used by firmware');
		},
		xrstor: () => {
			throw new Error('not used by firmware');
		},
		lgdt: () => {
			throw new Error('not used by firmware');
		},
		load,
		store,
		loadU8: (va) => Number(integer(va, 1)),
		loadU16: (va) => Number(integer(va, 2)),
		loadU32: (va) => Number(integer(va, 4)),
		loadU64: (va) => integer(va, 8),
		loadNum: (va) => safe(integer(va, 8)),
		storeU8: (va, value) => setInteger(va, 1, BigInt(value)),
		storeU16: (va, value) => setInteger(va, 2, BigInt(value)),
		storeU32: (va, value) => setInteger(va, 4, BigInt(value)),
		storeU64: (va, value) => setInteger(va, 8, value),
		storeNum: (va, value) => setInteger(va, 8, BigInt(value)),
		fill,
		addU8: () => {
			throw new Error('not used by firmware');
		},
		exchangeU32: () => {
			throw new Error('not used by firmware');
		},
		rdrand: () => {
			throw new Error('not used by firmware');
		},
		flushTlb: () => {
			seen.flushes++;
		},
		address: (label) => program.address(label),
		jump: go,
		farJump: (_selector, to) => go(to),
		call: (to, returnTo) => {
			setReg('rsp', reg('rsp') - 8n);
			setInteger(safe(reg('rsp')), 8, BigInt(program.address(returnTo)));
			return go(to);
		},
		ret: () => {
			const to = safe(integer(safe(reg('rsp')), 8));
			setReg('rsp', reg('rsp') + 8n);
			return go(to);
		},
		hlt: (next) => {
			halted = true;
			return go(next);
		},
		cpuid: (next) => {
			const answer = host.cpuid(Number(reg('rax') & 0xffffffffn), Number(reg('rcx') & 0xffffffffn));
			(['rax', 'rbx', 'rcx', 'rdx'] as const).forEach((name, i) => {
				setReg(name, BigInt((answer[i] ?? 0) >>> 0));
			});
			return go(next);
		},
		rdmsr: (next) => {
			if (reg('rcx') !== 0xc0010131n) throw new Error('unknown MSR');
			setReg('rax', host.sevStatus);
			setReg('rdx', 0n);
			return go(next);
		},
		wrmsr: () => {
			throw new Error('firmware writes no MSR');
		},
		vmmcall: (next) => {
			if (reg('rax') !== 12n) throw new Error('unknown hypercall');
			calls.push({ gpa: reg('rbx'), pages: reg('rcx'), attributes: reg('rdx') });
			setReg('rax', host.vmmcall?.(reg('rbx'), reg('rcx'), reg('rdx')) ?? 0n);
			return go(next);
		},
		vmcall: () => {
			throw new Error('VMCALL is #UD under SEV');
		},
		out: (port, size, next) => {
			seen.ports.add(port);
			host.fwCfg?.ioWrite(port, size, Number(reg('rax') & (2n ** BigInt(8 * size) - 1n)));
			return go(next);
		},
		in: (port, size, next) => {
			seen.ports.add(port);
			const width = 2n ** BigInt(8 * size) - 1n;
			const value = host.fwCfg ? BigInt(host.fwCfg.ioRead(port, size)) : width;
			setReg('rax', (reg('rax') & ~width) | value);
			return go(next);
		},
		hypercallAt: () => {
			throw new Error('not used by firmware');
		},
		ud2: () => {
			throw new Error('#UD');
		},
		iret: () => {
			throw new Error('there are no exceptions');
		},
		vmgexit: () => {
			throw new Error('not a SEV-ES guest');
		},
	};

	return {
		cpu,
		raw,
		calls,
		seen,
		isShared,
		/** Runs until HLT (`halted`), the label `stop`, or gives up. */
		run: (stop: string, limit = 200_000): 'halted' | 'stopped' => {
			halted = false;
			const end = program.address(stop);
			for (let i = 0; i < limit; i++) {
				if (rip === end) return 'stopped';
				const block = program.block(rip);
				if (!block) throw new Error(`no code at 0x${rip.toString(16)}`);
				block(cpu);
				if (halted) return 'halted';
			}
			throw new Error(`still running at ${program.label(rip)}`);
		},
		goTo: (label: string) => go(label),
		where: () => program.label(rip),
	};
}
