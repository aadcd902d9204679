import { describe, expect, it } from 'vitest';
import { HandlerAllocations, PublishedGeometry } from '../src/geometry.js';
import { commandBlock, HelperCommand } from '../src/mailbox/abi.js';
import { contains, filled } from './migration-rig.js';
import { type PublishedMachine, publishedMachine } from './published-rig.js';

/*
 * The attacks A1 … A15 on the handler as posted in August 2021: its own code on a mirror vCPU, and a host that posts commands. They
 * succeed, since it encrypts nothing, proves nothing and trusts shared memory. A14 is the VMM's: attacks-mailbox.test.ts.
 */

const [FIRST, SECOND, THIRD] = [0x400000, 0x401000, 0x402000] as const;
const PAGES = [FIRST, SECOND, THIRD] as const;
const { mailbox } = PublishedGeometry;
const SECRET = new TextEncoder().encode('the secret that the guest keeps in a page of its own');

const fill = (machine: PublishedMachine, from: number): void => {
	for (const [i, gpa] of PAGES.entries()) machine.write(gpa, filled(from + i));
};
const first = (machine: PublishedMachine, gpa: number): number => machine.read(gpa, 1)[0] ?? -1;
/** What a host that means well does. */
const migrate = (source: PublishedMachine, target: PublishedMachine): Map<number, Uint8Array> => {
	const stream = new Map(PAGES.map((gpa) => [gpa, source.save(gpa)]));
	for (const [gpa, bytes] of stream) target.restore(gpa, bytes);
	return stream;
};
const bothEnds = (name: string): [PublishedMachine, PublishedMachine] => {
	const ends: [PublishedMachine, PublishedMachine] = [publishedMachine(`${name} s`), publishedMachine(`${name} t`)];
	fill(ends[0], 0x10);
	return ends;
};

describe('rfc-2021: pages', () => {
	it('A1: the host asks for a page and reads the secret in it, at any time', () => {
		const machine = publishedMachine('A1');
		machine.write(SECOND + 100, SECRET);
		expect(contains(machine.dram, SECRET), 'DRAM holds ciphertext').toBe(false);
		expect(contains(machine.save(SECOND), SECRET)).toBe(true);
		expect(contains(machine.dram, SECRET), 'and it stays in shared memory').toBe(true);
	});

	it('A2: bytes that the host made up stand in private memory of a guest that runs', () => {
		const machine = publishedMachine('A2');
		machine.restore(FIRST, filled(0x66));
		expect(machine.read(FIRST, 4096)).toEqual(filled(0x66));
	});

	it('A3: an older version of a page replaces the newer one', () => {
		const [source, target] = bothEnds('A3');
		const old = source.save(FIRST);
		source.write(FIRST, filled(0x77));
		target.restore(FIRST, source.save(FIRST));
		target.restore(FIRST, old);
		expect(first(target, FIRST)).toBe(0x10);
	});

	it('A4: the content of one page gets to the address of another', () => {
		const [source, target] = bothEnds('A4');
		target.restore(SECOND, source.save(FIRST));
		expect(first(target, SECOND)).toBe(0x10);
	});

	it('A5: nobody misses a page', () => {
		const [source, target] = bothEnds('A5');
		target.write(SECOND, filled(0x99));
		for (const gpa of [FIRST, THIRD]) target.restore(gpa, source.save(gpa));
		expect(target.command(HelperCommand.reset, 0)).toBe(0);
		expect(PAGES.map((gpa) => first(target, gpa))).toEqual([0x10, 0x99, 0x12]);
	});

	it('A9: the address is checked, then read again: a page that the guard protects is overwritten', () => {
		const { stack } = HandlerAllocations;
		const machine = publishedMachine('A9');
		const before = machine.read(stack, 64);
		machine.restore(stack, filled(0x66));
		expect(machine.read(stack, 64), 'the guard refuses, and says success').toEqual(before);
		const block = new DataView(machine.dram.buffer, machine.dram.byteOffset + mailbox);
		machine.hooks.afterBlock = (label) => {
			// The handler compares one address and copies to another one.
			if (label === 'mh.rfc.transfer') block.setBigUint64(commandBlock.offsetOf('gpa'), BigInt(stack), true);
		};
		machine.restore(FIRST, filled(0x66));
		expect(machine.read(stack, 64)).toEqual(filled(0x66).subarray(0, 64));
	});

	it('A9: read once, as fixed, it is not: the address that was checked is the one written to', () => {
		const { stack } = HandlerAllocations;
		const machine = publishedMachine('A9 fixed', { commandReads: 'fixed' });
		const before = machine.read(stack, 64);
		const block = new DataView(machine.dram.buffer, machine.dram.byteOffset + mailbox);
		machine.hooks.afterBlock = (label) => {
			if (label === 'mh.rfc.transfer') block.setBigUint64(commandBlock.offsetOf('gpa'), BigInt(stack), true);
		};
		machine.restore(FIRST, filled(0x66));
		expect(machine.read(stack, 64)).toEqual(before);
		expect(first(machine, FIRST)).toBe(0x66);
	});

	it('A10: the guard does not protect the page tables: the handler loses its mappings', () => {
		const machine = publishedMachine('A10 tables');
		const root = HandlerAllocations.pageTablePool + 0x1000;
		const before = machine.read(root, 8);
		machine.restore(root, filled(0));
		expect(() => machine.save(FIRST)).toThrow(expect.objectContaining({ code: 'timeout' }));
		expect(machine.isRunning(), 'a triple fault').toBe(false);
		expect(before).not.toEqual(new Uint8Array(8));
		expect(machine.read(root, 8)).toEqual(new Uint8Array(8));
	});

	it('A10: an address that is not aligned gets around the guard, into the mailbox itself', () => {
		const machine = publishedMachine('A10 align');
		const before = machine.dram.slice(mailbox + 0x100, mailbox + 0x140);
		machine.dram.set(filled(0x66), PublishedGeometry.ioPage);
		machine.command(HelperCommand.restore, 0x81ffff);
		expect(machine.dram.slice(mailbox + 0x100, mailbox + 0x140)).not.toEqual(before);
	});

	it('A10: the alias of shared memory is an address like any other', () => {
		const machine = publishedMachine('A10 alias');
		machine.dram.set(filled(0x42), THIRD);
		expect(machine.save(2 ** 64 - 2 ** 39 + THIRD)).toEqual(filled(0x42));
	});

	it('A10: an address outside the map ends the handler by a triple fault', () => {
		const machine = publishedMachine('A10 fault');
		expect(() => machine.save(2 ** 46)).toThrow(expect.objectContaining({ code: 'timeout' }));
		expect(machine.isRunning()).toBe(false);
	});

	it('A11: a private page that the host calls shared arrives as noise, and nobody objects', () => {
		const [source, target] = bothEnds('A11');
		target.dram.set(source.dram.subarray(SECOND, SECOND + 4096), SECOND);
		for (const gpa of [FIRST, THIRD]) target.restore(gpa, source.save(gpa));
		expect(target.command(HelperCommand.reset, 0)).toBe(0);
		expect(target.read(SECOND, 4096)).not.toEqual(filled(0x11));
	});

	it('A11: a shared page that the host calls private is read through the key, and nobody objects', () => {
		const [source, target] = bothEnds('A11 b');
		source.dram.set(filled(0x42), SECOND);
		target.restore(SECOND, source.save(SECOND));
		expect(target.dram.slice(SECOND, SECOND + 4096)).not.toEqual(filled(0x42));
	});
});

