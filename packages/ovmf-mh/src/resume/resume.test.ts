import { vmsa } from '@cvm/sev-hw/abi';
import { fc, it as prop } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import {
	APIC_CONSTANTS,
	BLOB_NOT_RESTORED,
	BLOB_OFFSET,
	COMPLETION_OFFSET,
	type CpuState,
	cpuStateLayout,
	cpuStatePage,
	DEMONSTRATOR_PAGES,
	DEMONSTRATOR_STEPS,
	DIRECT_MAP,
	decodeCpuState,
	encodeCpuState,
	INTERMEDIATE_PAGES,
	interceptedSteps,
	intermediateTables,
	nextResumeState,
	RESUME_TABLE,
	type ResumeEvent,
	ResumeState,
	type ResumeStateName,
	requireTrampoline,
	SAVE_AREA_NOT_RESTORED,
	SAVE_AREA_STEPS,
	SaveAreaOffset,
	saveAreaProblem,
	walkTables,
	xsaveOfSaveArea,
} from './index.js';

/** Every field a value of its own. */
const state = Object.fromEntries(
	Object.entries(cpuStateLayout.fields)
		.filter(([name, field]) => field.kind === 'value' && !['magic', 'version', 'endMagic', 'origRax'].includes(name))
		.map(([name, field], i) => [name, field.size === 2 ? 0x1100 + i : 0x1122334455000000n + BigInt(i)]),
) as unknown as CpuState;

describe('struct cpu_state', () => {
	it('has every field at its documented offset', () => {
		const table: Record<string, number> = {
			...{ magic: 0, version: 8, r15: 0x10, r14: 0x18, r13: 0x20, r12: 0x28, rbp: 0x30, rbx: 0x38 },
			...{ r11: 0x40, r10: 0x48, r9: 0x50, r8: 0x58, rax: 0x60, rcx: 0x68, rdx: 0x70, rsi: 0x78, rdi: 0x80 },
			...{ origRax: 0x88, rip: 0x90, cs: 0x98, rflags: 0xa0, rsp: 0xa8, ss: 0xb0, ds: 0xb8, es: 0xba, fs: 0xbc },
			...{ gs: 0xbe, tr: 0xc0, fsBase: 0xc8, gsBase: 0xd0, kernelGsBase: 0xd8, cr0: 0xe0, cr2: 0xe8, cr3: 0xf0 },
			...{ cr4: 0xf8, efer: 0x100, sysenterCs: 0x108, sysenterEsp: 0x110, sysenterEip: 0x118, star: 0x120 },
			...{ lstar: 0x128, cstar: 0x130, fmask: 0x138, tscAux: 0x140, gdtLimit: 0x14e, gdtBase: 0x150 },
			...{ idtLimit: 0x15e, idtBase: 0x160, endMagic: 0x168 },
		};
		expect(cpuStateLayout.size).toBe(0x170);
		const offsets = Object.entries(cpuStateLayout.fields).filter(([, field]) => field.kind === 'value');
		expect(Object.fromEntries(offsets.map(([name, field]) => [name, field.offset]))).toEqual(table);
	});
	it('is written and read: magics, version, ORIG_RAX, the frame of an IRETQ', () => {
		const blob = encodeCpuState(state);
		const view = new DataView(blob.buffer);
		expect(Buffer.from(blob.subarray(0, 8)).toString()).toBe('CPUSTATE');
		expect(Buffer.from(blob.subarray(0x168)).toString()).toBe('ENDSTATE');
		expect(view.getBigUint64(8, true)).toBe(0x100n);
		expect(view.getBigUint64(0x88, true)).toBe(state.rax);
		expect([0x90, 0x98, 0xa0, 0xa8, 0xb0].map((at) => view.getBigUint64(at, true))).toEqual([
			...[state.rip, state.cs, state.rflags, state.rsp, state.ss],
		]);
		expect(view.getUint16(0x14e, true)).toBe(state.gdtLimit);
		expect(decodeCpuState(blob)).toEqual(state);
		blob[0xc4] = 7;
		expect(decodeCpuState(blob)).toEqual(state);
	});
	it('is refused without its magics, in another version, and cut short', () => {
		const spoilt = (at: number) => {
			const blob = encodeCpuState(state);
			blob[at] = (blob[at] ?? 0) ^ 1;
			return decodeCpuState(blob);
		};
		expect([spoilt(0), spoilt(8), spoilt(0x16f)]).toEqual(['magic', 'version', 'end-magic']);
		expect(decodeCpuState(new Uint8Array(0x16f))).toBe('length');
	});
	it('stands so in its page that the frame ends on 16 bytes, and the flag where the host writes it', () => {
		const page = cpuStatePage(state);
		expect(decodeCpuState(page.subarray(BLOB_OFFSET))).toEqual(state);
		expect((BLOB_OFFSET + 0xb8) % 16).toBe(0);
		expect(DEMONSTRATOR_PAGES.data + BLOB_OFFSET + COMPLETION_OFFSET).toBe(0x80df08);
	});
});

