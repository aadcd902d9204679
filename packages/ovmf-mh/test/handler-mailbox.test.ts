import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import {
	createMailboxHost,
	createMailboxProcess,
	FIXED_MAILBOX,
	MailboxError,
	type MailboxHostOptions,
} from '../src/host/mailbox.js';
import { type MailboxMemory, mailboxMemory } from '../src/host/mailbox-memory.js';
import { HelperCommand, RET_NONE, RET_PRELOAD } from '../src/mailbox/abi.js';
import { createHandlerRig, MAILBOX, pageOf, running } from './handler-rig.js';

const PAGE = 0x300000;
const none = new Uint8Array();
const BOTH = ['asPosted', 'fixed'] as const;
/** Those that need nothing of the handler. */
const FIXED_MAILBOX_WITHOUT_HANDLER = { ...FIXED_MAILBOX, readyFlag: 'asPosted', sequence: 'asPosted' } as const;
/** A mailbox of its own, four pages, with marks behind its first two. */
const mapping = (): Uint8Array => new Uint8Array(new SharedArrayBuffer(4 * 4096)).fill(0xd0, 8192);

/** A host over a handler that answers as it is told, when the host waits. */
function answered(
	answer: (view: DataView, round: number) => void,
	o: Partial<MailboxHostOptions> & { bytes?: Uint8Array } = {},
) {
	const { bytes = mapping(), ...rest } = o;
	const view = new DataView(bytes.buffer);
	let clock = 0;
	let round = 0;
	const host = createMailboxHost({
		memory: mailboxMemory(bytes),
		polls: 1,
		now: () => clock++,
		relax: () => {
			answer(view, round);
			round++;
		},
		...rest,
	});
	return { host, bytes, view };
}
const succeed = (view: DataView): void => {
	view.setInt32(0x14, 0, true);
	view.setUint32(0x18, 0, true);
	view.setUint32(0x1c, 1, true);
};
/** The error of a call. */
const errorOf = (call: () => unknown): MailboxError => {
	try {
		call();
	} catch (error) {
		if (error instanceof MailboxError) return error;
		throw error;
	}
	throw new Error('expected a MailboxError, got none');
};

