import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type HostMapping, type Kvm, type Vcpu, type Vm } from '@cvm/kvm';
import { createIdentityStrategy, createMirrorVm, createPcRamMap, parseSmp } from '@cvm/kvm/mirror';
import { type Block, type CodeFragment, type GuestCpu, link, openVcpu, type VcpuThread } from '@cvm/kvm/vcpu';
import { gpa } from '@cvm/layout';
import { hardenedHelper, type RecordedGuest, recordForHelper } from '@cvm/ovmf-mh/firmware';
import type { HelperPort } from '@cvm/ovmf-mh/host';

import { createSevMachine, type SevMachine } from '@cvm/sev-hw';
import { secretTable } from '@cvm/sev-hw/owner';
import { BATCH_PAGES, bodiesOf, type GpaRange, mailboxOf } from '../src/geometry.js';
import { commandBlock } from '../src/mailbox/abi.js';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID } from '../src/session/secret.js';

export const PAGE = 4096;
export const MIB = 1 << 20;
/** RAM of the machines: behind the firmware's 16 MiB some of the guest's. */
export const RAM_BYTES = 20 * MIB;
/** Where the tests' guest has its data: 1024 frames. */
export const GUEST = 0x1000000;
const FIRMWARE_TABLES = 0x800000;
const EXIT_PORT = 0xf4;
const RESET = 0xfffffff0;

const GUEST_ID = seededRandom('guest').bytes(16);
export const OWNER_SECRET = seededRandom('owner').bytes(32);
const table = secretTable([{ guid: MIGRATION_SECRET_GUID, data: encodeMigrationSecret(GUEST_ID, OWNER_SECRET) }]);

/** Firmware in miniature: long mode with one private leaf, and the entry of a mirror vCPU. */
const firmware = (cBit: number): CodeFragment => {
	const mask = 1n << BigInt(cBit);
	const enterPaging = (cpu: GuestCpu): void => {
		cpu.cr4 |= 0x20n;
		cpu.efer |= 0x100n;
		cpu.cr3 = BigInt(FIRMWARE_TABLES);
		cpu.cr0 |= 0x80000001n;
	};
	return {
		name: 'rig',
		base: 0xffff0000,
		blocks: {
			'rig.setup': (cpu) => {
				cpu.fill(FIRMWARE_TABLES, 2 * PAGE, 0);
				cpu.storeU64(FIRMWARE_TABLES, BigInt(FIRMWARE_TABLES + PAGE) | mask | 3n);
				cpu.storeU64(FIRMWARE_TABLES + PAGE, mask | 0x83n);
				enterPaging(cpu);
				cpu.setNum('rsp', 0x820000);
				return cpu.call('mh.hardened.install', 'rig.end');
			},
			'rig.end': (cpu) => cpu.out(EXIT_PORT, 1, 'rig.end'),
			'rig.mirror': (cpu) => {
				enterPaging(cpu);
				return cpu.jump('mh.hardened.main');
			},
		},
	};
};

/** Puts something between a block and its processor. */
type Wrap = (cpu: GuestCpu) => GuestCpu;
const wrapped = (fragment: CodeFragment, wrap: Wrap): CodeFragment => {
	// One for each processor: guest code tells them apart.
	const known = new WeakMap<GuestCpu, GuestCpu>();
	const through = (cpu: GuestCpu): GuestCpu => {
		const old = known.get(cpu) ?? wrap(cpu);
		known.set(cpu, old);
		return old;
	};
	const blocks = Object.entries(fragment.blocks).map(([label, block]): [string, Block] => [
		label,
		(cpu) => block(through(cpu)),
	]);
	return { ...fragment, blocks: Object.fromEntries(blocks) };
};

/** The program that every vCPU of a machine runs, in every thread. */
export const programOf = (cBit: number, wrap?: Wrap) => {
	const helper = hardenedHelper({ provider: nodeProvider });
	return link(firmware(cBit), ...(wrap === undefined ? helper : helper.map((fragment) => wrapped(fragment, wrap))));
};

