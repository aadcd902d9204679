/** A SEV-ES guest with two vCPUs at work, a hardened helper on a mirror vCPU, and the hosts between two such machines. */
import { setImmediate } from 'node:timers/promises';
import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type HostMapping, type Vcpu, type Vm } from '@cvm/kvm';
import { VmType } from '@cvm/kvm/abi';
import { createIdentityStrategy, createMirrorVm, createPcRamMap, type MirrorVm, parseSmp } from '@cvm/kvm/mirror';
import {
	type Block,
	type CodeFragment,
	type GuestCpu,
	type GuestProgram,
	link,
	openVcpu,
	type VcpuThread,
} from '@cvm/kvm/vcpu';
import { gpa } from '@cvm/layout';
import { hardenedHelper, type ResumeOptions, recordForHelper, resumeFragment } from '@cvm/ovmf-mh/firmware';
import { createHelperHost, createPageHelper, createPageHelperTarget, type HelperHost } from '@cvm/ovmf-mh/host';
import { createSevMachine, type SevMachine } from '@cvm/sev-hw';
import { secretTable } from '@cvm/sev-hw/owner';
import { BATCH_PAGES, bodiesOf, HelperGeometry, mailboxOf, saveAreasOf } from '../src/geometry.js';
import { commandBlock } from '../src/mailbox/abi.js';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID } from '../src/session/secret.js';

export const PAGE = 4096;
const MIB = 1 << 20;
const RAM_BYTES = 19 * MIB;
/** The guest's memory: page tables, GDT and TSS, results, then a region for each vCPU. */
export const GUEST = 0x1000000;
export const GUEST_BYTES = 1 << 20;
const TABLES = GUEST;
const GDT = GUEST + 0x3000;
const TSS = GUEST + 0x4000;
export const RESULTS = GUEST + 0x8000;
const WORK = GUEST + 0x10000;
const WORK_PAGES = 100;
const TASK_SELECTOR = 0x40;

const FIRMWARE_TABLES = 0x800000;
const STACK = 0x820000;
/** The vCPU that boots says that it is done. In memory of the firmware that does not move. */
const BOOTED = 0x8be000;
const BOOTED_MAGIC = 0x6465_746f_6f62n;

/** In registers of the guest: 8 bytes that stand nowhere else. */
export const CANARY = 0xc0ffee5ec4e700b1n;

const owner = encodeMigrationSecret(seededRandom('guest').bytes(16), seededRandom('owner').bytes(32));
const table = secretTable([{ guid: MIGRATION_SECRET_GUID, data: owner }]);

const setMsr = (cpu: GuestCpu, index: number, value: bigint): void => {
	cpu.setNum('rcx', index);
	cpu.setReg('rax', value & 0xffffffffn);
	cpu.setReg('rdx', value >> 32n);
};
const MSRS = [0xc0000081, 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0x176, 0x277] as const;
const msrValue = (i: number, vcpu: bigint): bigint => (i === 7 ? 0x0007040600070406n : 0x1000n * BigInt(i + 1) + vcpu);

/** What one machine of a test may do otherwise. */
export interface EsOptions {
	readonly seed: string;
	readonly role: 'source' | 'target';
	readonly vcpus?: number;
	/** Steps of each vCPU until it is done. */
	readonly steps?: number;
	/** A VM of type SEV_ES. */
	readonly typed?: boolean;
	readonly resume?: ResumeOptions;
	/** Spoils the guest's memory at the end of its boot. */
	readonly spoil?: (cpu: GuestCpu) => void;
	/** TR has a selector, and the GDT a descriptor. */
	readonly hasTask?: boolean;
}