describe('the host’s sequence', () => {
	it('stores the fields in QEMU’s order, go last, before it looks at done', () => {
		const seen: string[] = [];
		const real = mailboxMemory(mapping());
		const memory: MailboxMemory = {
			...real,
			load: (offset) => {
				seen.push(`load ${offset.toString(16)}`);
				return offset === 0x1c ? 1 : real.load(offset);
			},
			store: (offset, value) => {
				seen.push(`${offset.toString(16)} ${value.toString(16)}`);
				real.store(offset, value);
			},
		};
		expect(createMailboxHost({ memory }).command(1, 0x112345000)).toBe(-1);
		const stores = ['0 1', '4 0', '8 12345000', 'c 1', '10 0', '14 ffffffff', '1c 0', '18 1'];
		expect(seen).toEqual([...stores, 'load 1c', 'load 14']);
	});

	it('makes the block of the published example: SAVE of 0x12345000', () => {
		const bytes = mapping();
		const real = mailboxMemory(bytes);
		const moments: string[] = [];
		const look = () => moments.push(Buffer.from(bytes.subarray(0, 32)).toString('hex'));
		const memory: MailboxMemory = {
			...real,
			store: (offset, value) => {
				if (offset === 0x18) look();
				real.store(offset, value);
				if (offset === 0x18) look();
			},
		};
		const host = createMailboxHost({ memory, polls: 1, relax: () => succeed(new DataView(bytes.buffer)) });
		expect(host.command(HelperCommand.save, 0x12345000)).toBe(0);
		look();
		expect(moments).toEqual([
			'01000000000000000050341200000000' + '00000000ffffffff0000000000000000',
			'01000000000000000050341200000000' + '00000000ffffffff0100000000000000',
			'01000000000000000050341200000000' + '00000000000000000000000001000000',
		]);
	});

	it('puts page and header into the mailbox before the command', () => {
		const seen: string[] = [];
		const real = mailboxMemory(mapping());
		const memory: MailboxMemory = {
			...real,
			load: (offset) => (offset === 0x1c ? 1 : 0),
			store: (offset) => seen.push(`store ${offset.toString(16)}`),
			write: (offset, data) => seen.push(`write ${offset.toString(16)} ${data.length}`),
		};
		const host = createMailboxHost({ memory, process: { initialised: true } });
		host.load(PAGE, pageOf(1).subarray(0, 12), pageOf(1));
		expect(seen.slice(0, 4)).toEqual(['store 800', 'write 804 12', 'write 1000 4096', 'store 0']);
		expect(seen.at(-1)).toBe('store 18');
	});

	it('gives up after 100 ms by its clock, which it looks at between rounds only, and leaves go', () => {
		let clock = 1000;
		let rounds = 0;
		const { host, view } = answered(() => undefined, {
			now: () => clock,
			relax: () => {
				rounds++;
				clock += 30;
			},
		});
		const error = errorOf(() => host.command(1, 0x12345000));
		expect(error.message).toBe('Migration helper command 1 timed-out for gpa 0x12345000');
		expect([error.code, error.ret, rounds]).toEqual(['timeout', -5, 4]);
		expect([view.getUint32(0x18, true), view.getUint32(0x1c, true)]).toEqual([1, 0]);
	});

	it('sends INIT before the first page, RESET at the end, whatever comes of them', () => {
		const seen: number[] = [];
		const { host } = answered((view) => {
			seen.push(view.getUint32(0, true));
			view.setUint32(0x14, view.getUint32(0, true) === HelperCommand.save ? 0 : 0xffffffff, true);
			view.setUint32(0x1c, 1, true);
		});
		host.setup();
		host.save(PAGE);
		host.save(PAGE);
		host.cleanup();
		// INIT failed, so it is tried again.
		expect(seen).toEqual([0, 1, 0, 1, 3]);
	});

	it('goes on without INIT and RESET that time out', () => {
		const { host } = answered((view) => {
			if (view.getUint32(0, true) === HelperCommand.save) succeed(view);
		});
		expect(host.save(PAGE).body.length).toBe(4096);
		host.cleanup();
	});

	it('reports what a handler refuses to save', () => {
		const { host } = answered((view) => {
			view.setInt32(0x14, -4, true);
			view.setUint32(0x1c, 1, true);
		});
		const error = errorOf(() => host.save(PAGE));
		expect([error.code, error.ret, error.message]).toEqual([
			'refused',
			-1,
			'Migration helper command 1 for gpa 0x300000: expected ret 0, got -4',
		]);
		expect(host.load(PAGE, none, pageOf(1))).toBe(-4);
	});

	it.each<[string, (host: ReturnType<typeof createMailboxHost>) => void, string]>([
		[
			'a header of 1025 bytes',
			(host) => host.load(PAGE, new Uint8Array(1025), pageOf(1)),
			'confidential-ram: migration helper page header is too large (len=1025)',
		],
		[
			'a short page',
			(host) => host.load(PAGE, none, new Uint8Array(4095)),
			'confidential-ram: migration helper encrypted page is too large (len=4095)',
		],
	])('does not load %s', (_, load, message) => {
		const { host, bytes } = answered(succeed);
		const error = errorOf(() => load(host));
		expect([error.message, error.ret]).toEqual([message, -22]);
		expect(bytes.subarray(0, 32).every((byte) => byte === 0)).toBe(true);
	});

	it('does not load to an address within a page', () => {
		expect(() => answered(succeed).host.load(PAGE + 1, none, pageOf(1))).toThrow(RangeError);
	});

	it('refuses a mapping that is too small or not aligned', () => {
		expect(() => mailboxMemory(new Uint8Array(8191))).toThrow(RangeError);
		expect(() => mailboxMemory(new Uint8Array(9000).subarray(2))).toThrow(RangeError);
	});
});

