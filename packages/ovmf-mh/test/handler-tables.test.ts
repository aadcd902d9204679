import { describe, expect, it } from 'vitest';
import {
	dxeGdt,
	entryStub32,
	entryStub64,
	handlerPageTables,
	poolHeader,
	UNENCRYPTED_BASE,
} from '../src/firmware/handler/index.js';
import { HandlerAllocations, PublishedGeometry } from '../src/geometry.js';
import { createHandlerRig, RAM_BYTES, running } from './handler-rig.js';

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const { pageTablePool, stack } = HandlerAllocations;
const ENTRY = PublishedGeometry.entry;
const u64 = (bytes: Uint8Array, at: number): bigint =>
	new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true);

describe('the page tables of the posted handler', () => {
	// Worked example: the top table stands at 0x7E801000.
	const tables = handlerPageTables(0x7e800000, 1n << 47n);
	const entry = (page: number, index: number): bigint => u64(tables, page * 4096 + 8 * index);

	it('have these entries', () => {
		expect(entry(1, 0)).toBe(0x000080007e802023n);
		expect(entry(1, 511)).toBe(0x000080007e803023n);
		expect(entry(2, 0)).toBe(0x00008000000000e3n);
		expect(entry(2, 1)).toBe(0x00008000400000e3n);
		expect(entry(2, 3)).toBe(0x00008000c00000e3n);
		expect(entry(2, 511)).toBe(0x0000807fc00000e3n);
		expect(entry(3, 0)).toBe(0x00000000000000e3n);
	});

	it('have no others', () => {
		const used = [...new BigUint64Array(tables.buffer)].flatMap((value, i) => (value === 0n ? [] : [i]));
		const low = Array.from({ length: 512 }, (_, i) => 1024 + i);
		expect(used).toEqual([0, 1, 2, 512, 1023, ...low, 1536]);
	});

	it('stand behind the header of their pool', () => {
		expect(tables.length).toBe(11 * 4096);
		expect(poolHeader.decodePrefix(tables)).toEqual({ nextPool: 0x7e800000n, offset: 0x1000n, freePages: 10n });
	});

	it('map the mailbox at these addresses', () => {
		const of = (va: number): string => BigInt.asUintN(64, BigInt(va)).toString(16);
		expect(of(UNENCRYPTED_BASE)).toBe('ffffff8000000000');
		expect(of(UNENCRYPTED_BASE + PublishedGeometry.mailbox)).toBe('ffffff8000820000');
		expect(of(UNENCRYPTED_BASE + PublishedGeometry.ioPage)).toBe('ffffff8000821000');
	});

	it('are what the set-up writes to guest memory', () => {
		const rig = createHandlerRig();
		expect(rig.plain(pageTablePool, 11 * 4096)).toEqual(handlerPageTables(pageTablePool, 1n << 47n));
	});

	it('K15: C-bit 47 on a platform where it is 51: nothing can be reached; fixed, CPUID says where it is', () => {
		const posted = running({ generation: 'milan' });
		expect(posted.events).toEqual(['reset']);
		const fixed = running({ generation: 'milan', defects: { encryptionBit: 'fixed' } });
		expect(fixed.plain(pageTablePool, 11 * 4096)).toEqual(handlerPageTables(pageTablePool, 1n << 51n));
		expect(fixed.host.command(0, 0)).toBe(0);
		const rome = running({ defects: { encryptionBit: 'fixed' } });
		expect(rome.host.command(0, 0)).toBe(0);
	});
});

