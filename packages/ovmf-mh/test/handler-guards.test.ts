import { describe, expect, it } from 'vitest';
import { type Behaviour, FIXED_HANDLER, type HandlerDefects } from '../src/firmware/handler/index.js';
import { HandlerAllocations } from '../src/geometry.js';
import { FIXED_MAILBOX } from '../src/host/mailbox.js';
import { HelperStatus } from '../src/mailbox/abi.js';
import { MAILBOX, pageOf, RAM_BYTES, running } from './handler-rig.js';

const { pageTablePool, stack, data } = HandlerAllocations;
const ALIAS = 0xffffff8000000000n;
const ENTRY = 0x823000;
const BOTH = ['asPosted', 'fixed'] as const satisfies readonly Behaviour[];
const PAGE = 0x300000;

/** Which of the other guards must not stand in the way. */
type Defects = Partial<HandlerDefects>;
const body = pageOf(0x5b);

/** Asks for any address, also one that no host of ours would ask for. */
function command(rig: ReturnType<typeof running>, nr: number, gpa: bigint | number, input?: Uint8Array): number {
	const { bytes } = rig.ram;
	const view = new DataView(bytes.buffer, bytes.byteOffset + MAILBOX);
	if (input !== undefined) bytes.set(input, MAILBOX + 0x1000);
	view.setBigUint64(0, BigInt(nr), true);
	view.setBigUint64(8, BigInt(gpa), true);
	view.setInt32(0x14, -77, true);
	view.setUint32(0x1c, 0, true);
	view.setUint32(0x18, 1, true);
	for (let i = 0; i < 40 && view.getUint32(0x1c, true) === 0; i++) rig.turn(4);
	return view.getInt32(0x14, true);
}
const restore = (rig: ReturnType<typeof running>, gpa: bigint | number, input = body): number =>
	command(rig, 2, gpa, input);
const save = (rig: ReturnType<typeof running>, gpa: bigint | number): number => command(rig, 1, gpa);
/** Whether a restore changed memory. */
function isWritten(defects: Defects, gpa: number): boolean {
	const rig = running({ defects });
	rig.ram.bytes.set(body, MAILBOX + 0x1000);
	// Not the command block, which changes in any case.
	const before = rig.plain(gpa + 0x100, 0x800);
	restore(rig, gpa);
	const after = rig.plain(gpa + 0x100, 0x800);
	return after.some((byte, i) => byte !== before[i]);
}

