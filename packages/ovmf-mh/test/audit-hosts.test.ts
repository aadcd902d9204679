import { describe, expect, it } from 'vitest';
import { createPageHelper, createPageHelperTarget } from '../src/host/index.js';
import { HelperCommand, HelperPhase, HelperStatus, helperReport, ReportFlag } from '../src/mailbox/abi.js';
import {
	CANARY,
	connect,
	contains,
	type Link,
	memoryOf,
	migrate,
	pagesOf,
	populate,
	RAM,
} from './hardened-couriers.js';
import { codeLater, codeOf, type FakeGuest, guestOf, PAGE } from './hardened-fake-guest.js';
import { createMachine } from './hardened-rig.js';

/** A source and a target with other numbers of helpers. */
function unequal(atSource: number, atTarget: number): Link {
	const source = createMachine({ seed: 'source', ram: RAM, role: 'source', helpers: atSource });
	const target = createMachine({ seed: 'target', ram: RAM, role: 'target', helpers: atTarget });
	populate(source, pagesOf(RAM));
	return connect(source, target);
}
const reportOf = (host: Link['sourceHost']) => helperReport.decode(host.control(HelperCommand.query));

describe('machines with other numbers of helpers', () => {
	it.each([
		[1, 3],
		[2, 3],
		[1, 8],
	])('%i at the source and %i at the target move a guest: the rest of them rests', async (atSource, atTarget) => {
		const link = unequal(atSource, atTarget);
		const memory = await migrate(link);
		expect(Buffer.compare(memoryOf(link.target), memory)).toBe(0);
		expect([reportOf(link.sourceHost).phase, reportOf(link.targetHost).phase]).toEqual([
			HelperPhase.retired,
			HelperPhase.idle,
		]);
		expect(contains(memoryOf(link.source), CANARY)).toBe(false);
	});

	it.each([
		[2, 1],
		[3, 2],
	])(
		'%i at the source and %i at the target are refused before a page moves, in one line at either end',
		async (a, b) => {
			const link = unequal(a, b);
			let atTarget: unknown;
			link.peer.send = (message) => {
				try {
					link.opener.message(message, (reply) => replies.push(reply));
				} catch (error) {
					atTarget = error;
					link.opener.failed((reply) => replies.push(reply));
				}
			};
			const replies: Uint8Array[] = [];
			link.peer.receive = async () => replies.shift() ?? new Uint8Array(0);
			await expect(link.helper.open(link.peer)).rejects.toThrow(
				`migration helper, hello: expected a target with at least ${a} helpers, as this machine has, got one with ${b}`,
			);
			expect(`${atTarget}`).toBe(
				`HelperError: migration helper, accept: expected a source with at most ${b} helpers, as this machine has, got one with ${a}`,
			);
			link.helper.failed();
			expect([reportOf(link.sourceHost).phase, reportOf(link.targetHost).phase]).toEqual([
				HelperPhase.idle,
				HelperPhase.empty,
			]);
		},
	);
});

it('QUERY tells whether the owner gave a migration secret, and nothing of it', () => {
	for (const [secret, flags] of [
		[true, ReportFlag.hasSecret],
		[false, 0],
	] as const) {
		const machine = createMachine({ seed: 'query', ram: RAM, role: 'source', secret });
		const other = createMachine({ seed: 'other', ram: RAM, role: 'target' });
		const { sourceHost } = connect(machine, other);
		expect(reportOf(sourceHost).flags).toBe(flags);
		expect(
			sourceHost
				.control(HelperCommand.query)
				.subarray(52)
				.every((byte) => byte === 0),
		).toBe(true);
	}
});