describe('the entry page of the posted handler', () => {
	it('has a 32-bit stub of these bytes', () => {
		// objdump -D -b binary -m i386 shows: mov eax,ds:0x823400; mov cr3,eax; mov ecx,0xc0000080; rdmsr; bts eax,8; wrmsr;
		// mov eax,cr0; bts eax,31; mov cr0,eax; ljmp 0x38:0x823200.
		const code = 'a1003482000f22d8b9800000c00f320fbae8080f300f20c00fbae81f0f22c0ea003282003800';
		expect(hexOf(entryStub32())).toBe(code.padEnd(2 * 0x50, '0'));
	});

	it('K24: no defect: the operands of the 64-bit stub are absolute, so that its copy reads what it should', () => {
		expect(hexOf(entryStub64())).toBe('488b242508348200ff242510348200'.padEnd(2 * 0x50, '0'));
		// ModRM 04/25 and 24 with SIB 25: a 32-bit displacement without base, not one relative to RIP (ModRM 05/35).
		for (const defects of [{}, { encryptionBit: 'fixed', gdtLength: 'fixed' }] as const) {
			const rig = running({ defects });
			expect(rig.plain(ENTRY + 0x200, 15)).toEqual(entryStub64().subarray(0, 15));
			expect(rig.helper.getRegs().rsp).toBe(BigInt(stack));
			expect(rig.label()).toBe('mh.rfc.spin');
		}
	});

	it('holds stubs, addresses and GDT, and leaves the rest alone', () => {
		const rig = createHandlerRig({ setup: false });
		rig.poke(ENTRY, new Uint8Array(4096).fill(0xaa));
		expect(rig.setup()).toBe(0n);
		const page = rig.plain(ENTRY, 4096);
		const expected = new Uint8Array(4096).fill(0xaa);
		expected.set(entryStub32(), 0);
		expected.set(entryStub64(), 0x200);
		expected.set([0x00, 0x10, 0xc0, 0x00], 0x400);
		const view = new DataView(expected.buffer);
		view.setBigUint64(0x408, BigInt(stack), true);
		view.setBigUint64(0x410, BigInt(rig.program.address('mh.rfc.main')), true);
		expected.set(dxeGdt().subarray(0, 0x47), 0x600);
		expect(page).toEqual(expected);
	});

	it('has the GDT of DXE, of which the mirror vCPU uses the last but one', () => {
		const gdt = dxeGdt();
		expect(gdt.length).toBe(0x48);
		expect([0, 8].map((i) => u64(gdt, 8 * i))).toEqual([0n, 0n]);
		expect(u64(gdt, 0x30)).toBe(0x00cf92000000ffffn);
		expect(u64(gdt, 0x38)).toBe(0x00af9a000000ffffn);
		// Conforming code: bit 2 of the type.
		expect((u64(gdt, 0x10) >> 40n) & 0x1cn).toBe(0x1cn);
	});

	it('K17: the last byte of the ninth descriptor is not copied; fixed, it is', () => {
		for (const [gdtLength, byte] of [
			['asPosted', 0xaa],
			['fixed', 0],
		] as const) {
			const rig = createHandlerRig({ setup: false, defects: { gdtLength } });
			rig.poke(ENTRY, new Uint8Array(4096).fill(0xaa));
			rig.setup();
			expect([...rig.plain(ENTRY + 0x646, 3)]).toEqual([0, byte, 0xaa]);
		}
	});

	it('K16: CR3 above 4 GiB loses its upper half; fixed, the set-up refuses such tables', () => {
		const places = { pageTablePool: 2 ** 32 + 0x200000, stack };
		const highBytes = 4 << 20;
		const posted = createHandlerRig({ places, highBytes });
		expect(hexOf(posted.plain(ENTRY + 0x400, 4))).toBe('00102000');
		expect(u64(posted.plain(HandlerAllocations.data, 8), 0)).toBe((1n << 47n) | 0x100201000n);
		posted.start();
		posted.settle();
		expect(posted.events).toEqual(['reset']);

		const fixed = createHandlerRig({ places, highBytes, setup: false, defects: { rootAddress: 'fixed' } });
		fixed.poke(ENTRY, new Uint8Array(4096));
		expect(fixed.setup()).toBe(0x8000000000000003n);
		expect(fixed.plain(ENTRY, 4096).every((byte) => byte === 0)).toBe(true);
		// Below 4 GiB the field has all 64 bits, the C-bit among them.
		const low = running({ defects: { rootAddress: 'fixed' } });
		expect(u64(low.plain(ENTRY + 0x400, 8), 0)).toBe((1n << 47n) | BigInt(pageTablePool + 0x1000));
		expect(low.host.command(0, 0)).toBe(0);
	});

	it('K4: RSP starts at the lowest address of the stack, so that the first push is below it; fixed, at its end', () => {
		for (const [stackPointer, rsp] of [
			['asPosted', stack],
			['fixed', stack + 0x4000],
		] as const) {
			const rig = createHandlerRig({ defects: { stackPointer } });
			const mark = new Uint8Array(16).fill(0x77);
			rig.poke(stack - 16, mark);
			rig.poke(stack + 0x3ff0, mark);
			rig.start();
			rig.settle();
			expect(rig.helper.getRegs().rsp).toBe(BigInt(rsp));
			const isHit = (at: number): boolean => rig.plain(at, 8).some((byte) => byte !== 0x77);
			expect([isHit(stack - 8), isHit(stack + 0x3ff8)]).toEqual([rsp === stack, rsp !== stack]);
			expect(rig.plain(stack - 16, 8)).toEqual(mark.subarray(0, 8));
		}
	});

	it('K4: restoring the page below the stack, which is the guest’s own, ends the handler; fixed, it is a page like any other', () => {
		const page = new Uint8Array(4096).fill(0xee);
		const posted = running();
		expect(() => posted.host.load(stack - 4096, new Uint8Array(), page)).toThrow('timed-out');
		expect(posted.events).toEqual(['reset']);
		const fixed = running({ defects: { stackPointer: 'fixed' } });
		expect(fixed.host.load(stack - 4096, new Uint8Array(), page)).toBe(0);
		expect(fixed.plain(stack - 4096, 4096)).toEqual(page);
		expect(fixed.host.command(0, 0)).toBe(0);
	});

	it('knows its RAM from the firmware', () => {
		expect(u64(createHandlerRig().plain(HandlerAllocations.data + 16, 8), 0)).toBe(BigInt(RAM_BYTES));
	});
});