describe('the restore guards', () => {
	it('K1: restoring onto the page tables destroys the mapping; fixed, it is refused', () => {
		const root = pageTablePool + 0x1000;
		const posted = running();
		expect(restore(posted, root)).toBe(0);
		expect(posted.plain(root, 4096)).toEqual(body);
		// The TLB still knows the old ones, as a processor would; the next start does not.
		posted.start();
		posted.settle();
		expect(posted.events).toEqual(['reset']);
		const fixed = running({ defects: { tableGuardAddress: 'fixed' } });
		const before = fixed.plain(root, 4096);
		expect(restore(fixed, root)).toBe(0);
		expect(fixed.plain(root, 4096)).toEqual(before);
		fixed.start();
		fixed.settle();
		expect(fixed.host.command(0, 0)).toBe(0);
	});

	it('K2: 11 pages from the second one of the pool are guarded: its header is not, the page behind it is; fixed, the pool is', () => {
		const end = pageTablePool + 11 * 4096;
		const at = (tableGuardLength: Behaviour, gpa: number): boolean =>
			isWritten({ tableGuardAddress: 'fixed', tableGuardLength }, gpa);
		expect([at('asPosted', pageTablePool), at('asPosted', end - 4096), at('asPosted', end)]).toEqual([
			true,
			false,
			false,
		]);
		expect([at('fixed', pageTablePool), at('fixed', end - 4096), at('fixed', end)]).toEqual([false, false, true]);
		expect([at('asPosted', end + 4096), at('fixed', pageTablePool - 4096)]).toEqual([true, true]);
	});

	it('K3: the guard of the stack is 4 bytes long; fixed, 4 pages', () => {
		const at = (stackGuardLength: Behaviour, gpa: number): boolean => isWritten({ stackGuardLength }, gpa);
		expect([at('asPosted', stack), at('asPosted', stack + 0x1000), at('asPosted', stack + 0x3000)]).toEqual([
			false,
			true,
			true,
		]);
		expect([at('fixed', stack), at('fixed', stack + 0x1000), at('fixed', stack + 0x3000)]).toEqual([
			false,
			false,
			false,
		]);
		expect(at('fixed', stack + 0x4000)).toBe(true);
		// Only the first byte of a page is looked at.
		const rig = running();
		const before = rig.plain(stack, 8);
		expect(restore(rig, stack + 3)).toBe(0);
		expect(rig.plain(stack, 8)).toEqual(before);
		expect(restore(rig, stack + 4)).toBe(0);
		expect(rig.plain(stack + 4, 16)).toEqual(body.subarray(0, 16));
	});

	it('K5: the third page of the mailbox is not guarded; fixed, it is', () => {
		const at = (mailboxGuardLength: Behaviour, gpa: number): boolean => isWritten({ mailboxGuardLength }, gpa);
		expect([at('asPosted', MAILBOX), at('asPosted', MAILBOX + 0x1000), at('asPosted', MAILBOX + 0x2000)]).toEqual([
			false,
			false,
			true,
		]);
		expect(at('fixed', MAILBOX + 0x2000)).toBe(false);
	});

	it('K6: another entry page is restored, and the next start fails; fixed, it and the variables are guarded', () => {
		const posted = running();
		expect(restore(posted, ENTRY)).toBe(0);
		expect(restore(posted, data)).toBe(0);
		expect(posted.plain(ENTRY, 4096)).toEqual(body);
		expect(posted.host.command(0, 0)).toBe(0);
		posted.start();
		posted.settle();
		expect(posted.events).toEqual(['reset']);
		expect(() => posted.host.command(0, 0)).toThrow('timed-out');
		const fixed = running({ defects: { imageGuard: 'fixed' } });
		expect([restore(fixed, ENTRY), restore(fixed, data)]).toEqual([0, 0]);
		expect(fixed.plain(ENTRY, 4096)).not.toEqual(body);
		fixed.start();
		fixed.settle();
		expect(fixed.host.command(0, 0)).toBe(0);
	});

	it('K6: an entry page that differs in its addresses alone sends the next start elsewhere', () => {
		const rig = running();
		const page = rig.plain(ENTRY, 4096);
		new DataView(page.buffer).setBigUint64(0x410, BigInt(rig.program.address('test.park')), true);
		expect(restore(rig, ENTRY, page)).toBe(0);
		rig.start();
		rig.turn(3);
		expect(rig.label()).toBe('test.park');
	});

	it('K7: a refused restore succeeds, and the page is lost; fixed, it has a code of its own', () => {
		expect(BOTH.map((refusedRestore) => restore(running({ defects: { refusedRestore } }), MAILBOX))).toEqual([
			0,
			HelperStatus.address,
		]);
	});

	it('K8: a page that begins a byte before the mailbox overwrites it, privately; fixed, addresses are aligned', () => {
		const posted = running();
		restore(posted, MAILBOX - 1);
		posted.settle();
		// The command block is noise from then on, but for what the handler stores into it.
		expect(posted.plain(MAILBOX - 1, 1)).toEqual(body.subarray(0, 1));
		expect(posted.plain(MAILBOX + 0x40, 0x800)).toEqual(body.subarray(0x41, 0x841));
		const defects: Defects = { guardRange: 'fixed', refusedRestore: 'fixed' };
		const fixed = running({ defects });
		expect(restore(fixed, MAILBOX - 1)).toBe(HelperStatus.address);
		expect(fixed.plain(MAILBOX - 1, 1)).not.toEqual(body.subarray(0, 1));
		expect(restore(fixed, PAGE + 8)).toBe(HelperStatus.address);
		expect(restore(fixed, PAGE)).toBe(0);
	});

	it('K9: the entry page can be saved, whatever is in it; fixed, what must not be restored is not saved either', () => {
		const posted = running();
		expect([save(posted, ENTRY), save(posted, pageTablePool), save(posted, data)]).toEqual([0, 0, 0]);
		const fixed = running({
			defects: { saveGuard: 'fixed', imageGuard: 'fixed', tableGuardAddress: 'fixed', tableGuardLength: 'fixed' },
		});
		const before = Uint8Array.from(fixed.ram.bytes.subarray(MAILBOX + 0x1000, MAILBOX + 0x2000));
		for (const gpa of [ENTRY, pageTablePool, data, MAILBOX]) expect(save(fixed, gpa)).toBe(HelperStatus.address);
		expect(Uint8Array.from(fixed.ram.bytes.subarray(MAILBOX + 0x1000, MAILBOX + 0x2000))).toEqual(before);
		expect(save(fixed, PAGE)).toBe(0);
	});

	it.each([
		['2^39', 2n ** 39n],
		['the first address that is not canonical', 2n ** 47n],
		['one that is not canonical, above 2^63', 2n ** 63n],
		['the alias behind its GiB', ALIAS + 2n ** 30n],
		['an address without memory', 0xfee00000n],
		['the last byte, with what would follow it', 2n ** 64n - 1n],
	])('K10: at %s the processor shuts down, and the machine is reset; fixed, it is refused', (_, gpa) => {
		for (const nr of [1, 2]) {
			const posted = running();
			expect(command(posted, nr, gpa)).toBe(-77);
			expect(posted.events).toEqual(['reset']);
			expect(posted.isRunning()).toBe(false);
			const fixed = running({ defects: { addressCheck: 'fixed', saveGuard: 'fixed', refusedRestore: 'fixed' } });
			expect(command(fixed, nr, gpa)).toBe(HelperStatus.address);
			expect(fixed.events).toEqual([]);
		}
	});

	it('K10: the alias is an address like any other: ciphertext is read and written; fixed, it is refused', () => {
		const posted = running();
		posted.poke(PAGE, pageOf(1));
		expect(save(posted, ALIAS + BigInt(PAGE))).toBe(0);
		const raw = (at: number): Uint8Array => Uint8Array.from(posted.ram.bytes.subarray(at, at + 4096));
		expect(raw(MAILBOX + 0x1000)).toEqual(raw(PAGE));
		expect(restore(posted, ALIAS + BigInt(PAGE))).toBe(0);
		expect(raw(PAGE)).toEqual(body);
		// The guard of the mailbox does not know it there.
		expect(restore(posted, ALIAS + BigInt(MAILBOX + 0x1000))).toBe(0);
		const fixed = running({ defects: { addressCheck: 'fixed', saveGuard: 'fixed', refusedRestore: 'fixed' } });
		for (const gpa of [ALIAS, ALIAS + BigInt(PAGE), BigInt(RAM_BYTES), BigInt(RAM_BYTES - 4095)]) {
			expect([save(fixed, gpa), restore(fixed, gpa)]).toEqual([HelperStatus.address, HelperStatus.address]);
		}
		expect(restore(fixed, RAM_BYTES - 4096)).toBe(0);
	});

	it('K11: the address is read again after the guards; fixed, it is copied with the command', () => {
		for (const commandReads of BOTH) {
			const rig = running({ defects: { commandReads } });
			const before = rig.plain(MAILBOX + 0x100, 0x800);
			rig.hooks.afterBlock = (label) => {
				// Past the guards: now it is another one.
				if (label === 'mh.rfc.transfer') rig.ram.bytes.set([0x00, 0x00, 0x82, 0x00], MAILBOX + 8);
			};
			restore(rig, PAGE);
			rig.settle();
			rig.hooks.afterBlock = undefined;
			const isPosted = commandReads === 'asPosted';
			expect(rig.plain(MAILBOX + 0x100, 0x800)).toEqual(isPosted ? body.subarray(0x100, 0x900) : before);
			if (!isPosted) expect(rig.plain(PAGE, 4096)).toEqual(body);
		}
	});

	it('K11: it is read anew for each comparison, so that each sees another one; fixed, all see the same', () => {
		for (const commandReads of BOTH) {
			const rig = running({ defects: { commandReads, tableGuardAddress: 'fixed', refusedRestore: 'fixed' } });
			rig.hooks.afterBlock = (label) => {
				if (label === 'mh.rfc.guard.tables') rig.ram.bytes.set([0x00, 0x10, 0xc0, 0x00], MAILBOX + 8);
				if (label === 'mh.rfc.guard.stack') rig.ram.bytes.set([0x00, 0x00, 0x30, 0x00], MAILBOX + 8);
			};
			expect(restore(rig, PAGE)).toBe(commandReads === 'asPosted' ? HelperStatus.address : 0);
		}
	});
});

describe('the guest’s own kernel, in one address space with the handler', () => {
	it.each([
		['entry page', ENTRY],
		['page tables', pageTablePool + 0x1000],
		['page tables’ private half', pageTablePool + 0x2000],
	])('can overwrite its %s, also with all guards fixed: they are the host’s to meet, not the kernel’s', (_, gpa) => {
		for (const defects of [{}, FIXED_HANDLER]) {
			const rig = running({ defects });
			rig.poke(gpa, body);
			rig.start();
			rig.settle();
			expect(rig.events).toEqual(['reset']);
		}
	});

	it('can be overwritten by it: every page that is not the handler’s is the host’s to replace', () => {
		const rig = running({ defects: FIXED_HANDLER, mailbox: { defects: FIXED_MAILBOX } });
		expect(rig.host.load(PAGE, new Uint8Array(), body)).toBe(0);
		expect(rig.plain(PAGE, 4096)).toEqual(body);
	});
});