/** Firmware in miniature, and a kernel that computes. */
function guestProgram(cBit: number, o: EsOptions): GuestProgram {
	const { vcpus = 2, steps = 400 } = o;
	const mask = 1n << BigInt(cBit);
	const enter = (cpu: GuestCpu, root: number): void => {
		cpu.cr4 |= 0x20n;
		cpu.efer |= 0x100n;
		cpu.cr3 = BigInt(root) | mask;
		cpu.cr0 |= 0x80010001n;
	};
	/** 4 GiB one to one and private. */
	const tables = (cpu: GuestCpu, root: number): void => {
		cpu.fill(root, 2 * PAGE, 0);
		cpu.storeU64(root, BigInt(root + PAGE) | mask | 3n);
		for (let i = 0; i < 4; i++) cpu.storeU64(root + PAGE + 8 * i, (BigInt(i) << 30n) | mask | 0x83n);
	};
	const role = (cpu: GuestCpu) => cpu.jump(o.role === 'target' ? 'mh.resume.park' : 'work.start');
	const rig: Record<string, Block> = {
		'rig.boot': (cpu) => {
			cpu.fill(FIRMWARE_TABLES, 0x10000, 0);
			cpu.fill(HelperGeometry.private, HelperGeometry.privateEnd - HelperGeometry.private, 0);
			cpu.fill(GUEST, GUEST_BYTES, 0);
			cpu.store(0x80c000, table);
			const ram = [{ start: GUEST, end: GUEST + GUEST_BYTES }];
			recordForHelper(cpu, { cBit, ram, saveAreas: saveAreasOf(vcpus) });
			tables(cpu, FIRMWARE_TABLES);
			if (o.role === 'source') {
				tables(cpu, TABLES);
				// A busy 64-bit TSS at TASK_SELECTOR.
				cpu.storeU64(
					GDT + TASK_SELECTOR,
					0x67n | (BigInt(TSS & 0xffffff) << 16n) | (0x8bn << 40n) | (BigInt(TSS >>> 24) << 56n),
				);
				cpu.storeU64(GDT + TASK_SELECTOR + 8, 0n);
				o.spoil?.(cpu);
			}
			enter(cpu, FIRMWARE_TABLES);
			cpu.setNum('rsp', STACK);
			cpu.setNum('rdi', o.role === 'target' ? 1 : 0);
			return cpu.call('mh.hardened.install', 'rig.installed');
		},
		'rig.installed': (cpu) => {
			cpu.storeU64(BOOTED, BOOTED_MAGIC);
			return role(cpu);
		},
		'rig.ap': (cpu) => {
			if (cpu.loadU64(BOOTED) !== BOOTED_MAGIC) return cpu.jump('rig.ap');
			enter(cpu, FIRMWARE_TABLES);
			return role(cpu);
		},
		'rig.mirror': (cpu) => {
			if (cpu.loadU64(BOOTED) !== BOOTED_MAGIC) return cpu.jump('rig.mirror');
			enter(cpu, FIRMWARE_TABLES);
			return cpu.jump('mh.hardened.main');
		},
	};
	/** R13: vCPU; R14: steps done; R15: state of the generator; R12: MSRs set or told. */
	const work: Record<string, Block> = {
		'work.start': (cpu) => {
			enter(cpu, TABLES);
			const vcpu = cpu.reg('rbx');
			for (const name of ['r8', 'r9', 'r10', 'r11'] as const) cpu.setReg(name, CANARY + vcpu);
			cpu.setReg('r13', vcpu);
			cpu.setReg('r15', 12345n + vcpu);
			cpu.setNum('r12', 0);
			cpu.setNum('rsp', STACK - 0x1000 * (1 + Number(vcpu)));
			cpu.lgdt(GDT, 0x4f);
			cpu.lidt(GUEST + 0x5000, 0x1ff);
			cpu.cr2 = 0x7000 + Number(vcpu);
			if (o.hasTask !== true) cpu.ltr(TSS, 0x67);
			return cpu.jump('work.msrs');
		},
		'work.msrs': (cpu) => {
			const i = cpu.num('r12');
			const index = MSRS[i];
			if (index === undefined) return cpu.jump(cpu.num('r13') === 1 ? 'work.user' : 'work.step');
			setMsr(cpu, index, msrValue(i, cpu.reg('r13')));
			cpu.setNum('r12', i + 1);
			return cpu.wrmsr('work.msrs');
		},
		// The second vCPU is in user mode.
		'work.user': (cpu) => {
			const rsp = WORK - 0x100;
			const frame = [BigInt(cpu.address('work.step')), 0x33n, 0x246n, BigInt(WORK - 0x40), 0x2bn];
			for (const [i, word] of frame.entries()) cpu.storeU64(rsp + 8 * i, word);
			cpu.setNum('rsp', rsp);
			return cpu.iret();
		},
		'work.step': (cpu) => {
			if (cpu.num('r14') === steps) return cpu.jump('work.tell');
			const state = (cpu.reg('r15') * 6364136223846793005n + 1442695040888963407n) & (2n ** 63n - 1n);
			cpu.setReg('r15', state);
			const at = WORK + PAGE * (WORK_PAGES * cpu.num('r13') + Number((state >> 33n) % BigInt(WORK_PAGES)));
			const word = at + 8 * Number((state >> 20n) % 512n);
			cpu.storeU64(word, cpu.loadU64(word) ^ state);
			cpu.setReg('rbp', cpu.reg('rbp') + state);
			cpu.setNum('r14', cpu.num('r14') + 1);
			return cpu.jump('work.step');
		},
		// Everything that a program can see of its vCPU, into memory.
		'work.tell': (cpu) => {
			const at = RESULTS + 0x2000 * cpu.num('r13');
			for (const [i, name] of (
				['rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r13', 'r14', 'r15'] as const
			).entries()) {
				cpu.storeU64(at + 8 * i, cpu.reg(name));
			}
			for (const [i, word] of [cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, BigInt(cpu.cr2), BigInt(cpu.cpl)].entries()) {
				cpu.storeU64(at + 0x100 + 8 * i, word);
			}
			cpu.xsave(at + 0x1000);
			cpu.setNum('r12', 0);
			return cpu.jump(cpu.cpl === 0 ? 'work.read' : 'work.done');
		},
		'work.read': (cpu) => {
			const index = MSRS[cpu.num('r12')];
			if (index === undefined) return cpu.jump('work.done');
			cpu.setNum('rcx', index);
			return cpu.rdmsr('work.told');
		},
		'work.told': (cpu) => {
			const at = RESULTS + 0x2000 * cpu.num('r13') + 0x200 + 8 * cpu.num('r12');
			cpu.storeU64(at, cpu.reg('rax') | (cpu.reg('rdx') << 32n));
			cpu.setNum('r12', cpu.num('r12') + 1);
			return cpu.jump('work.read');
		},
		'work.done': (cpu) => cpu.jump('work.done'),
	};
	const fragments: CodeFragment[] = [
		{ name: 'rig', base: 0xffff0000, blocks: rig },
		{ name: 'work', base: GUEST + 0x6000, blocks: work },
	];
	return link(...fragments, ...hardenedHelper({ provider: nodeProvider }), resumeFragment(o.resume));
}

