import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createHelperHost, createPageHelper } from '../src/host/index.js';
import { commandBlock, HelperCommand, HelperStatus, IO_HEADER_OFFSET, READY_MAGIC } from '../src/mailbox/abi.js';
import { codeLater, codeOf, guestOf, PAGE, WINDOW } from './hardened-fake-guest.js';

const { hello, query, digest } = HelperCommand;
const sealOne = (host: Parameters<typeof createPageHelper>[0]) => {
	const helper = createPageHelper(host, { gpaOf: (_block, page) => page * PAGE });
	const emitted: number[] = [];
	helper.seal(0, Uint32Array.of(7), 1, () => undefined);
	helper.flush((_block, page, header, bytes) => emitted.push(page, header.length, bytes.length));
	return emitted;
};

describe('the host towards its own guest', () => {
	it('A14: takes an output length only up to the room that a message has', () => {
		const { host, guest } = guestOf((g) => g.finish(0, 60_001));
		expect(codeOf(() => host.control(hello))).toBe('bad-answer');
		const { host: other } = guestOf((g) => g.finish(0, 0xffffffff));
		expect(codeOf(() => other.control(hello))).toBe('bad-answer');
		expect(guest.go).toBe(0);
	});

	it('A14: snapshots the length of a header before it looks at it, and refuses more than 1024 bytes', () => {
		const { host } = guestOf((g) => {
			g.sealed();
			g.view.setUint32(IO_HEADER_OFFSET, 1025, true);
		});
		const message = 'migration helper 0, save: expected a header of at most 1024 bytes, got 1025';
		expect(() => sealOne(host)).toThrow(message);
	});

	it('A14: a header length that another processor changes all the time costs the guest its migration, never the host a byte', () => {
		for (const length of [0, 8, 71, 79, 81, 1024, 0x7fffffff, 0xffffffff]) {
			const { host } = guestOf((g) => {
				g.sealed();
				g.view.setUint32(IO_HEADER_OFFSET, length, true);
			});
			expect(codeOf(() => sealOne(host))).toBe('bad-answer');
		}
	});

	it('A14: output that does not match the record is refused', () => {
		for (const length of [0, 1, PAGE - 1, PAGE + 1, 2 * PAGE, WINDOW]) {
			const { host } = guestOf((g) => {
				g.sealed();
				g.set('outputLength', length);
			});
			expect(codeOf(() => sealOne(host))).toBe('bad-answer');
		}
	});

	it('A14: a helper that never answers, or says done without the sequence, is given up in time', () => {
		const { host } = guestOf(() => undefined);
		expect(codeOf(() => host.control(query))).toBe('timeout');
		const { host: liar } = guestOf((g) => g.finish(0, 0, 0, g.sequence + 1));
		expect(codeOf(() => liar.control(query))).toBe('timeout');
	});

	it('A14: the same for commands that do not keep the thread', async () => {
		const { host } = guestOf(() => undefined);
		expect(await codeLater(host.controlLater(query))).toBe('timeout');
	});

	it('A14: a status that is none is no success', () => {
		for (const status of [1, -16, 0x7fffffff, -0x80000000]) {
			const { host } = guestOf((g) => g.finish(status));
			expect(codeOf(() => host.control(hello))).toBe('bad-answer');
			expect(codeOf(() => sealOne(host))).toBe('bad-answer');
		}
	});

	it('A14: an index out of the batch names no page', () => {
		const { host } = guestOf((g) => g.finish(HelperStatus.shared, 0, 64));
		expect(codeOf(() => sealOne(host))).toBe('shared');
	});

	it('A14: a helper that is busy for ever is given up', async () => {
		const { host } = guestOf((g) => g.finish(HelperStatus.busy));
		expect(codeOf(() => host.control(hello))).toBe('busy');
		expect(await codeLater(host.controlLater(hello))).toBe('busy');
	});

	test.prop([fc.uint8Array({ minLength: PAGE, maxLength: PAGE }), fc.boolean()], { numRuns: 300 })(
		'A14: ends with any bytes in the mailbox',
		(bytes, echoes) => {
			const { host } = guestOf((g) => {
				const { sequence } = g;
				g.mailbox.set(bytes);
				if (echoes) g.finish(g.view.getInt32(0x14, true) % 2, g.view.getUint32(0x34, true), 0, sequence);
			});
			expect(codeOf(() => sealOne(host))).not.toBe('none');
		},
	);

	it('K13: a late answer to a command that was given up does not answer the next one', () => {
		let isSlow = true;
		const { host, guest } = guestOf((g, nr) => {
			if (isSlow) return;
			if (nr === query) g.finish(0, 5);
			else g.finish(HelperStatus.phase);
		});
		expect(codeOf(() => host.control(hello))).toBe('timeout');
		// The helper still has it: nothing else may be posted over it.
		expect(codeOf(() => host.control(query))).toBe('timeout');
		// It answers now. `done` is 1, with the number of the old command.
		guest.finish(0, 7);
		isSlow = false;
		expect(host.control(query)).toHaveLength(5);
		expect(codeOf(() => host.control(hello))).toBe('phase');
	});

	it('K13: neither does one that comes while the next one is posted', () => {
		let late = 0;
		const { host } = guestOf((g) => {
			if (late++ === 0) g.finish(0, 9, 0, g.sequence - 1);
			else g.finish(0, 2);
			if (late === 1) g.view.setUint32(commandBlock.offsetOf('go'), 1, true);
		});
		expect(host.control(query)).toHaveLength(2);
	});

	it('K14: no result and MH_INVALID_FUNC are told apart', () => {
		const { host } = guestOf((g) => g.finish(HelperStatus.invalidFunction));
		expect(codeOf(() => host.control(99))).toBe('invalidFunction');
	});

	it('K12: posts nothing before the helper is ready', async () => {
		const { host, guest } = guestOf((g) => g.finish(0));
		guest.set('ready', 0);
		expect(codeOf(() => host.control(query))).toBe('not-ready');
		expect(guest.go).toBe(0);
		let looks = 0;
		const waiting = createHelperHost({
			helpers: [guest],
			pause: async () => {
				if (++looks === 3) guest.set('ready', READY_MAGIC);
			},
		});
		await waiting.awaitReady();
		expect(looks).toBe(3);
		guest.set('ready', 0);
		let time = 0;
		const never = createHelperHost({ helpers: [guest], pause: async () => undefined, now: () => time++, timeoutMs: 9 });
		expect(await codeLater(never.awaitReady())).toBe('not-ready');
	});

	it('posts nothing while a command waits for its answer', () => {
		const { host } = guestOf(() => undefined);
		host.channels[0]?.post({ nr: query });
		expect(codeOf(() => host.control(query))).toBe('busy');
	});

	it('kicks a helper that sleeps, and only that', () => {
		const { host, guest } = guestOf((g) => g.finish(0));
		host.control(query);
		expect(guest.kicks).toBe(0);
		guest.set('asleep', 1);
		host.control(query);
		expect(guest.kicks).toBe(1);
	});

	it('names helper, command, page and status in one line', () => {
		const { host } = guestOf((g) => g.finish(HelperStatus.duplicate, 0, 0));
		expect(() => sealOne(host)).toThrow('migration helper 0, save of GPA 0x7000: expected success, got duplicate');
	});

	it('refuses views that are not a mailbox and its window', () => {
		const memory = new Uint8Array(new SharedArrayBuffer(PAGE + WINDOW + 2));
		const make = (from: number, bodies: number) => () =>
			createHelperHost({
				helpers: [{ mailbox: memory.subarray(from, from + PAGE), bodies: memory.subarray(0, bodies) }],
				pause: async () => undefined,
			});
		expect(make(2, WINDOW)).toThrow(RangeError);
		expect(make(0, WINDOW - PAGE)).toThrow(RangeError);
		expect(() => createHelperHost({ helpers: [], pause: async () => undefined })).toThrow(RangeError);
		expect(make(4, WINDOW)).not.toThrow();
	});

	it('posts a digest to all helpers before it waits for one', () => {
		const order: string[] = [];
		const { host, guests } = guestOf((g, nr) => {
			order.push(`${guests.indexOf(g)} of ${guests.filter(({ go }) => go !== 0).length}`);
			g.finish(nr === digest ? 0 : HelperStatus.phase);
		}, 3);
		host.digest();
		expect(order).toEqual(['0 of 3', '1 of 2', '2 of 1']);
	});
});