export interface MachineOptions {
	readonly seed: string;
	readonly role: 'source' | 'target';
	readonly helpers?: number;
	/** What the firmware records. Default: 2 MiB of the guest's. */
	readonly ram?: readonly GpaRange[];
	readonly secret?: boolean;
	/** Blocks of a helper between two looks of its host: default as many as it takes. */
	readonly blocksPerStep?: number;
	readonly generation?: 'naples' | 'milan';
	/** Who else touches memory while the helper's code runs. */
	readonly wrap?: Wrap;
	/** The helpers run in threads of their own: see hardened-worker.ts. */
	readonly hasWorkers?: boolean;
}

/** A SEV guest with mirror vCPUs on which helpers run, in this thread. */
export interface Machine {
	readonly kvm: Kvm;
	readonly sev: SevMachine;
	readonly vm: Vm;
	readonly ram: HostMapping;
	readonly mirrors: readonly Vcpu[];
	readonly threads: readonly VcpuThread[];
	readonly ports: readonly HelperPort[];
	readonly kicks: number[];
	readonly cBit: number;
	readonly hasWorkers: boolean;
	/** Runs a helper until it waits for a command, or for `blocksPerStep` blocks. */
	step(helper: number): void;
	stepAll(): void;
	/** Starts a helper, or starts it again. */
	reset(helper: number): void;
	/** Runs a piece of guest code with paging off: memory is private. */
	guest(code: (cpu: GuestCpu) => void): void;
	/** Private memory. */
	read(at: number, length: number): Uint8Array;
	write(at: number, data: Uint8Array): void;
	/** Hears of every block that a helper comes to. */
	onBlock: ((helper: number, label: string) => void) | undefined;
}

const ok = (what: string, ret: number): void => {
	if (ret !== 0) throw new Error(`${what}: expected 0, got ${ret}`);
};

