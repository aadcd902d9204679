import { loadMirrorRegisters, type MirrorRegisters } from '@cvm/kvm/mirror';
import { describe, expect, it } from 'vitest';
import { HandlerAllocations } from '../src/geometry.js';
import { createMailboxProcess, type MailboxHost, type MailboxProcess } from '../src/host/mailbox.js';
import { mirrorResetState } from '../src/host/mirror-reset.js';
import { createHandlerRig, type HandlerRig, MAILBOX, pageOf, RAM_BYTES, running } from './handler-rig.js';

const { pageTablePool, stack } = HandlerAllocations;
const ENTRY = 0x823000;
const PAGE = 0x300000;
const none = new Uint8Array();

describe('the state after reset of a mirror vCPU', () => {
	const state = mirrorResetState();

	it('has segments as they are before the far jump: 32-bit code, although descriptor 0x38 is of 64-bit code', () => {
		const { cs, ds, es, ss, fs, gs, ldt, tr, gdt, idt } = state.sregs;
		expect(cs).toMatchObject({
			selector: 0x38,
			base: 0n,
			limit: 0xffffffff,
			type: 11,
			s: 1,
			present: 1,
			db: 1,
			l: 0,
			g: 1,
		});
		for (const data of [ds, es, ss, fs, gs]) {
			expect(data).toMatchObject({
				selector: 0x30,
				base: 0n,
				limit: 0xffffffff,
				type: 3,
				s: 1,
				present: 1,
				db: 1,
				g: 1,
			});
		}
		expect(ldt).toMatchObject({ selector: 0, limit: 0xffff, type: 2, s: 0, present: 1 });
		expect(tr).toMatchObject({ selector: 0, limit: 0xffff, type: 11, s: 0, present: 1 });
		expect([gdt, idt]).toEqual([
			{ base: 0x823600n, limit: 0x47 },
			{ base: 0n, limit: 0 },
		]);
	});

	it('has these control, debug and floating-point registers', () => {
		const { sregs, regs, xsave, xcrs, debugRegs } = state;
		expect([sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer]).toEqual([0x10033n, 0n, 0n, 0x668n, 0n]);
		expect([regs.rip, regs.rflags, regs.rsp, regs.rbx]).toEqual([0x823000n, 2n, 0n, 0n]);
		const view = new DataView(xsave.buffer);
		expect([view.getUint16(0, true), view.getUint8(4), view.getUint32(24, true)]).toEqual([0x37f, 0, 0x1f80]);
		expect(xcrs).toEqual([{ xcr: 0, value: 1n }]);
		expect(debugRegs).toEqual({ db: [0n, 0n, 0n, 0n], dr6: 0xffff0ff0n, dr7: 0x400n, flags: 0n });
		expect([state.pat, state.smbase, state.a20Mask, state.halted]).toEqual([0x0007040600070406n, 0x30000, -1, true]);
	});

	it('is taken by KVM as it is', () => {
		const rig = createHandlerRig();
		rig.helper.setRegs({ rax: 1n, r15: 7n, rflags: 0x246n });
		const registers: MirrorRegisters = mirrorResetState({ helper: 3 });
		expect(loadMirrorRegisters(rig.helper, registers, 'reset')).toBe(0);
		expect(rig.helper.getSregs()).toMatchObject(registers.sregs);
		expect(rig.helper.getRegs()).toEqual({ ...state.regs, rbx: 3n });
		expect(rig.helper.getFpu()).toMatchObject({ fcw: 0x37f, fsw: 0, ftwx: 0, mxcsr: 0x1f80 });
		expect(rig.helper.getXcrs()).toEqual(registers.xcrs);
		expect(rig.helper.getDebugRegs()).toEqual(registers.debugRegs);
	});

	it('names another entry page if the image does', () => {
		const { regs, sregs } = mirrorResetState({ entry: 0x900000 });
		expect([regs.rip, sregs.gdt.base]).toEqual([0x900000n, 0x900600n]);
	});

	it('leads through the stubs into long mode, the handler’s own tables and its loop, which serves', () => {
		const rig = running();
		const sregs = rig.helper.getSregs();
		expect(sregs.cs).toMatchObject({ selector: 0x38, l: 1, db: 0 });
		expect([sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer]).toEqual([
			0x80010033n,
			BigInt(pageTablePool + 0x1000),
			0x668n,
			0x500n,
		]);
		expect(rig.helper.getRegs().rsp).toBe(BigInt(stack));
		expect(rig.label()).toBe('mh.rfc.spin');
		const page = pageOf(6);
		rig.poke(PAGE, page);
		expect([0, 3, 4, 1].map((nr) => rig.host.command(nr, nr === 1 ? PAGE : 0))).toEqual([0, 0, -1, 0]);
		expect(Uint8Array.from(rig.ram.bytes.subarray(MAILBOX + 0x1000, MAILBOX + 0x2000))).toEqual(page);
		expect(rig.host.load(PAGE + 4096, none, page)).toBe(0);
		expect(rig.plain(PAGE + 4096, 4096)).toEqual(page);
		expect(rig.isRunning()).toBe(true);
	});

	it('K10: the shutdown of a mirror vCPU is a reset of the machine, after which it starts anew', () => {
		const rig = running();
		expect(() => rig.host.command(1, 2 ** 39)).toThrow('timed-out');
		expect(rig.events).toEqual(['reset']);
		rig.start();
		rig.settle();
		expect(rig.host.command(0, 0)).toBe(0);
	});
});