describe('rfc-2021: sessions, of which it has none', () => {
	it('A6: a page of one VM gets into another', () => {
		const [source, target] = bothEnds('A6');
		const other = publishedMachine('A6 other');
		fill(other, 0x50);
		target.restore(FIRST, source.save(FIRST));
		target.restore(SECOND, other.save(SECOND));
		expect(PAGES.slice(0, 2).map((gpa) => first(target, gpa))).toEqual([0x10, 0x51]);
	});

	it('A7: the source and two targets all go on', () => {
		const [source, target] = bothEnds('A7');
		const second = publishedMachine('A7 second');
		migrate(source, target);
		migrate(source, second);
		for (const [i, copy] of [source, target, second].entries()) copy.write(FIRST, filled(0x70 + i));
		expect([source, target, second].map((copy) => first(copy, FIRST))).toEqual([0x70, 0x71, 0x72]);
		expect([source, target, second].map((copy) => first(copy, SECOND))).toEqual([0x11, 0x11, 0x11]);
	});

	it('A8: a recorded stream brings an old guest back, on any machine, as often as one likes', () => {
		const [source, target] = bothEnds('A8');
		const stream = migrate(source, target);
		fill(target, 0x60);
		const anywhere = publishedMachine('A8 anywhere');
		for (const copy of [target, anywhere]) {
			for (const [gpa, bytes] of stream) copy.restore(gpa, bytes);
			expect(PAGES.map((gpa) => first(copy, gpa))).toEqual([0x10, 0x11, 0x12]);
		}
	});

	it('A12: there is neither key nor IV: every record of a page is the page, on the way A → B → C too', () => {
		const [source, target] = bothEnds('A12');
		const [once, again] = [source.save(FIRST), source.save(FIRST)];
		expect(once).toEqual(again);
		target.restore(FIRST, once);
		expect(target.save(FIRST)).toEqual(once);
		expect(once).toEqual(filled(0x10));
	});

	it('A13: the handler asks nobody who he is: a guest that the host launched gets everything', () => {
		const [source] = bothEnds('A13');
		const rogue = publishedMachine('A13 rogue');
		expect(source.command(HelperCommand.init, 0)).toBe(0);
		migrate(source, rogue);
		expect(PAGES.map((gpa) => first(rogue, gpa))).toEqual([0x10, 0x11, 0x12]);
	});

	it('A15: the source runs on after its last page, and the target never hears of it', () => {
		const [source, target] = bothEnds('A15');
		migrate(source, target);
		source.write(SECOND, filled(0x77));
		expect(target.command(HelperCommand.reset, 0)).toBe(0);
		expect(first(target, SECOND)).toBe(0x11);
		expect(source.save(SECOND), 'nor is there a last page').toEqual(filled(0x77));
	});
});