export function createMachine(o: MachineOptions): Machine {
	const { helpers = 1, generation = 'milan' } = o;
	const sev = createSevMachine({
		dramBytes: RAM_BYTES + 4 * MIB,
		provider: nodeProvider,
		random: seededRandom(o.seed),
		chipSeed: o.seed,
		generation,
	});
	const kvm = createKvm({ machine: sev });
	const vm = kvm.createVm();
	const ram = kvm.memory.mmap(RAM_BYTES);
	const topology = parseSmp(`${helpers + 1},mirrorvcpus=${helpers}`);
	const map = createPcRamMap({ ramBytes: RAM_BYTES, hva: ram.hva });
	const mirror = createMirrorVm({ kvm, main: vm, topology, strategy: createIdentityStrategy(map) });
	ok('init', vm.sev.init().ret);
	ok('start', vm.sev.launchStart({ policy: 0 }).ret);
	ok('share', mirror.shareContext());
	const slot = { slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: RAM_BYTES, userspaceAddr: ram.hva };
	ok('slot', mirror.setUserMemoryRegion(slot));
	ok('windows', mirror.mapWindows());
	ok('measure', vm.sev.launchMeasure().ret);
	ok('finish', vm.sev.launchFinish().ret);
	const cpuid = kvm.cpuid({ sev: true, migrationControl: false });
	const cBit = (cpuid.find(({ function: leaf }) => leaf === 0x8000001f)?.ebx ?? 0) & 0x3f;
	const main = vm.createVcpu(0, cpuid);
	const program = programOf(cBit, o.wrap);

	const guest = (code: (cpu: GuestCpu) => void): void => {
		const blocks: Record<string, Block> = {
			reset: (cpu) => {
				code(cpu);
				return cpu.out(EXIT_PORT, 1, 'reset');
			},
		};
		const thread = openVcpu(main.share(), {
			provider: nodeProvider,
			program: link({ name: 'guest', base: 0x10000, at: { reset: RESET }, blocks }),
			ticks: false,
		});
		main.setSregs({ cr0: 0x60000010n, cr3: 0n, cr4: 0n, efer: 0n });
		main.setRegs({ rip: BigInt(RESET) });
		ok('guest', thread.run());
		if (thread.fault !== undefined) throw thread.fault;
		main.run[1] = 1;
		thread.run();
		main.run[1] = 0;
	};
	const machine: Machine = {
		...{ kvm, sev, vm, ram, cBit, guest, hasWorkers: o.hasWorkers === true },
		...{ mirrors: [], threads: [], ports: [], kicks: [], onBlock: undefined },
		read: (at, length) => {
			const out = new Uint8Array(length);
			guest((cpu) => cpu.load(at, out));
			return out;
		},
		write: (at, data) => guest((cpu) => cpu.store(at, data)),
		step: (helper) => {
			const ret = threads[helper]?.run();
			if (ret !== -4) throw new Error(`helper ${helper}: ret ${ret}, ${threads[helper]?.fault?.message}`);
		},
		stepAll: () => {
			for (const helper of mirrors.keys()) machine.step(helper);
		},
		reset: (helper) => {
			const vcpu = mirrors[helper];
			if (vcpu === undefined) throw new RangeError(`helper ${helper}`);
			ok('sregs', vcpu.setSregs({ cr0: 0x10033n, cr3: 0n, cr4: 0x668n, efer: 0n }));
			ok('regs', vcpu.setRegs({ rip: BigInt(program.address('rig.mirror')), rbx: BigInt(helper), rsp: 0n, r12: 7n }));
		},
	};

	const record: RecordedGuest = {
		...{ cBit, saveAreas: [] },
		ram: o.ram ?? [{ start: GUEST, end: GUEST + 2 * MIB }],
	};
	guest((cpu) => {
		cpu.fill(0x80c000, 0xc00, 0);
		if (o.secret !== false) cpu.store(0x80c000, table);
		// The firmware's own record of what is shared: nothing but what no helper may touch anyway.
		cpu.fill(0x8c0000, 0x10000, 0);
		recordForHelper(cpu, record);
	});
	main.setRegs({ rip: BigInt(program.address('rig.setup')), rdi: o.role === 'target' ? 1n : 0n });
	const boot = openVcpu(main.share(), { provider: nodeProvider, program, ticks: false });
	ok('boot', boot.run());
	if (boot.fault !== undefined) throw boot.fault;
	ok('install', Number(main.getRegs().rax));
	main.run[1] = 1;
	boot.run();
	main.run[1] = 0;

	const goAt = commandBlock.offsetOf('go') / 4;
	const idle = new Set(['poll', 'doze', 'woken', 'dead'].map((name) => program.address(`mh.hardened.${name}`)));
	const mirrors: Vcpu[] = [];
	const threads: VcpuThread[] = [];
	const ports: HelperPort[] = [];
	for (let helper = 0; helper < helpers; helper++) {
		const vcpu = mirror.addVcpu(helper + 1, cpuid);
		const at = mailboxOf(helper);
		const mailbox = ram.bytes.subarray(at, at + PAGE);
		const bodies = ram.bytes.subarray(bodiesOf(helper), bodiesOf(helper) + BATCH_PAGES * PAGE);
		const words = new Int32Array(mailbox.buffer, mailbox.byteOffset, PAGE / 4);
		let blocks = 0;
		const thread = openVcpu(vcpu.share(), {
			...{ provider: nodeProvider, program, ticks: false, random: seededRandom(`${o.seed} ${helper}`) },
			afterBlock: (rip) => {
				machine.onBlock?.(helper, program.label(rip) ?? '');
				blocks++;
				const isWaiting = idle.has(rip) && Atomics.load(words, goAt) === 0;
				if (!isWaiting && blocks < (o.blocksPerStep ?? Number.POSITIVE_INFINITY)) return;
				blocks = 0;
				vcpu.kick();
			},
		});
		mirrors.push(vcpu);
		threads.push(thread);
		machine.kicks.push(0);
		const kick = (): void => {
			machine.kicks[helper] = (machine.kicks[helper] ?? 0) + 1;
			if (o.hasWorkers === true) vcpu.kick();
		};
		ports.push({ mailbox, bodies, kick });
		machine.reset(helper);
	}
	Object.assign(machine, { mirrors, threads, ports });
	return machine;
}