describe('the state machine', () => {
	const names = Object.keys(ResumeState) as ResumeStateName[];
	const events: ResumeEvent[] = [
		...(['ready', 'handshake', 'converged', 'enter', 'switched', 'devices', 'iret', 'interrupt', 'fail'] as const),
	];
	const order: ResumeEvent[] = ['ready', 'handshake', 'converged', 'enter', 'switched', 'devices', 'iret'];
	it('goes from launched to running by one way alone', () => {
		let now: ResumeStateName = 'launched';
		const seen = order.map((event) => {
			now = nextResumeState(now, event);
			return now;
		});
		expect(seen).toEqual(names.slice(1, 8));
	});
	it('may be interrupted up to 3a; afterwards it has failed', () => {
		for (const name of names) {
			const isBefore = ResumeState[name] <= ResumeState.trampoline;
			const next = nextResumeState(name, 'interrupt');
			if (name === 'running') expect(next).toBe('running');
			else expect(next === 'failed').toBe(!isBefore);
		}
	});
	prop.prop([fc.array(fc.constantFrom(...events), { maxLength: 30 })], { numRuns: 500 })(
		'never runs without every step in order, and never after a failure',
		(sequence) => {
			let now: ResumeStateName = 'launched';
			let hasFailed = false;
			const way: ResumeEvent[] = [];
			for (const event of sequence) {
				const next = nextResumeState(now, event);
				if (next !== now && next !== 'failed') {
					// Back to `converged`: phases 1 and 2 begin anew.
					if (event === 'interrupt') way.length = 3;
					else way.push(event);
				}
				if (hasFailed) expect(next).toBe('failed');
				hasFailed ||= next === 'failed';
				now = next;
			}
			if (now === 'running') expect(way).toEqual(order);
		},
	);
	it('has an answer for every state', () => {
		expect(Object.keys(RESUME_TABLE)).toEqual(names);
	});
});

describe('the steps', () => {
	it('a SEV-ES guest may have ours between 3a and 3e, and not the demonstrator’s', () => {
		expect(interceptedSteps(SAVE_AREA_STEPS)).toEqual([]);
		expect(interceptedSteps(DEMONSTRATOR_STEPS)).toEqual([
			'3b: OUT for progress',
			'3c: WRMSR',
			'3d: WRMSR TSC',
			'3d: WRMSR x2APIC',
		]);
	});
	it('what is not carried or not restored is data', () => {
		expect(BLOB_NOT_RESTORED).toContain('x87, SSE and AVX state');
		expect(SAVE_AREA_NOT_RESTORED.map(([what]) => what)).toContain('TSC_AUX');
		expect(APIC_CONSTANTS.timerInitialCount).toEqual([0x838, 0x3cf53]);
	});
	it('vmsaCreate needs SEV-SNP', () => {
		expect(() => requireTrampoline('trampoline')).not.toThrow();
		expect(() => requireTrampoline('vmsaCreate')).toThrow('cpuRestore: expected trampoline, got vmsaCreate');
	});
});