describe('a source whose helper hangs', () => {
	/** A helper that does all but START, which it takes and answers when it is told to. */
	function hanging() {
		let phase: number = HelperPhase.proven;
		const posted: number[] = [];
		let stuck: FakeGuest | undefined;
		const rig = guestOf((guest, nr) => {
			if (guest === stuck) return;
			posted.push(nr);
			if (nr === HelperCommand.start) {
				stuck = guest;
				return;
			}
			if (nr === HelperCommand.reset && phase === HelperPhase.committed) guest.finish(HelperStatus.phase);
			else guest.finish(HelperStatus.success);
		});
		const helper = createPageHelper(rig.host, { gpaOf: (_block, page) => page * PAGE });
		return {
			...{ ...rig, helper, posted },
			wake: () => {
				phase = HelperPhase.committed;
				stuck = undefined;
				rig.guest.finish(HelperStatus.success, 96);
			},
		};
	}
	const peer = { send: () => undefined, receive: async () => ready };
	const ready = new Uint8Array(8 + 96);
	ready[0] = HelperCommand.start;

	it('at START is not asked over it: neither RESET nor QUERY get an answer before it has one', async () => {
		const { host, guest, helper, posted, wake } = hanging();
		await helper.prove(peer);
		posted.length = 0;
		expect(await codeLater(helper.commit(peer))).toBe('timeout');
		helper.failed();
		expect(codeOf(() => host.control(HelperCommand.query))).toBe('timeout');
		expect([posted, guest.nr]).toEqual([[HelperCommand.start], HelperCommand.start]);
		wake();
		// Now it hears that the migration failed, and says that it has given its guest up.
		for (let i = 0; i < 20; i++) await host.pause(1);
		expect(posted).toEqual([HelperCommand.start, HelperCommand.reset]);
	});

	it('before START hears RESET when it answers again: its gate does not stay closed', async () => {
		const posted: number[] = [];
		let hangs = true;
		const { host, guest } = guestOf((g, nr) => {
			if (hangs && nr === HelperCommand.save) return;
			posted.push(nr);
			g.finish(HelperStatus.success);
		});
		const helper = createPageHelper(host, { gpaOf: (_block, page) => page * PAGE });
		helper.seal(0, Uint32Array.of(1), 1, () => undefined);
		expect(codeOf(() => helper.flush(() => undefined))).toBe('timeout');
		helper.failed();
		expect(posted).toEqual([]);
		hangs = false;
		guest.finish(HelperStatus.success);
		for (let i = 0; i < 20; i++) await host.pause(1);
		expect(posted).toEqual([HelperCommand.reset]);
	});

	it('costs its host one short wait in the end, however many helpers hang', () => {
		let looks = 0;
		const { host, guests } = guestOf(() => {
			looks++;
		}, 8);
		const helper = createPageHelper(host, { gpaOf: (_block, page) => page * PAGE });
		// The first 64 frames of each of 8 groups: a batch for each helper.
		const pages = Uint32Array.from({ length: 512 }, (_, i) => 128 * (i >>> 6) + (i & 63));
		helper.seal(0, pages, pages.length, () => undefined);
		expect(guests.every(({ go }) => go !== 0)).toBe(true);
		looks = 0;
		helper.failed();
		// Of the rig's clock, a look at each of 8 guests is one tick: 1000 of them, and not 8000.
		expect(looks / 8).toBeLessThan(2000);
	});
});

describe('a target whose memory is being proven', () => {
	/** Its helper has taken MANIFEST, and is over the digest until it is told to end. */
	function proving() {
		let isDone = false;
		let waits = 0;
		const posted: number[] = [];
		const { host, guest } = guestOf((g, nr, polls) => {
			waits = Math.max(waits, polls);
			if (nr === HelperCommand.digest && !isDone) return;
			posted.push(nr);
			g.finish(HelperStatus.success, nr === HelperCommand.abort || nr === HelperCommand.verify ? 96 : 0);
		});
		const opener = createPageHelperTarget(host, { gpaOf: (_block, page) => page * PAGE });
		const replies: Uint8Array[] = [];
		const message = new Uint8Array(8 + 96);
		message[0] = HelperCommand.verify;
		opener.message(message, (reply) => replies.push(reply));
		const settle = async () => {
			for (let i = 0; i < 30; i++) await host.pause(1);
		};
		return { host, guest, opener, posted, replies, message, settle, end: () => (isDone = true), looks: () => waits };
	}
	/** A guest that answers at once is looked at once or twice. */
	const AT_ONCE = 8;

	it('takes nothing from its source meanwhile, and its host does not stand still for it', async () => {
		const { opener, message, looks, replies, settle, end } = proving();
		expect(codeOf(() => opener.message(message, () => undefined))).toBe('order');
		expect(codeOf(() => opener.open(0, 0, new Uint8Array(80), new Uint8Array(PAGE)))).toBe('bad-record');
		opener.flush();
		expect(looks()).toBeLessThan(AT_ONCE);
		end();
		await settle();
		expect(replies.map((reply) => reply[0])).toEqual([HelperCommand.start]);
	});

	it('gives up without keeping its host: the abort follows when the helper is free', async () => {
		const { opener, posted, looks, replies, settle, end } = proving();
		opener.failed((reply) => replies.push(reply));
		expect(looks()).toBeLessThan(AT_ONCE);
		expect(posted).not.toContain(HelperCommand.abort);
		end();
		await settle();
		expect(posted.filter((nr) => nr === HelperCommand.abort)).toHaveLength(1);
		expect(replies.map((reply) => reply[0])).toEqual([HelperCommand.revive]);
	});

	it('does not end the session after the one that was given up', async () => {
		const { host, guest, opener, posted, replies, message, settle, end } = proving();
		opener.failed((reply) => replies.push(reply));
		end();
		guest.finish(HelperStatus.success);
		const next = createPageHelperTarget(host, { gpaOf: (_block, page) => page * PAGE });
		const accept = message.slice();
		accept[0] = HelperCommand.accept;
		next.message(accept, (reply) => replies.push(reply));
		await settle();
		expect(posted).toContain(HelperCommand.accept);
		expect(posted).not.toContain(HelperCommand.abort);
	});
});