export interface EsMachine {
	readonly sev: SevMachine;
	readonly vm: Vm;
	readonly mirror: MirrorVm;
	readonly ram: HostMapping;
	readonly vcpus: readonly Vcpu[];
	readonly threads: readonly VcpuThread[];
	readonly program: GuestProgram;
	readonly host: HelperHost;
	/** Runs a vCPU for some blocks. @returns what KVM_RUN did */
	turn(vcpu: number, blocks?: number): number;
	/** Runs all vCPUs in turn until each came to a label. */
	runUntil(label: string, limit?: number): void;
	/** RIPs that a vCPU came to, newest last. */
	readonly trace: number[][];
	/** Plaintext, by DBG_DECRYPT. */
	read(at: number, length: number): Uint8Array;
}

const ok = (what: string, ret: number): void => {
	if (ret !== 0) throw new Error(`${what}: expected 0, got ${ret}`);
};

export function createEsMachine(o: EsOptions): EsMachine {
	const { vcpus: count = 2, typed = false } = o;
	const sev = createSevMachine({
		dramBytes: RAM_BYTES + 4 * MIB,
		provider: nodeProvider,
		random: seededRandom(o.seed),
		chipSeed: o.seed,
	});
	const kvm = createKvm({ machine: sev, vmsaMapping: 'model' });
	const vm = kvm.createVm(typed ? { type: VmType.SEV_ES } : {});
	ok('init', (typed ? vm.sev.init2() : vm.sev.esInit()).ret);
	const ram = kvm.memory.mmap(RAM_BYTES);
	const topology = parseSmp(`${count + 1},mirrorvcpus=1`);
	const map = createPcRamMap({ ramBytes: RAM_BYTES, hva: ram.hva });
	const mirror = createMirrorVm({ kvm, main: vm, topology, strategy: createIdentityStrategy(map) });
	ok('start', vm.sev.launchStart({ policy: 4 }).ret);
	ok('share', mirror.shareContext());
	const slot = { slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: RAM_BYTES, userspaceAddr: ram.hva };
	ok('slot', mirror.setUserMemoryRegion(slot));
	ok('windows', mirror.mapWindows());
	ok('pin', vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: RAM_BYTES }));
	const cpuid = kvm.cpuid({ es: true, migrationControl: false });
	const cBit = (cpuid.find(({ function: leaf }) => leaf === 0x8000001f)?.ebx ?? 0) & 0x3f;
	const program = guestProgram(cBit, o);
	/** Everything that a vCPU begins with is measured: nobody can set it later. */
	const launch = (vcpu: Vcpu, label: string, rbx: number): void => {
		const task = { selector: TASK_SELECTOR, base: BigInt(TSS), limit: 0x67, type: 11, present: 1 };
		const rest = { dpl: 0, db: 0, s: 0, l: 0, g: 0, avl: 0, unusable: 0 };
		const cs = { ...rest, selector: 0x38, base: 0n, limit: 0xffffffff, type: 11, present: 1, s: 1, db: 1, g: 1 };
		const tr = { ...rest, ...task };
		ok(
			'sregs',
			vcpu.setSregs({ cr0: 0x10033n, cr3: 0n, cr4: 0x668n, efer: 0n, cs, ...(o.hasTask === true && { tr }) }),
		);
		ok('regs', vcpu.setRegs({ rip: BigInt(program.address(label)), rbx: BigInt(rbx), rsp: 0n }));
		if (typed) ok('fpu', vcpu.setFpu({ xmm: new Uint8Array(256).fill(o.role === 'source' ? 0x40 + rbx : 0x99) }));
	};
	const vcpus = Array.from({ length: count }, (_, i) => vm.createVcpu(i, cpuid));
	for (const [i, vcpu] of vcpus.entries()) launch(vcpu, i === 0 ? 'rig.boot' : 'rig.ap', i);
	ok('vmsa', vm.sev.launchUpdateVmsa().ret);
	const helper = mirror.addVcpu(count, cpuid);
	launch(helper, 'rig.mirror', 0);
	ok('mirror vmsa', mirror.vm?.sev.launchUpdateVmsa().ret ?? -1);
	ok('measure', vm.sev.launchMeasure().ret);
	ok('finish', vm.sev.launchFinish().ret);
	if (o.role === 'source') {
		for (const [i, at] of saveAreasOf(count).entries()) ok('map', mirror.vm?.mapSaveArea(i, gpa(at), vm) ?? -1);
	}

	const trace: number[][] = vcpus.map(() => []);
	let left = 0;
	const threads = vcpus.map((vcpu, i) =>
		openVcpu(vcpu.share(), {
			...{ provider: nodeProvider, program, ticks: false },
			afterBlock: (rip) => {
				trace[i]?.push(rip);
				if (--left <= 0) vcpu.kick();
			},
		}),
	);
	const goAt = commandBlock.offsetOf('go') / 4;
	const mailbox = ram.bytes.subarray(mailboxOf(0), mailboxOf(0) + PAGE);
	const bodies = ram.bytes.subarray(bodiesOf(0), bodiesOf(0) + BATCH_PAGES * PAGE);
	const words = new Int32Array(mailbox.buffer, mailbox.byteOffset, PAGE / 4);
	const idle = new Set(['poll', 'doze', 'woken', 'dead'].map((name) => program.address(`mh.hardened.${name}`)));
	const mirrorThread = openVcpu(helper.share(), {
		...{ provider: nodeProvider, program, ticks: false, random: seededRandom(`${o.seed} helper`) },
		afterBlock: (rip) => {
			if (idle.has(rip) && Atomics.load(words, goAt) === 0) helper.kick();
		},
	});
	const step = (): void => {
		const ret = mirrorThread.run();
		if (ret !== -4) throw new Error(`helper: ret ${ret}, ${mirrorThread.fault?.message}`);
	};
	const page = kvm.memory.mmap(PAGE);
	const machine: EsMachine = {
		...{ sev, vm, mirror, ram, vcpus, threads, program, trace },
		host: createHelperHost({
			helpers: [{ mailbox, bodies, kick: () => undefined }],
			wait: step,
			pause: async () => {
				step();
				await setImmediate();
			},
		}),
		turn: (vcpu, blocks = 1) => {
			left = blocks;
			return threads[vcpu]?.run() ?? 1;
		},
		runUntil: (label, limit = 4000) => {
			const target = program.address(label);
			const there = new Set<number>();
			for (let i = 0; there.size < count; i++) {
				if (i > limit) throw new Error(`vCPUs: expected all at ${label}, got ${[...there]}`);
				for (const [vcpu, rips] of trace.entries()) {
					if (there.has(vcpu)) continue;
					const ret = machine.turn(vcpu, label === 'work.step' ? 1 : 7);
					if (ret !== -4) throw new Error(`vCPU ${vcpu}: ret ${ret}, ${threads[vcpu]?.fault?.message}`);
					if (rips.at(-1) === target) there.add(vcpu);
				}
			}
		},
		read: (at, length) => {
			const out = new Uint8Array(length);
			for (let done = 0; done < length; done += PAGE) {
				ok('debug', vm.sev.dbgDecrypt({ src: (ram.hva + at + done) as typeof ram.hva, dst: page.hva, len: PAGE }).ret);
				out.set(page.bytes.subarray(0, Math.min(PAGE, length - done)), done);
			}
			return out;
		},
	};
	// The firmware's part, then the helper's.
	if (o.role === 'target') machine.runUntil('mh.resume.wait');
	else machine.runUntil('work.step');
	step();
	return machine;
}

