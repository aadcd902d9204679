import { describe, expect, it } from 'vitest';
import type { Block, GuestCpu } from '../src/vcpu/index.js';
import { VmWord } from '../src/vm/state.js';
import { createRig, programOf, type Rig } from './guest-rig.js';
import { C, faultOf, le64, mapped, P, pte, run, TABLES, W } from './paging-rig.js';

const MIB = 1 << 20;
const LARGE = 0x80n;

describe('the C-bit', () => {
	it('makes the difference between ciphertext and plaintext in DRAM', () => {
		const rig = mapped({
			block: (cpu) => {
				cpu.fill(0x20000, 4096, 0xaa);
				cpu.fill(0x21000, 4096, 0xbb);
				return cpu.jump('end');
			},
		});
		rig.poke(pte(0x21), le64(0x21000n | P | W));
		run(rig);
		expect(rig.ram.subarray(0x20000, 0x21000).includes(0xaa)).toBe(true);
		expect(rig.ram.subarray(0x20000, 0x21000).every((b) => b === 0xaa)).toBe(false);
		expect(rig.plain(0x20000, 4096).every((b) => b === 0xaa)).toBe(true);
		expect(rig.ram.subarray(0x21000, 0x22000).every((b) => b === 0xbb)).toBe(true);
	});

	it('shows the host ciphertext at another mapping of the same page', () => {
		const seen: number[] = [];
		const rig = mapped({
			block: (cpu) => {
				cpu.storeU32(0x20000, 0x12345678);
				seen.push(cpu.loadU32(0x20000), cpu.loadU32(0x30000));
				return cpu.jump('end');
			},
		});
		rig.poke(pte(0x30), le64(0x20000n | P | W));
		run(rig);
		expect(seen[0]).toBe(0x12345678);
		expect(seen[1]).toBe(new DataView(rig.ram.buffer, rig.ram.byteOffset).getUint32(0x20000, true));
		expect(seen[1]).not.toBe(0x12345678);
	});

	it('does not matter in the tables themselves: walks are private', () => {
		const rig = mapped({
			links: 0n,
			block: (cpu) => {
				cpu.setNum('r8', cpu.loadU8(0x20000));
				return cpu.jump('end');
			},
		});
		rig.setRegister('cr3', BigInt(TABLES));
		rig.poke(0x20000, Uint8Array.of(77));
		expect(run(rig)).toBe(77);
	});

	it('is implied while paging is off', () => {
		const rig = mapped({
			block: (cpu) => {
				cpu.storeU8(0x20000, 5);
				return cpu.jump('end');
			},
		});
		rig.setRegister('cr0', 0x10n);
		run(rig);
		expect(rig.plain(0x20000, 1)[0]).toBe(5);
	});

	it('is an address bit in a VM without SEV, and points nowhere', () => {
		const rig = mapped({
			sev: false,
			block: (cpu) => {
				cpu.loadU8(0x20000);
				return cpu.jump('end');
			},
		});
		rig.poke(pte(0x20), le64(0x20000n | C | P | W));
		expect(faultOf(rig)).toBe('memory: GPA 0x8000000020000: expected a memslot, got none');
	});

	it('does not exist in a VM without SEV: DRAM holds what the guest wrote', () => {
		const rig = mapped({
			sev: false,
			block: (cpu) => {
				cpu.storeU32(0x20000, 0xcafe);
				return cpu.jump('end');
			},
		});
		run(rig);
		expect([...rig.ram.subarray(0x20000, 0x20004)]).toEqual([0xfe, 0xca, 0, 0]);
	});
});

