import type { GuestCpu } from '@cvm/kvm/vcpu';
import { describe, expect, it } from 'vitest';
import { handlerDefects } from '../src/firmware/handler/defects.js';
import { UNENCRYPTED_BASE } from '../src/firmware/handler/index.js';
import { loopFragment } from '../src/firmware/handler/loop.js';
import { HandlerAllocations } from '../src/geometry.js';
import { helperPageBytes } from '../src/mailbox/record.js';
import { createHandlerRig, MAILBOX, pageOf, running } from './handler-rig.js';

const words = (hex: string): string => hex.replaceAll(' ', '');
const PAGE = 0x300000;
const none = new Uint8Array();

/** Puts a command block into the mailbox byte by byte, as a host that is not ours. */
function post(rig: ReturnType<typeof running>, hex: string): void {
	rig.ram.bytes.set(Buffer.from(words(hex), 'hex'), MAILBOX);
}

describe('the mailbox of the posted handler, byte for byte', () => {
	// SAVE of page 0x12345000 in the published example; here of one that exists, and of the example's fields without the address.
	const before = '0100000000000000 0050340000000000 00000000 ffffffff 00000000 00000000';
	const moments = (rig: ReturnType<typeof running>): string[] => {
		const seen: string[] = [];
		rig.hooks.afterBlock = (label) => {
			if (label !== 'mh.rfc.spin' && label !== 'mh.rfc.accept') seen.push(`${label} ${rig.block()}`);
			else if (seen.length > 0) seen.push(`${label} ${rig.block()}`);
		};
		for (let i = 0; i < 30 && !seen.at(-1)?.startsWith('mh.rfc.spin'); i++) rig.turn(1);
		rig.hooks.afterBlock = undefined;
		return seen;
	};

	it('goes through these moments for SAVE', () => {
		const rig = running();
		const page = pageOf(1);
		rig.poke(0x345000, page);
		post(rig, before);
		expect(rig.block()).toBe(words(before));
		new DataView(rig.ram.bytes.buffer, rig.ram.bytes.byteOffset).setUint32(MAILBOX + 0x18, 1, true);
		const go = words('0100000000000000 0050340000000000 00000000 ffffffff 01000000 00000000');
		expect(rig.block()).toBe(go);
		const seen = moments(rig);
		const result = words('0100000000000000 0050340000000000 00000000 00000000 01000000 00000000');
		const end = words('0100000000000000 0050340000000000 00000000 00000000 00000000 01000000');
		expect(seen).toEqual([
			`mh.rfc.transfer ${go}`,
			`mh.rfc.copy ${go}`,
			`mh.rfc.copy.return ${go}`,
			`mh.rfc.copied ${go}`,
			`mh.rfc.publish ${result}`,
			`mh.rfc.spin ${end}`,
		]);
		expect(Uint8Array.from(rig.ram.bytes.subarray(MAILBOX + 0x1000, MAILBOX + 0x2000))).toEqual(page);
	});

	it('clears done when it accepts a command, whatever the host left there', () => {
		const rig = running();
		post(rig, '0100000000000000 0050340000000000 00000000 ffffffff 01000000 01000000');
		const accepted = words('0100000000000000 0050340000000000 00000000 ffffffff 01000000 00000000');
		expect(moments(rig)[0]).toBe(`mh.rfc.transfer ${accepted}`);
	});

	it('stores ret, then go, then done: who sees done sees all that belongs to it', () => {
		const stores: string[] = [];
		const next = { to: '' };
		const { blocks } = loopFragment(handlerDefects({ sequence: 'fixed' }));
		const cpu = {
			num: () => 0,
			storeU32: (at: number, value: number) => stores.push(`${(at - UNENCRYPTED_BASE).toString(16)} ${value}`),
			jump: (to: string) => {
				next.to = to;
				return next;
			},
		};
		for (const label of ['mh.rfc.copied', 'mh.rfc.publish']) {
			// What these blocks use of a processor.
			blocks[label]?.(cpu as unknown as GuestCpu);
		}
		expect(stores).toEqual(['820014 0', '820024 0', '820018 0', '82001c 1']);
		expect(next.to).toBe('mh.rfc.spin');
	});

	it.each<[string, string, string]>([
		[
			'an unknown command: −1',
			'0400000000000000 0000000000000000 00000000 ffffffff 01000000 00000000',
			'0400000000000000 0000000000000000 00000000 ffffffff 00000000 01000000',
		],
		[
			'a command of more than 32 bits: −1',
			'0100000001000000 0050340000000000 00000000 00000000 01000000 00000000',
			'0100000001000000 0050340000000000 00000000 ffffffff 00000000 01000000',
		],
		[
			'RESTORE of the mailbox: 0',
			'0200000000000000 0000820000000000 00000000 ffffffff 01000000 00000000',
			'0200000000000000 0000820000000000 00000000 00000000 00000000 01000000',
		],
		[
			'INIT: 0',
			'0000000000000000 0000000000000000 00000000 ffffffff 01000000 00000000',
			'0000000000000000 0000000000000000 00000000 00000000 00000000 01000000',
		],
		[
			'RESET: 0, with any address, DoPrefetch and value of go',
			'0300000000000000 efbeaddeefbeadde 78563412 ffffffff 00000080 01000000',
			'0300000000000000 efbeaddeefbeadde 78563412 00000000 00000000 01000000',
		],
	])('answers %s', (_, command, answer) => {
		const rig = running();
		rig.poke(0x345000, pageOf(3));
		rig.ram.bytes.fill(0x99, MAILBOX + 0x1000, MAILBOX + 0x2000);
		post(rig, command);
		rig.turn(1);
		rig.settle();
		expect(rig.block()).toBe(words(answer));
		expect(rig.ram.bytes.subarray(MAILBOX + 0x1000, MAILBOX + 0x2000).every((byte) => byte === 0x99)).toBe(true);
		expect(rig.isRunning()).toBe(true);
	});

	it('never touches the header, which the host sends on', () => {
		const rig = running();
		rig.ram.bytes.set([3, 0, 0, 0, 0xaa, 0xbb, 0xcc], MAILBOX + 0x800);
		rig.poke(PAGE, pageOf(9));
		const { header, headerLength } = rig.host.save(PAGE);
		expect([headerLength, ...header]).toEqual([3, 0xaa, 0xbb, 0xcc]);
		expect([...rig.ram.bytes.subarray(MAILBOX + 0x800, MAILBOX + 0x808)]).toEqual([3, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0]);
	});
});

