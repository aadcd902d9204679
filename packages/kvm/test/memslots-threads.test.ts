import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { gpa, hva } from '@cvm/layout';
import { build } from 'esbuild';
import { afterEach, describe, expect, it } from 'vitest';
import { loadVcpuState, MemFlag, saveVcpuState } from '../src/index.js';
import { Register } from '../src/vm/vcpu-state.js';
import { bootHost, MIB, PAGE } from './host.js';

/** Pages that the guest stores to, one after the other, for good. */
const PAGES = 200;
const AT = MIB;
/** Words that the two threads share: 0 how often to run, 1 how often KVM_RUN has returned. */
const GO = 0;
const DONE = 1;

const CODE = `
	import { parentPort, workerData } from 'node:worker_threads';
	import { nodeProvider } from '@cvm/crypto/node';
	import { link, openVcpu } from './vcpu/index.js';
	const { handle, turn } = workerData;
	const program = link({
		name: 'stores', base: 0x10000, at: { reset: 0xfffffff0 },
		blocks: {
			reset: (cpu) => {
				// The number of the round is what is stored: a page is never the same twice.
				const data = new Uint8Array(${PAGES * PAGE}).fill(cpu.num('r12') + 1);
				cpu.setNum('r12', cpu.num('r12') + 1);
				// In one piece, which takes long enough to be in the midst of.
				cpu.store(${AT}, data);
				for (let page = 0; page < ${PAGES}; page++) cpu.storeU64(${AT} + page * ${PAGE} + 8 * (page % 512), cpu.reg('r12'));
				return cpu.jump('reset');
			},
		},
	});
	const thread = openVcpu(handle, { provider: nodeProvider, program, ticks: false });
	parentPort.postMessage('ready');
	for (let runs = 0; ; runs++) {
		Atomics.wait(turn, ${GO}, runs);
		thread.run();
		Atomics.add(turn, ${DONE}, 1);
		Atomics.notify(turn, ${DONE});
	}
`;

const workers: Worker[] = [];
afterEach(async () => {
	await Promise.all(workers.splice(0).map((worker) => worker.terminate()));
});