describe('page tables', () => {
	const read = (va: number): Block => {
		return (cpu) => {
			cpu.setNum('r8', cpu.loadU8(va));
			return cpu.jump('end');
		};
	};

	it('have 2 MiB leaves', () => {
		const rig = mapped({ block: read(0x200000 + 0x1234) });
		rig.poke(0x12000 + 8, le64(0x400000n | P | W | LARGE | C));
		rig.poke(0x401234, Uint8Array.of(9));
		expect(run(rig)).toBe(9);
	});

	it('have 1 GiB leaves', () => {
		const rig = mapped({ block: read(2 ** 30 + 0x401234) });
		rig.poke(0x11000 + 8, le64(P | W | LARGE | C));
		rig.poke(0x401234, Uint8Array.of(9));
		expect(run(rig)).toBe(9);
	});

	it('use all four levels', () => {
		const va = 2 ** 39 * 3 + 2 ** 30 * 5 + 2 ** 21 * 7 + 4096 * 11 + 13;
		const rig = mapped({ block: read(va) });
		rig.poke(TABLES + 8 * 3, le64(0x14000n | P | W | C));
		rig.poke(0x14000 + 8 * 5, le64(0x15000n | P | W | C));
		rig.poke(0x15000 + 8 * 7, le64(0x16000n | P | W | C));
		rig.poke(0x16000 + 8 * 11, le64(0x300000n | P | W | C));
		rig.poke(0x30000d, Uint8Array.of(42));
		expect(run(rig)).toBe(42);
	});

	it('ignore NX, software bits and the accessed and dirty bits', () => {
		const rig = mapped({ block: read(0x20000) });
		rig.poke(pte(0x20), le64(0x20000n | P | C | (1n << 63n) | (0x7ffn << 52n) | 0xe60n));
		rig.poke(0x20000, Uint8Array.of(3));
		expect(run(rig)).toBe(3);
	});

	it.each<[string, (rig: Rig) => void, Block, string]>([
		[
			'a missing leaf',
			(r) => r.poke(pte(0x20), le64(0n)),
			read(0x20123),
			'translation: VA 0x20000: expected a present mapping, got none',
		],
		['a missing table', () => {}, read(2 ** 40), 'translation: VA 0x10000000000: expected a present mapping, got none'],
		[
			'a leaf of 512 GiB, which no processor has',
			(r) => r.poke(TABLES + 8, le64(P | W | LARGE | C)),
			read(2 ** 39),
			'translation: VA 0x8000000000: expected leaves of at most 1 GiB, got a larger one',
		],
		[
			'an address without a memslot, which KVM would make MMIO',
			(r) => r.poke(pte(0x20), le64(0xfee00000n | P | W | C)),
			read(0x20030),
			'memory: GPA 0xfee00030: expected a memslot, got none',
		],
		[
			'a table without a memslot',
			(r) => r.poke(0x12000 + 8, le64(0x80000000n | P | W | C)),
			read(0x200000),
			'memory: page table at GPA 0x80000000: expected a memslot, got none',
		],
		[
			'a store through a read-only mapping',
			(r) => r.poke(pte(0x20), le64(0x20000n | P | C)),
			(cpu) => {
				cpu.storeU8(0x20000, 1);
				return cpu.jump('end');
			},
			'translation: VA 0x20000: expected a writable mapping, got a read-only one',
		],
		[
			'an address from 2^47 up',
			() => {},
			read(2 ** 47),
			'translation: VA 0x800000000000: expected a canonical address, got another',
		],
		[
			'an address below −2^47',
			() => {},
			read(-(2 ** 47) - 1),
			'translation: VA 0xffff7ffffffff000: expected a canonical address, got another',
		],
		[
			'a page of the upper half that is not there',
			() => {},
			read(-(2 ** 39)),
			'translation: VA 0xffffff8000000000: expected a present mapping, got none',
		],
		[
			'legacy paging',
			(r) => r.setRegister('efer', 0n),
			read(0x20000),
			'translation: VA 0x20000: expected long mode, got legacy paging, which is not modelled',
		],
	])('end in a triple fault at %s', (_, prepare, block, message) => {
		const rig = mapped({ block });
		prepare(rig);
		expect(faultOf(rig)).toBe(message);
		expect(rig.register('rip')).toBe(0xfffffff0n);
	});

	it('lead to a fault for a store to a read-only memslot', () => {
		const rig = mapped({
			block: (cpu) => {
				cpu.storeU8(0x20000, 1);
				return cpu.jump('end');
			},
		});
		rig.addSlot(0x10000000, 0x1000, 2 * MIB, 2);
		rig.poke(pte(0x20), le64(0x10000000n | P | W | C));
		expect(faultOf(rig)).toBe('memory: GPA 0x10000000: expected a writable memslot, got a read-only one');
	});
});

describe('translations', () => {
	const change: Block = (cpu) => {
		cpu.storeU8(0x20000, 1);
		cpu.storeU64(pte(0x20), 0x30000n | P | W | C);
		return cpu.jump('second');
	};

	it('stay cached until a flush', () => {
		const rig = mapped({
			block: change,
			second: (cpu) => {
				cpu.storeU8(0x20000, 2);
				return cpu.jump('end');
			},
		});
		run(rig);
		expect([rig.plain(0x20000, 1)[0], rig.plain(0x30000, 1)[0] === 2]).toEqual([2, false]);
	});

	it.each<[string, (cpu: GuestCpu) => void]>([
		['flushTlb', (cpu) => cpu.flushTlb()],
		[
			'a write to CR3',
			(cpu) => {
				cpu.cr3 = BigInt(TABLES);
			},
		],
	])('are forgotten after %s', (_, flush) => {
		const rig = mapped({
			block: change,
			second: (cpu) => {
				flush(cpu);
				cpu.storeU8(0x20000, 2);
				return cpu.jump('end');
			},
		});
		run(rig);
		expect([rig.plain(0x20000, 1)[0], rig.plain(0x30000, 1)[0]]).toEqual([1, 2]);
	});

	it('of a vCPU are forgotten when another one shoots them down', () => {
		const program = programOf({
			reset: (cpu) => {
				cpu.storeU8(0x20000, 1);
				return cpu.out(1, 1, 'again');
			},
			again: (cpu) => {
				cpu.storeU8(0x20000, 2);
				return cpu.out(2, 1, 'again');
			},
			other: (cpu) => {
				cpu.storeU64(pte(0x20), 0x30000n | P | W | C);
				cpu.flushTlb();
				return cpu.out(3, 1, 'again');
			},
		});
		const rig = mapped({ block: (cpu) => cpu.ud2() });
		const two = createRig({ ramBytes: 8 * MIB, vcpus: 2, program });
		for (let page = TABLES; page < 0x14000; page += 4096) two.poke(page, rig.plain(page, 4096));
		for (const vcpu of [0, 1]) {
			for (const name of ['cr0', 'cr3', 'cr4', 'efer'] as const) two.setRegister(name, rig.register(name), vcpu);
		}
		two.setRegister('rip', BigInt(program.address('other')), 1);
		two.vcpus[0]?.run();
		two.vcpus[1]?.run();
		two.vcpus[0]?.run();
		expect([two.plain(0x20000, 1)[0], two.plain(0x30000, 1)[0]]).toEqual([1, 2]);
	});

	it('are forgotten when the memslots change', () => {
		const rig = mapped({
			block: (cpu) => {
				cpu.storeU8(0x20000, 1);
				return cpu.out(1, 1, 'second');
			},
			second: (cpu) => {
				cpu.storeU8(0x20000, 2);
				return cpu.jump('end');
			},
		});
		rig.vcpus[0]?.run();
		rig.words[VmWord.slotCount] = 0;
		Atomics.add(rig.words, VmWord.slotGeneration, 2);
		Atomics.add(rig.words, VmWord.tlbGeneration, 1);
		expect(faultOf(rig)).toContain('expected a memslot, got none');
	});
});