describe('the loop of the posted handler', () => {
	it('says where it is on the debug port, then waits for good', () => {
		const rig = running();
		expect(String.fromCharCode(...rig.debug)).toBe('MigrationHandlerMain\n');
		for (let i = 0; i < 50; i++) rig.turn();
		expect(rig.label()).toBe('mh.rfc.spin');
		expect(rig.debug.length).toBe(21);
	});

	it('saves and restores private pages in plain', () => {
		const rig = running();
		const page = pageOf(5);
		rig.poke(PAGE, page);
		const { body, header } = rig.host.save(PAGE);
		expect(body).toEqual(page);
		expect(header.length).toBe(0);
		const other = pageOf(77);
		expect(rig.host.load(PAGE + 0x1000, none, other)).toBe(0);
		expect(rig.plain(PAGE + 0x1000, 4096)).toEqual(other);
		// Private: DRAM holds ciphertext.
		expect(Uint8Array.from(rig.ram.bytes.subarray(PAGE + 0x1000, PAGE + 0x2000))).not.toEqual(other);
	});

	it('gives back the ciphertext’s transform for a page that is shared, and makes it unreadable by restoring it', () => {
		const rig = running();
		rig.ram.bytes.fill(0x42, PAGE, PAGE + 4096);
		const { body } = rig.host.save(PAGE);
		expect(body.every((byte) => byte === 0x42)).toBe(false);
		expect(rig.host.load(PAGE, none, new Uint8Array(4096).fill(0x42))).toBe(0);
		expect(rig.ram.bytes.subarray(PAGE, PAGE + 4096).every((byte) => byte === 0x42)).toBe(false);
	});

	it('takes any value of go but 0 for one', () => {
		const rig = running();
		post(rig, '0000000000000000 0000000000000000 00000000 ffffffff 00010000 00000000');
		rig.turn(4);
		expect(rig.block().slice(-8)).toBe('01000000');
	});

	it('K12: a command posted before the start is discarded; fixed, the host waits until the handler is ready', () => {
		const posted = createHandlerRig();
		const early = posted.mailbox({ relax: () => undefined, timeoutMs: 5 });
		expect(() => early.command(0, 0)).toThrow('Migration helper command 0 timed-out for gpa 0x0');
		expect(posted.block().slice(48)).toBe('0100000000000000');
		posted.start();
		posted.settle();
		// Thrown away, and nothing tells the host.
		for (let i = 0; i < 20; i++) posted.turn();
		expect(posted.block().slice(40)).toBe('ffffffff0000000000000000');

		const fixed = createHandlerRig({ defects: { readyFlag: 'fixed' } });
		let rounds = 0;
		const host = fixed.mailbox({
			defects: { readyFlag: 'fixed' },
			relax: () => {
				rounds++;
				// Posted only after the handler said so.
				if (rounds <= 20) expect(fixed.block().slice(48, 56)).toBe('00000000');
				if (rounds === 20) fixed.start();
				if (rounds > 20) fixed.turn();
			},
		});
		expect(host.command(0, 0)).toBe(0);
		expect(rounds).toBeGreaterThan(20);
	});

	it('K12: done is not cleared at the start, so that an old completion is still there; fixed, it is', () => {
		for (const [readyFlag, done] of [
			['asPosted', '01000000'],
			['fixed', '00000000'],
		] as const) {
			const rig = createHandlerRig({ defects: { readyFlag } });
			rig.ram.bytes[MAILBOX + 0x1c] = 1;
			rig.start();
			rig.settle();
			expect(rig.block().slice(-8)).toBe(done);
		}
	});

	it('K23: an address of the loop changes with SetVirtualAddressMap: the handler is gone; off by default', () => {
		for (const virtualAddressMap of ['asPosted', 'fixed', undefined] as const) {
			const rig = running({ defects: virtualAddressMap === undefined ? {} : { virtualAddressMap } });
			expect(rig.host.command(0, 0)).toBe(0);
			rig.guest((cpu) => {
				cpu.setReg('rdi', 0xfffffffe00000000n);
				return cpu.call('mh.rfc.virtual', 'test.park');
			});
			if (virtualAddressMap === 'asPosted') {
				expect(() => rig.host.command(0, 0)).toThrow('timed-out');
				expect(rig.events).toEqual(['reset']);
			} else expect(rig.host.command(0, 0)).toBe(0);
		}
	});

	it('of March 2021 makes its own page tables on an application processor and goes over to them', () => {
		const rig = createHandlerRig({ setup: false, generation: 'milan', defects: { encryptionBit: 'fixed' } });
		const page = pageOf(8);
		rig.poke(PAGE, page);
		// As in DXE: long mode, here on the tables that the set-up of August would have made.
		rig.start();
		rig.setup();
		rig.poke(0x823000, new Uint8Array(4096));
		const label = rig.program.address('mh.rfc.ap');
		const c = 1n << 51n;
		expect(rig.helper.setSregs({ cr4: 0x668n, cr3: 0xc01000n | c, efer: 0x500n, cr0: 0x80010033n })).toBe(0);
		expect(rig.helper.setRegs({ rip: BigInt(label), rdi: 0x1000000n, rsp: 0n })).toBe(0);
		rig.settle();
		expect(rig.label()).toBe('mh.rfc.spin');
		expect(rig.helper.getSregs().cr3).toBe(BigInt(HandlerAllocations.pageTablePool + 0x1000) | c);
		expect(rig.helper.getRegs().rsp).toBe(BigInt(HandlerAllocations.stack));
		const host = rig.mailbox();
		expect(host.save(PAGE).body).toEqual(page);
	});
});

