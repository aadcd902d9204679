import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { createSevMachine } from '@cvm/sev-hw';
import { openMemoryController } from '@cvm/sev-hw/silicon';
import { expect } from 'vitest';
import { Cap } from '../src/abi/capabilities.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import {
	AP_MAILBOX_MAGIC,
	apMailbox,
	E820Type,
	encodeBootParams,
	linuxKernel,
	MemoryMap,
	type Workload,
} from '../src/guest/index.js';
import { createKvm, createRingReader, type KvmAbi, loadVcpuState, MemFlag, saveVcpuState } from '../src/index.js';
import { type Block, type CodeFragment, link, openVcpu } from '../src/vcpu/index.js';
import { contextOf } from '../src/vm/vm.js';
import { createGuestStatus, watchGuest } from '../src/vmm/index.js';

const MIB = 1 << 20;
const PAGE = 4096;
const LARGE = 2 * MIB;
export const VCPUS = 2;
/** The last 2 MiB of RAM per vCPU are its slice of workload memory. */
const RAM = MemoryMap.workload + VCPUS * LARGE;
/** Where the second RAM slot begins. */
const SPLIT = 16 * MIB;
const NUMBERS = [7, 3] as const;
const ASK_PORT = 0xf4;

/** How dirty pages are found. */
export type Way = 'GET' | 'GET and CLEAR' | 'ring';
/** What a vCPU can be told to do. */
export type Op = 'share' | 'unshare' | 'write' | 'idle' | 'kexec';
const OPS: readonly Op[] = ['share', 'unshare', 'write', 'idle', 'kexec'];

/** Only the RAM that this guest uses: a kernel clears all that is RAM when it boots. */
const E820_RAM = [
	[0x200000, 0x600000],
	[MemoryMap.bootParams, MemoryMap.bssDecryptedEnd],
	[MemoryMap.workload, RAM],
] as const;
const E820 = E820_RAM.map(([from, to]) => ({ addr: from, size: to - from, type: E820Type.ram }));

const mailbox = (field: 'magic' | 'entry'): number => MemoryMap.apMailbox + apMailbox.offsetOf(field);
const firmware: CodeFragment = {
	name: 'firmware',
	base: MemoryMap.firmwareText,
	at: { reset: MemoryMap.resetVector },
	blocks: {
		reset: (cpu) => {
			cpu.setNum('rax', 1);
			cpu.setNum('rcx', 0);
			return cpu.cpuid('fw_identified');
		},
		fw_identified: (cpu) => {
			if (cpu.num('rbx') >>> 24 !== 0) return cpu.jump('fw_wait');
			const apReset = cpu.address('fw_take_back');
			const params = {
				ramBytes: RAM,
				seed: 1n,
				stepLimit: 0n,
				cpus: VCPUS,
				efi: false,
				workload: 'test',
				getVariable: 0,
			};
			cpu.store(MemoryMap.bootParams, encodeBootParams({ ...params, apReset, e820: E820 }));
			cpu.storeU64(mailbox('magic'), 0n);
			cpu.setNum('rsi', MemoryMap.bootParams);
			return cpu.jump('kernel_entry');
		},
		fw_take_back: (cpu) => {
			cpu.cr0 &= ~(1n << 31n);
			return cpu.jump('fw_wait');
		},
		fw_wait: (cpu) =>
			cpu.loadU64(mailbox('magic')) === AP_MAILBOX_MAGIC ? cpu.jump(cpu.loadNum(mailbox('entry'))) : cpu.hlt('fw_wait'),
	},
};

/** Asks its VMM what to do, and does it: RBX = op, RDI = address, RSI = pages, RDX = byte to write. */
const worker: Record<string, Block> = {
	test_start: (cpu) => cpu.out(ASK_PORT, 1, 'test_op'),
	test_op: (cpu) => {
		const op = OPS[cpu.num('rbx')];
		if (op === 'write') return cpu.jump('test_write');
		if (op === 'idle') return cpu.call('cpu_idle', 'test_start');
		if (op !== 'kexec') return cpu.call(op === 'share' ? 'set_memory_decrypted' : 'set_memory_encrypted', 'test_start');
		cpu.setNum('rdi', 0);
		return cpu.call('kexec', 'test_kexec_refused');
	},
	// A page and a half per block, so that a harvest may come in the middle.
	test_write: (cpu) => {
		const bytes = Math.min(cpu.num('rsi') * PAGE, PAGE + PAGE / 2);
		cpu.fill(cpu.num('rdi'), bytes, cpu.num('rdx'));
		cpu.setNum('rdi', cpu.num('rdi') + PAGE);
		cpu.setNum('rsi', cpu.num('rsi') - 1);
		return cpu.jump(cpu.num('rsi') === 0 ? 'test_start' : 'test_write');
	},
	test_kexec_refused: (cpu) => cpu.ud2(),
};