describe('the intermediate page table', () => {
	const root = 0x700000;
	const page = DEMONSTRATOR_PAGES.phase3;
	const reader = (bytes: Uint8Array) => (gpa: number) =>
		gpa >= root && gpa < root + bytes.length ? new DataView(bytes.buffer).getBigUint64(gpa - root, true) : 0n;
	it('of a kernel without KASLR: one PDPT, one PD, one leaf, under both addresses', () => {
		const va = DIRECT_MAP + BigInt(page);
		const bytes = intermediateTables({ root, gpa: page, va, cBit: 0 });
		expect(bytes.length).toBe(INTERMEDIATE_PAGES * 4096);
		const view = new DataView(bytes.buffer);
		const present = [...Array(bytes.length / 8).keys()].filter((i) => view.getBigUint64(8 * i, true) !== 0n);
		expect(present).toEqual([0, 273, 512, 1024 + 4]);
		expect(view.getBigUint64(8 * 1028, true)).toBe(0x8000e3n);
		expect(va).toBe(0xffff88800080c000n);
	});
	const slots = fc.record({
		pml4: fc.integer({ min: 0, max: 511 }),
		pdpt: fc.integer({ min: 0, max: 511 }),
		pd: fc.integer({ min: 0, max: 511 }),
	});
	prop.prop([slots, fc.constantFrom(0, 47, 51)], { numRuns: 200 })(
		'maps a page at any address of KASLR',
		({ pml4, pdpt, pd }, cBit) => {
			const linear = (BigInt(pml4) << 39n) | (BigInt(pdpt) << 30n) | (BigInt(pd) << 21n) | (BigInt(page) % 0x200000n);
			const va = BigInt.asUintN(64, BigInt.asIntN(48, linear));
			const read = reader(intermediateTables({ root, gpa: page, va, cBit }));
			const cr3 = BigInt(root) | (cBit === 0 ? 0n : 1n << BigInt(cBit));
			for (const at of [va, BigInt(page)]) {
				const leaf = walkTables(read, cr3, at, cBit);
				expect(leaf).toMatchObject({ gpa: page, isWritable: true, isExecutable: true, isPrivate: cBit !== 0 });
			}
		},
	);
	it('is refused for an address that cannot be', () => {
		expect(() => intermediateTables({ root, gpa: page, va: 1n << 47n, cBit: 0 })).toThrow(
			'expected a canonical address',
		);
		expect(() => intermediateTables({ root, gpa: page, va: 0x1000n, cBit: 0 })).toThrow(
			'expected the same place in 2 MiB',
		);
	});
	it('a walk ends at what is not present, not canonical, or a leaf of 512 GiB', () => {
		expect(walkTables(() => 0n, 0x1000n, 0n, 0)).toBeUndefined();
		expect(walkTables(() => 0x83n, 0x1000n, 0n, 0)).toBeUndefined();
		expect(walkTables(() => 3n, 0x1000n, 1n << 47n, 0)).toBeUndefined();
	});
});

describe('a save area', () => {
	const good = (): Uint8Array =>
		vmsa.encode({
			...{ efer: 0x1500n, cr0: 0x80010033n, cr4: 0x20n, slotPaddr: 0x40n, rip: 0x1000n, rsp: 0x2000n, xcr0: 7n },
			...{ fcw: 0x37f, mxcsr: 0x1f80, ftw: 0xff, x87: new Uint8Array(80).fill(3), xmm: new Uint8Array(256).fill(4) },
		});
	it('has its fields where the firmware has them', () => {
		const known = Object.keys(vmsa.fields) as (keyof typeof vmsa.fields)[];
		const shared = Object.entries(SaveAreaOffset).filter(([name]) => name !== 'end');
		expect(shared.every(([name]) => known.some((other) => other === name))).toBe(true);
		for (const [name, offset] of shared)
			expect([name, vmsa.offsetOf(name as (typeof known)[number])]).toEqual([name, offset]);
	});
	it('that has nothing wrong that can be seen', () => {
		expect(saveAreaProblem(good())).toBeUndefined();
	});
	const low = (offset: number, value: bigint) => (page: Uint8Array) =>
		new DataView(page.buffer).setBigUint64(offset, value, true);
	it.each<[string, ReturnType<typeof saveAreaProblem>, (page: Uint8Array) => void]>([
		['zeros', 'not-a-save-area', (page) => page.fill(0)],
		['without SVME', 'not-a-save-area', low(SaveAreaOffset.efer, 0x500n)],
		['with a slot that is none', 'not-a-save-area', low(SaveAreaOffset.slotPaddr, 0x41n)],
		['with something behind its end', 'not-a-save-area', (page) => page.fill(1, 4095)],
		['outside long mode', 'mode', low(SaveAreaOffset.efer, 0x1100n)],
		['without paging', 'mode', low(SaveAreaOffset.cr0, 0x33n)],
		['with a CS that is not flat', 'mode', low(SaveAreaOffset.cs + 8, 0x10000n)],
		['at another privilege than CS', 'mode', (page) => page.fill(3, SaveAreaOffset.cpl, SaveAreaOffset.cpl + 1)],
		['with an RIP that is not canonical', 'address', low(SaveAreaOffset.rip, 1n << 47n)],
	])('%s: %s', (_, problem, spoil) => {
		const page = good();
		spoil(page);
		expect(saveAreaProblem(page)).toBe(problem);
	});
	it('of another length', () => {
		expect(saveAreaProblem(new Uint8Array(4095))).toBe('length');
	});
	it('as XRSTOR takes it', () => {
		const view = new DataView(xsaveOfSaveArea(good()).buffer);
		expect([view.getUint16(0, true), view.getUint8(4), view.getUint32(24, true)]).toEqual([0x37f, 0xff, 0x1f80]);
		expect([view.getUint8(32), view.getUint8(41), view.getUint8(42), view.getUint8(160), view.getUint8(415)]).toEqual([
			3, 3, 0, 4, 4,
		]);
		expect(view.getBigUint64(512, true)).toBe(7n);
	});
});