describe('a page of the helper in the stream', () => {
	const body = pageOf(2);
	const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

	it('has these bytes in August 2021', () => {
		const bytes = helperPageBytes('v2', { offset: 0x12345000, header: none, body });
		expect(hexOf(bytes.subarray(0, 20))).toBe('0000000012345220000000040000000000001000');
		expect(bytes.subarray(20)).toEqual(body);
		const longer = helperPageBytes('v2', { offset: 0x3000, header: pageOf(1).subarray(0, 12), body });
		expect(longer.length).toBe(4128);
		expect(hexOf(longer.subarray(0, 32))).toBe(
			`0000000000003220000000040000000c${hexOf(pageOf(1).subarray(0, 12))}00001000`,
		);
	});

	it('has no subtype in March 2021', () => {
		const bytes = helperPageBytes('v1', { offset: 0x12345000, header: none, body });
		expect(hexOf(bytes.subarray(0, 16))).toBe('00000000123452200000000000001000');
		expect(bytes.length).toBe(4112);
	});

	it('names its block if that is not the one before', () => {
		const bytes = helperPageBytes('v2', { offset: 0x1000, block: 'pc.ram', header: none, body });
		expect(hexOf(bytes.subarray(0, 27))).toBe('0000000000001200' + '0670632e72616d' + '000000040000000000001000');
	});

	it.each<[string, Parameters<typeof helperPageBytes>[1]]>([
		['an offset within a page', { offset: 0x1001, header: none, body }],
		['a long header', { offset: 0, header: new Uint8Array(1025), body }],
		['a short page', { offset: 0, header: none, body: body.subarray(1) }],
		['a nameless block', { offset: 0, block: '', header: none, body }],
	])('does not exist with %s', (_, record) => {
		expect(() => helperPageBytes('v2', record)).toThrow(RangeError);
	});
});