describe('switches of the host', () => {
	it('K13: a late completion is taken for that of the next command; fixed, it is not', () => {
		for (const sequence of BOTH) {
			const rig = running({ defects: { sequence } });
			const [first, second] = [pageOf(1), pageOf(2)];
			rig.poke(PAGE, first);
			rig.poke(PAGE + 0x1000, second);
			// Not scheduled for 100 ms after the copy.
			let relax = (): void => {
				if (rig.label() !== 'mh.rfc.copied') rig.turn(1);
			};
			const host = rig.mailbox({ defects: { sequence }, process: { initialised: true }, relax: () => relax() });
			expect(() => host.save(PAGE)).toThrow('timed-out');
			expect(rig.label()).toBe('mh.rfc.copied');
			// Goes on while the next command stands in the mailbox.
			relax = () => rig.turn(2);
			expect(host.save(PAGE + 0x1000).body).toEqual(sequence === 'asPosted' ? first : second);
			expect(rig.plain(PAGE + 0x1000, 4096)).toEqual(second);
		}
	});

	it('K13: the input of a command that was lost is put there again', () => {
		const rig = running({ defects: { sequence: 'fixed' } });
		rig.poke(PAGE, pageOf(1));
		let relax = (): void => {
			if (rig.label() !== 'mh.rfc.copy') rig.turn(1);
		};
		const process = { initialised: true };
		const host = rig.mailbox({ defects: { sequence: 'fixed' }, process, relax: () => relax() });
		expect(() => host.save(PAGE)).toThrow('timed-out');
		// The copy that comes late overwrites the page that is to be restored.
		relax = () => rig.turn(1);
		expect(host.load(PAGE + 0x1000, none, pageOf(7))).toBe(0);
		expect(rig.plain(PAGE + 0x1000, 4096)).toEqual(pageOf(7));
	});

	it('A14: a guest that says done all the time, without the sequence, is given up in time', () => {
		const real = mailboxMemory(mapping());
		let [posts, clock] = [0, 0];
		const host = createMailboxHost({
			memory: {
				...real,
				load: (offset) => (offset === 0x1c ? 1 : real.load(offset)),
				store: (offset) => {
					if (offset === 0x18) posts++;
				},
			},
			now: () => clock++,
			defects: { sequence: 'fixed' },
		});
		expect(errorOf(() => host.command(HelperCommand.save, PAGE)).code).toBe('timeout');
		expect(posts).toBeLessThanOrEqual(101);
	});

	it('K14: the result of a command that never ended is that of an unknown one; fixed, it is none', () => {
		for (const [resultPreload, value] of [
			['asPosted', RET_PRELOAD],
			['fixed', RET_NONE],
		] as const) {
			const rig = running({ mailbox: { defects: { resultPreload } } });
			// What an unknown command comes to, in either case.
			expect(rig.host.command(4, 0)).toBe(-1);
			const deaf = rig.mailbox({ defects: { resultPreload }, relax: () => undefined });
			expect(() => deaf.command(1, PAGE)).toThrow('timed-out');
			expect(new DataView(rig.ram.bytes.buffer, rig.ram.bytes.byteOffset).getUint32(MAILBOX + 0x14, true)).toBe(value);
		}
	});

	it('K20: INIT is sent once in the life of the process; fixed, once per migration', () => {
		for (const [init, expected] of [
			['asPosted', [0, 1, 3, 1, 3]],
			['fixed', [0, 1, 3, 0, 1, 3]],
		] as const) {
			const seen: number[] = [];
			const process = createMailboxProcess();
			const migrate = (): void => {
				const rig = running({
					mailbox: { process, defects: { init } },
				});
				rig.hooks.afterBlock = (label) => {
					if (label === 'mh.rfc.accept') seen.push(rig.ram.bytes[MAILBOX] ?? 0);
				};
				rig.host.setup();
				rig.host.save(PAGE);
				rig.host.cleanup();
			};
			migrate();
			migrate();
			expect(seen).toEqual(expected);
		}
	});

	/** A guest that changes the header's length with each look at it. */
	const changing = (lengths: readonly number[], bytes = mapping()): MailboxMemory => {
		const real = mailboxMemory(bytes);
		let looks = 0;
		return {
			...real,
			load: (offset) => (offset === 0x800 ? (lengths[Math.min(looks++, lengths.length - 1)] ?? 0) : real.load(offset)),
			pause: () => succeed(new DataView(bytes.buffer)),
		};
	};

	it('K21: the length of the header is read three times, and the host reads past the page; fixed, once', () => {
		const save = (headerLength: (typeof BOTH)[number], lengths: readonly number[]) =>
			createMailboxHost({
				memory: changing(lengths),
				process: { initialised: true },
				defects: { headerLength },
			}).save(PAGE);
		const posted = save('asPosted', [16, 1024, 0x1800]);
		expect([posted.headerLength, posted.header.length]).toEqual([1024, 0x1800]);
		// What stands behind the mailbox goes into the stream.
		expect(posted.header.subarray(0x17fc).every((byte) => byte === 0xd0)).toBe(true);
		const fixed = save('fixed', [16, 1024, 0x1800]);
		expect([fixed.headerLength, fixed.header.length]).toEqual([16, 16]);
		// Past the end of the mapping a process would be stopped; a length that is checked in time is harmless in both.
		expect(errorOf(() => save('asPosted', [16, 16, 0xffffffff])).code).toBe('range');
		expect(errorOf(() => save('asPosted', [16, 16, 0x4000])).code).toBe('range');
		for (const headerLength of BOTH) {
			const error = errorOf(() => save(headerLength, [1025]));
			expect(error.message).toBe('confidential-ram: migration helper response is too large (len=1025)');
			expect([error.code, error.ret]).toEqual(['length', -22]);
			expect(save(headerLength, [1024]).header.length).toBe(1024);
		}
	});

	it.each([
		['grows behind the check', [16, 4096, 0x10000000]],
		['is negative', [0xffffffff]],
		['is one more than allowed', [1025, 0]],
		['shrinks', [1024, 0, 0]],
	])('A14: a header whose length %s gets no byte out of the host that is not the header’s', (_, lengths) => {
		const memory = changing(lengths);
		const read: number[] = [];
		const host = createMailboxHost({
			memory: {
				...memory,
				read: (offset, out) => {
					read.push(offset + out.length);
					memory.read(offset, out);
				},
			},
			process: { initialised: true },
			defects: FIXED_MAILBOX_WITHOUT_HANDLER,
		});
		const [first = 0] = lengths;
		if (first > 1024) expect(errorOf(() => host.save(PAGE)).code).toBe('length');
		else expect(host.save(PAGE)).toMatchObject({ headerLength: first, header: { length: first } });
		for (const end of read) expect(end).toBeLessThanOrEqual(0x2000);
	});

	test.prop([fc.array(fc.integer({ min: 0, max: 0xffffffff }), { minLength: 1, maxLength: 4 })], { numRuns: 200 })(
		'whatever a guest does to the length, a fixed host emits at most 1024 bytes, and as many as it says',
		(lengths) => {
			const host = createMailboxHost({
				memory: changing(lengths),
				process: { initialised: true },
				defects: FIXED_MAILBOX_WITHOUT_HANDLER,
			});
			try {
				const { header, headerLength } = host.save(PAGE);
				expect(header.length).toBe(headerLength);
				expect(headerLength).toBe(lengths[0]);
				expect(headerLength).toBeLessThanOrEqual(1024);
			} catch (error) {
				expect(error).toBeInstanceOf(MailboxError);
				expect(lengths[0]).toBeGreaterThan(1024);
			}
		},
	);

	it('all fixed work with a handler that is fixed as well', () => {
		const rig = running({
			defects: { readyFlag: 'fixed', sequence: 'fixed', refusedRestore: 'fixed' },
			mailbox: { defects: FIXED_MAILBOX },
		});
		const page = pageOf(4);
		rig.poke(PAGE, page);
		rig.host.setup();
		expect(rig.host.save(PAGE).body).toEqual(page);
		expect(rig.host.load(PAGE + 0x1000, none, page)).toBe(0);
		expect(rig.host.load(MAILBOX, none, page)).toBe(-4);
		rig.host.cleanup();
	});
});

describe('a command that failed', () => {
	it('leaves a rig whose handler never started as it was, but for the command block', () => {
		const rig = createHandlerRig();
		const before = Uint8Array.from(rig.ram.bytes.subarray(MAILBOX + 0x20, MAILBOX + 0x2000));
		expect(() => rig.mailbox().save(PAGE)).toThrow('timed-out');
		expect(Uint8Array.from(rig.ram.bytes.subarray(MAILBOX + 0x20, MAILBOX + 0x2000))).toEqual(before);
	});
});