/** Everything that went from host to host, and the two ends of it. */
export function connectEs(source: EsMachine, target: EsMachine, vcpus = 2) {
	const gpaOf = (_block: number, page: number) => page * PAGE;
	const seen: Uint8Array[] = [];
	const replies: Uint8Array[] = [];
	const waiting: ((message: Uint8Array) => void)[] = [];
	const state = {
		runs: 0,
		failures: [] as unknown[],
		tamper: (message: Uint8Array): readonly Uint8Array[] => [message],
	};
	const helper = createPageHelper(source.host, { gpaOf, vcpus });
	const opener = createPageHelperTarget(target.host, {
		gpaOf,
		onRun: () => state.runs++,
		onFailure: (error) => state.failures.push(error),
	});
	const reply = (message: Uint8Array): void => {
		seen.push(message.slice());
		const taker = waiting.shift();
		if (taker === undefined) replies.push(message.slice());
		else taker(message.slice());
	};
	const peer = {
		send: (message: Uint8Array): void => {
			seen.push(message.slice());
			for (const one of state.tamper(message.slice())) opener.message(one, reply);
		},
		receive: async (): Promise<Uint8Array> =>
			replies.shift() ?? new Promise<Uint8Array>((resolve) => waiting.push(resolve)),
	};
	const move = (from: number, bytes: number): void => {
		const pages = Uint32Array.from({ length: bytes / PAGE }, (_, i) => from / PAGE + i);
		const emit = (block: number, page: number, header: Uint8Array, body: Uint8Array): void => {
			seen.push(header.slice(), body.slice());
			opener.open(block, page, header, body);
		};
		helper.seal(0, pages, pages.length, emit);
		helper.flush(emit);
		opener.flush();
	};
	/** Up to the stopped source with all of its memory at the target. */
	const copy = async (between: () => void): Promise<void> => {
		await helper.open(peer);
		move(GUEST, GUEST_BYTES);
		between();
		helper.epoch(peer);
		helper.freeze();
		move(GUEST, GUEST_BYTES);
	};
	return { helper, opener, peer, seen, state, copy };
}