describe('a chain of migrations', () => {
	const FROM = 0x700000;
	/** One end with what is common to its process. */
	interface End {
		readonly rig: HandlerRig;
		readonly process: MailboxProcess;
		readonly commands: number[];
		host(): MailboxHost;
	}
	function end(seed: string, o: Parameters<typeof createHandlerRig>[0] = {}): End {
		const rig = createHandlerRig({ seed, ...o });
		const process = createMailboxProcess();
		const commands: number[] = [];
		rig.hooks.afterBlock = (label) => {
			const nr = rig.ram.bytes[MAILBOX] ?? 0;
			if (label === 'mh.rfc.accept' && (nr === 0 || nr === 3)) commands.push(nr);
		};
		rig.start();
		rig.settle();
		const host = (): MailboxHost => rig.mailbox({ process, relax: () => rig.turn(12) });
		return { rig, process, commands, host };
	}
	/** Every page but those that the posted VMM skips. */
	function migrate(from: End, to: End): void {
		const [source, target] = [from.host(), to.host()];
		source.setup();
		target.setup();
		for (let gpa = FROM; gpa < RAM_BYTES; gpa += 4096) {
			if (gpa >= MAILBOX && gpa < MAILBOX + 0x2000) continue;
			const { header, body } = source.save(gpa);
			expect(target.load(gpa, header, body)).toBe(0);
		}
		source.cleanup();
		target.cleanup();
	}
	const memory = ({ rig }: End): Uint8Array => {
		const out = rig.plain(FROM, RAM_BYTES - FROM);
		return out.fill(0, MAILBOX - FROM, MAILBOX - FROM + 0x2000);
	};
	/** Pages that are not the same. */
	const differences = (a: End, b: End): number[] => {
		const [one, other] = [memory(a), memory(b)];
		const pages = Array.from({ length: one.length / 4096 }, (_, i) => 4096 * i);
		const isOther = (at: number): boolean =>
			Buffer.compare(one.subarray(at, at + 4096), other.subarray(at, at + 4096)) !== 0;
		return pages.filter(isOther).map((at) => FROM + at);
	};

	it('goes on from B to C: RESET ends nothing, INIT is not sent again, memory is the same (K20)', () => {
		const [a, b, c] = [end('a'), end('b'), end('c')];
		a.rig.poke(0xf00000, pageOf(42));
		expect(differences(a, b).length).toBeGreaterThan(2000);
		migrate(a, b);
		// K7: what was refused is lost, although all calls succeeded: the first page of a stack that nobody uses.
		expect(differences(a, b)).toEqual([stack]);
		migrate(b, c);
		expect(differences(a, c)).toEqual([stack]);
		expect(c.rig.plain(0xf00000, 4096)).toEqual(pageOf(42));
		expect([a.commands, b.commands, c.commands]).toEqual([
			[0, 3],
			[0, 3, 3],
			[0, 3],
		]);
		// B's handler starts from what was A's memory.
		b.rig.start();
		b.rig.settle();
		expect(b.host().command(0, 0)).toBe(0);
	});

	it('starts B’s handler with A’s addresses once its memory is A’s', () => {
		const [a, b] = [end('a'), end('b')];
		const page = a.rig.plain(ENTRY, 4096);
		new DataView(page.buffer).setBigUint64(0x408, BigInt(stack + 0x2000), true);
		a.rig.poke(ENTRY, page);
		const before = b.rig.helper.getRegs().rsp;
		const { header, body } = a.host().save(ENTRY);
		b.host().load(ENTRY, header, body);
		// What is in registers stays.
		expect(b.rig.helper.getRegs().rsp).toBe(before);
		b.rig.start();
		b.rig.settle();
		expect(b.rig.helper.getRegs().rsp).toBe(BigInt(stack + 0x2000));
	});

	it('needs the same allocations on both ends: otherwise B’s handler is overwritten while it runs', () => {
		const other = { pageTablePool: 0xa00000, stack };
		const [a, b] = [end('a'), end('b', { places: other })];
		a.rig.poke(other.pageTablePool, new Uint8Array(11 * 4096));
		const [source, target] = [a.host(), b.host()];
		const restore = (gpa: number): void => {
			const { header, body } = source.save(gpa);
			expect(target.load(gpa, header, body)).toBe(0);
		};
		for (let i = 0; i < 4; i++) restore(other.pageTablePool + 4096 * i);
		// A page of a region that its TLB has not seen.
		expect(() => restore(0x200000)).toThrow('timed-out');
		expect(b.rig.events).toEqual(['reset']);
	});
});