/** A guest whose kernel is the real one of `@cvm/kvm/guest`, and the VMM that watches it. */
export interface HarvestRig {
	/** Whether a vCPU waits for its next order. */
	isReady(vcpu: number): boolean;
	/** Gives a ready vCPU an order. `page` counts from the beginning of its slice. */
	order(vcpu: number, op: Op, page?: number, pages?: number, byte?: number): void;
	/** Runs a busy vCPU for a number of blocks. */
	step(vcpu: number, blocks: number): void;
	/** Runs all vCPUs until they wait. */
	drain(): void;
	/** Power button: the machine starts again with the memory that it has. */
	reset(): void;
	/** Fetches what is dirty and brings the copy up to date. Returns how many pages there were. */
	harvest(): number;
	/** The first page whose copy is stale, or −1. */
	stalePage(): number;
	/** The first page that the guest's page tables and the host's list do not agree on, or −1. All vCPUs must wait. */
	misjudgedPage(): number;
	/** The first page that was last sent with another status than it has, or −1. */
	missentPage(): number;
}

export function createHarvestRig(abi: KvmAbi, way: Way): HarvestRig {
	const machine = createSevMachine({
		dramBytes: RAM + 6 * MIB,
		provider: nodeProvider,
		random: seededRandom('harvest'),
		chipSeed: 'harvest',
	});
	const kvm = createKvm({ machine, abi });
	const vm = kvm.createVm();
	const ok = (ret: number) => expect(ret).toBe(0);
	ok(vm.sev.init().ret);
	const ram = kvm.memory.mmap(RAM);
	if (way === 'ring') ok(vm.enableCap(Cap.DIRTY_LOG_RING, [4096n]));
	if (way === 'GET and CLEAR') ok(vm.enableCap(Cap.MANUAL_DIRTY_LOG_PROTECT2, [1n]));
	const bases = [0, SPLIT] as const;
	const sizes = [SPLIT, RAM - SPLIT] as const;
	for (const i of [0, 1] as const) {
		const address = { guestPhysAddr: gpa(bases[i]), memorySize: sizes[i] };
		const userspaceAddr = (ram.hva + bases[i]) as typeof ram.hva;
		ok(vm.setUserMemoryRegion({ slot: NUMBERS[i], flags: MemFlag.logDirtyPages, ...address, userspaceAddr }));
	}
	ok(vm.memoryEncryptRegisterRegion({ addr: ram.hva, size: RAM }));
	ok(vm.sev.launchStart({ policy: 0 }).ret);
	ok(vm.sev.launchMeasure().ret);
	ok(vm.sev.launchFinish().ret);
	expect(watchGuest(vm, abi)).toBeUndefined();

	/** Frames whose status changed since the last harvest. */
	const flipped = new Set<number>();
	const onChange = (from: number, to: number) => {
		for (let gfn = from; gfn < Math.min(to, RAM / PAGE); gfn++) flipped.add(gfn);
	};
	const status = createGuestStatus({ abi, isExposed: true, isEncrypted: true, onChange });

	const workloads: Record<string, Workload> = {
		test: { fragment: { name: 'test', base: MemoryMap.workloadText, blocks: worker }, start: 'test_start' },
	};
	const program = link(firmware, ...linuxKernel({ abi, workloads, othersDuringReset: 'stopped' }));
	let budget = 0;
	let running = 0;
	const afterBlock = () => {
		if (--budget === 0) vcpus[running]?.vcpu.kick();
	};
	const vcpus = Array.from({ length: VCPUS }, (_, index) => {
		const vcpu = vm.createVcpu(index, kvm.cpuid({ migrationControl: true }));
		const thread = openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false, afterBlock });
		const { run } = vcpu;
		return {
			vcpu,
			thread,
			view: new DataView(run.buffer, run.byteOffset, run.byteLength),
			first: saveVcpuState(vcpu.share()),
			reader: vcpu.dirtyRing && createRingReader(vcpu.dirtyRing),
			isReady: false,
		};
	});
	const one = (index: number) => {
		const found = vcpus[index];
		if (found === undefined) throw new RangeError(`vcpu: expected one of ${VCPUS}, got ${index}`);
		return found;
	};

	const copy = new Uint8Array(RAM);
	/** Status of each page when it was last sent: all begin as private. */
	const sent = new Uint8Array(RAM / PAGE);
	const send = (page: number): void => {
		copy.set(ram.bytes.subarray(page * PAGE, (page + 1) * PAGE), page * PAGE);
		sent[page] = status.pages.has(page) ? 1 : 0;
	};
	const bitmaps = sizes.map((size) => new Uint32Array(size / PAGE / 32));
	const fetchLog = (take: (page: number) => void): void => {
		for (const i of [0, 1] as const) {
			const bitmap = bitmaps[i] ?? new Uint32Array();
			ok(vm.getDirtyLog(NUMBERS[i], bitmap));
			const request = { slot: NUMBERS[i], firstPage: 0, numPages: sizes[i] / PAGE, bitmap };
			if (way === 'GET and CLEAR') ok(vm.clearDirtyLog(request));
			for (const [word, bits] of bitmap.entries()) {
				for (let left = bits; left !== 0; left &= left - 1) {
					take(bases[i] / PAGE + 32 * word + 31 - Math.clz32(left & -left));
				}
			}
		}
	};
	const fetchRings = (take: (page: number) => void): void => {
		for (;;) {
			const pages: number[] = [];
			for (const { reader } of vcpus) {
				reader?.harvest((slot, page) => pages.push(page + (bases[NUMBERS.indexOf(slot as 7 | 3)] ?? NaN) / PAGE));
			}
			expect(vm.resetDirtyRings()).toBe(pages.length);
			if (pages.length === 0) return;
			for (const page of pages) take(page);
		}
	};
	const harvest = (): number => {
		const pages = new Set<number>();
		(way === 'ring' ? fetchRings : fetchLog)((page) => pages.add(page));
		for (const page of pages) send(page);
		for (const page of flipped) send(page);
		flipped.clear();
		return pages.size;
	};

	const step = (index: number, blocks: number): void => {
		const { thread, vcpu, view } = one(index);
		budget = blocks;
		running = index;
		while (!one(index).isReady) {
			const ret = thread.run();
			if (ret < 0) return;
			const reason = view.getUint32(RunOffset.exitReason, true);
			if (status.answer(vcpu.run)) continue;
			if (reason === ExitReason.DIRTY_RING_FULL) harvest();
			else if (reason === ExitReason.IO) one(index).isReady = true;
			else throw new Error(`vcpu ${index}: exit ${reason}: ${thread.fault?.message}`);
		}
		// A kick that came with the last exit is for nobody.
		budget = -1;
		view.setUint8(RunOffset.immediateExit, 0);
	};
	const drain = (): void => {
		for (let i = 0; vcpus.some((v) => !v.isReady); i++) {
			if (i > 20_000) throw new Error('guest: expected every vCPU to come to its end, got one that does not');
			for (const [index, v] of vcpus.entries()) if (!v.isReady) step(index, 500);
		}
	};
	const reset = (): void => {
		for (const v of vcpus) {
			loadVcpuState(v.vcpu.share(), v.first);
			v.isReady = false;
		}
		status.reset();
		// A reset makes everything private in one go.
		onChange(0, RAM / PAGE);
	};

	const controller = openMemoryController(machine.silicon, nodeProvider);
	const table = new Uint8Array(PAGE);
	const entries = new DataView(table.buffer);
	const cBit = 1n << BigInt(machine.cpuid.cbitPosition);
	const readTable = (address: number): bigint[] => {
		controller.read(contextOf(vm).sev.asid, ram.spa + address, table);
		return Array.from({ length: 512 }, (_, i) => entries.getBigUint64(8 * i, true));
	};
	const target = (entry: bigint): number => Number(entry & 0x000f_ffff_ffff_f000n & ~cBit);
	/** 1 for each page of RAM that the guest's own tables map without C-bit. */
	const sharedByTables = (): Uint8Array => {
		const { cr3 } = one(0).vcpu.getSregs();
		const directory = readTable(target(readTable(target(readTable(target(cr3))[0] ?? 0n))[0] ?? 0n));
		const shared = new Uint8Array(RAM / PAGE);
		for (let region = 0; region < RAM / LARGE; region++) {
			const entry = directory[region] ?? 0n;
			const isLeaf = (entry & 0x80n) !== 0n;
			const leaves = isLeaf ? [] : readTable(target(entry));
			for (let i = 0; i < 512; i++) {
				shared[region * 512 + i] = ((isLeaf ? entry : (leaves[i] ?? 0n)) & cBit) === 0n ? 1 : 0;
			}
		}
		return shared;
	};

	drain();
	harvest();
	return {
		isReady: (index) => one(index).isReady,
		order: (index, op, page = 0, pages = 1, byte = 0) => {
			const v = one(index);
			const rdi = BigInt(MemoryMap.workload + index * LARGE + page * PAGE);
			v.vcpu.setRegs({ rbx: BigInt(OPS.indexOf(op)), rdi, rsi: BigInt(pages), rdx: BigInt(byte) });
			v.isReady = false;
		},
		step,
		drain,
		reset,
		harvest,
		stalePage: () => {
			const now = Buffer.from(ram.bytes.buffer, ram.bytes.byteOffset, RAM);
			if (now.equals(copy)) return -1;
			for (let page = 0; page < RAM / PAGE; page++) {
				if (!now.subarray(page * PAGE, (page + 1) * PAGE).equals(copy.subarray(page * PAGE, (page + 1) * PAGE)))
					return page;
			}
			return -1;
		},
		misjudgedPage: () => sharedByTables().findIndex((shared, page) => status.pages.has(page) !== (shared === 1)),
		missentPage: () => sharedByTables().findIndex((shared, page) => sent[page] !== shared),
	};
}