/** A guest without SEV on a thread of its own, whose stores go to slot 1. */
async function running() {
	const { kvm } = bootHost();
	const vm = kvm.createVm({ sev: false });
	const ram = kvm.memory.mmap(2 * MIB);
	const set = (slot: number, at: number, pages: number, flags: number, from = 0) =>
		vm.setUserMemoryRegion({
			...{ slot, flags, guestPhysAddr: gpa(at), memorySize: pages * PAGE },
			userspaceAddr: hva(ram.hva + from),
		});
	expect(set(1, AT, PAGES, MemFlag.logDirtyPages)).toBe(0);
	const vcpu = vm.createVcpu(0, kvm.cpuid());
	const first = saveVcpuState(vcpu.share());
	const turn = new Int32Array(new SharedArrayBuffer(8));
	const bundle = await build({
		stdin: { contents: CODE, resolveDir: `${import.meta.dirname}/../src`, sourcefile: 'stores.ts' },
		bundle: true,
		write: false,
		format: 'esm',
		platform: 'node',
		conditions: ['@cvm/source'],
	});
	const script = bundle.outputFiles[0]?.text ?? '';
	const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(script)}`), {
		workerData: { handle: vcpu.share(), turn },
	});
	workers.push(worker);
	await once(worker, 'message');
	/** R12 goes up as long as the guest runs. */
	const registers = new BigUint64Array(vcpu.share().state, 0, 128);
	const rounds = () => Atomics.load(registers, Register.r12);
	return {
		vm,
		ram,
		set,
		rounds,
		go: () => {
			loadVcpuState(vcpu.share(), first);
			Atomics.add(turn, GO, 1);
			Atomics.notify(turn, GO);
		},
		/** Until the guest has begun another round. */
		goOn: () => {
			for (const before = rounds(); rounds() === before; );
		},
		/** Until KVM_RUN has returned for the n-th time. */
		returned: (n: number) => {
			for (let done = 0; done < n; done = Atomics.load(turn, DONE)) Atomics.wait(turn, DONE, done);
		},
		kick: () => vcpu.kick(),
		memory: kvm.memory,
		pages: () => Buffer.from(ram.bytes.buffer, ram.bytes.byteOffset, PAGES * PAGE),
	};
}

describe('memslots of a guest that runs in another thread', () => {
	it('are gone when their deletion returns: no store arrives any more', async () => {
		const { set, go, goOn, returned, rounds, pages } = await running();
		for (let turn = 1; turn <= 20; turn++) {
			go();
			goOn();
			for (let i = 0; i < 3000 * (turn % 10); i++) rounds();
			expect(set(1, AT, 0, 0)).toBe(0);
			// From the end, where a store would come last.
			const last = Buffer.from(pages().subarray(-PAGE));
			const then = Buffer.from(pages());
			returned(turn);
			expect(pages().subarray(-PAGE).equals(last)).toBe(true);
			expect(pages().equals(then)).toBe(true);
			expect(set(1, AT, PAGES, MemFlag.logDirtyPages)).toBe(0);
		}
	});

	it('lose no store to the log when they move away under the guest', async () => {
		const { vm, set, go, goOn, returned, pages } = await running();
		const copy = Buffer.alloc(PAGES * PAGE);
		const bitmap = new Uint32Array(8);
		const harvest = () => {
			expect(vm.getDirtyLog(1, bitmap)).toBe(0);
			for (let page = 0; page < PAGES; page++) {
				if ((((bitmap[page >>> 5] ?? 0) >>> (page & 31)) & 1) === 0) continue;
				copy.set(pages().subarray(page * PAGE, (page + 1) * PAGE), page * PAGE);
			}
		};
		for (let turn = 1; turn <= 20; turn++) {
			go();
			goOn();
			for (let i = 0; i < turn; i++) harvest();
			expect(set(1, 4 * AT, PAGES, MemFlag.logDirtyPages)).toBe(0);
			harvest();
			expect(copy.equals(pages())).toBe(true);
			returned(turn);
			expect(copy.equals(pages())).toBe(true);
			expect(set(1, AT, PAGES, MemFlag.logDirtyPages)).toBe(0);
		}
	});

	it('come, go, move and change beside those that it uses, and it goes on', async () => {
		const { vm, set, go, goOn, returned, rounds, kick } = await running();
		go();
		goOn();
		for (let turn = 0; turn < 60; turn++) {
			expect(set(2, 8 * AT, 16, 0, MIB)).toBe(0);
			expect(set(1, AT, PAGES, 0)).toBe(0);
			expect(set(2, (9 + (turn % 5)) * AT, 16, MemFlag.logDirtyPages, MIB)).toBe(0);
			expect(set(1, AT, PAGES, MemFlag.logDirtyPages)).toBe(0);
			expect(set(2, 0, 0, 0)).toBe(0);
		}
		const before = rounds();
		goOn();
		expect(rounds()).toBeGreaterThan(before);
		kick();
		returned(1);
		// All of it was dirty since logging began for the last time.
		const bitmap = new Uint32Array(8);
		expect(vm.getDirtyLog(1, bitmap)).toBe(0);
		expect([...bitmap]).toEqual([...new Array<number>(6).fill(0xffffffff), 0xff, 0]);
	});
});

describe('a VM that is destroyed while its guest runs in another thread', () => {
	it('gives its memory back only when no store arrives any more, and KVM_RUN is at its end', async () => {
		for (let turn = 0; turn < 8; turn++) {
			const { vm, ram, go, goOn, rounds, returned, pages, memory } = await running();
			go();
			goOn();
			for (let i = 0; i < 3000 * turn; i++) rounds();
			// Its slot alone holds the memory now.
			memory.munmap(ram);
			const before = memory.freeBytes;
			vm.destroy();
			expect(memory.freeBytes).toBe(before + PAGES * PAGE);
			const then = Buffer.from(pages());
			expect(then.every((byte) => byte === 0)).toBe(true);
			returned(1);
			expect(pages().equals(then)).toBe(true);
			// Nobody comes in any more.
			go();
			returned(2);
			expect([rounds(), pages().equals(then)]).toEqual([0n, true]);
		}
	});
});
