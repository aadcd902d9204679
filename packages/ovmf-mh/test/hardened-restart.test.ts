import { describe, expect, it } from 'vitest';
import { HelperCommand, HelperPhase, helperReport } from '../src/mailbox/abi.js';
import {
	CANARY,
	contains,
	hostOf,
	type Link,
	memoryOf,
	migrate,
	pagesOf,
	pairOf,
	populate,
	RAM,
} from './hardened-couriers.js';
import { createMachine, type Machine } from './hardened-rig.js';

const SLICE = 'mh.hardened.slice';
const phaseOf = (host: Link['sourceHost']): number => helperReport.decode(host.control(HelperCommand.query)).phase;

/** Counts the blocks of long commands, and does something at one of them. */
function watchSlices(machine: Machine, at = -1, action: (helper: number) => void = () => undefined) {
	const seen = { slices: 0 };
	machine.onBlock = (helper, label) => {
		if (label === SLICE && ++seen.slices === at) action(helper);
	};
	return seen;
}

describe('long commands of the hardened helper', () => {
	it('come in blocks between which the host gets its vCPU back', async () => {
		// After each block KVM_RUN returns −EINTR: `step` would throw for anything else.
		const link = pairOf({ helpers: 3, blocksPerStep: 1 });
		populate(link.source, pagesOf(RAM));
		const [source, target] = [watchSlices(link.source), watchSlices(link.target)];
		const memory = await migrate(link);
		expect(Buffer.compare(memoryOf(link.target), memory)).toBe(0);
		// The digest of 512 frames, 128 in a slice, of which one is done where the command is taken; and the wipe.
		expect(source.slices).toBeGreaterThanOrEqual(4);
		expect(target.slices).toBeGreaterThanOrEqual(1);
	});
});

describe('a hardened helper whose vCPU is started again', () => {
	it('goes on with the session between two commands', async () => {
		const link = pairOf({ helpers: 2 });
		populate(link.source, pagesOf(RAM));
		const { send } = link.peer;
		const reset = (): void => {
			for (const machine of [link.source, link.target]) for (const helper of [0, 1]) machine.reset(helper);
		};
		link.peer.send = (message) => {
			reset();
			send(message);
			reset();
		};
		const memory = await migrate(link);
		expect(Buffer.compare(memoryOf(link.target), memory)).toBe(0);
	});

	it.each(['source', 'target'] as const)('takes up a digest that it had begun, at the %s', async (side) => {
		const link = pairOf({ helpers: 1, blocksPerStep: 1 });
		populate(link.source, pagesOf(RAM));
		const machine = link[side];
		let resets = 0;
		const watch = watchSlices(machine, 2, (helper) => {
			resets++;
			// Not while KVM_RUN is under way: between two of them.
			const { step } = machine;
			machine.step = (which) => {
				machine.step = step;
				machine.reset(helper);
				step(which);
			};
		});
		const memory = await migrate(link);
		expect(resets).toBe(1);
		expect(watch.slices).toBeGreaterThan(2);
		expect(Buffer.compare(memoryOf(link.target), memory)).toBe(0);
	});

	it('goes on wiping the memory of a guest that has left', async () => {
		const link = pairOf({ helpers: 1, blocksPerStep: 1 });
		populate(link.source, pagesOf(RAM));
		const { send } = link.peer;
		let isCommitted = false;
		link.peer.send = (message) => {
			isCommitted ||= new DataView(message.buffer).getUint32(0, true) === HelperCommand.run;
			send(message);
		};
		let resets = 0;
		const { step } = link.source;
		let slices = 0;
		link.source.onBlock = (_helper, label) => {
			if (isCommitted && label === SLICE) slices++;
		};
		link.source.step = (helper) => {
			if (slices >= 1 && resets === 0) {
				resets++;
				link.source.reset(helper);
			}
			step(helper);
		};
		await migrate(link);
		expect(resets).toBe(1);
		expect(contains(memoryOf(link.source), CANARY)).toBe(false);
		expect(phaseOf(link.sourceHost)).toBe(HelperPhase.retired);
	});

	it('takes a command that was posted before it was ready (K12)', () => {
		const machine = createMachine({ seed: 'early', role: 'source', ram: RAM });
		const host = hostOf(machine);
		const [channel] = host.channels;
		machine.reset(0);
		channel?.post({ nr: HelperCommand.query });
		expect(channel?.isDone()).toBe(false);
		machine.step(0);
		expect(channel?.isDone()).toBe(true);
	});

	it('keeps the session of a thread that was replaced: nothing of it is outside of guest memory', async () => {
		const link = pairOf();
		populate(link.source, pagesOf(RAM));
		await link.helper.open(link.peer);
		link.move(pagesOf(RAM).slice(0, 100));
		const { phase, epoch, records } = helperReport.decode(link.sourceHost.control(HelperCommand.query));
		expect([phase, epoch, records]).toEqual([HelperPhase.sending, 0, 2n]);
		link.source.reset(0);
		const after = helperReport.decode(link.sourceHost.control(HelperCommand.query));
		expect([after.phase, after.epoch, after.records]).toEqual([phase, epoch, records]);
		link.move(pagesOf(RAM).slice(100));
		link.helper.epoch(link.peer);
		link.helper.freeze();
		await link.helper.prove(link.peer);
		expect(phaseOf(link.targetHost)).toBe(HelperPhase.verified);
	});
});

describe('a session that ends early', () => {
	it('is cancelled: the guest goes on, and the next attempt moves it', async () => {
		const link = pairOf({ helpers: 2 });
		populate(link.source, pagesOf(RAM));
		await link.helper.open(link.peer);
		link.move(pagesOf(RAM).slice(0, 200));
		link.helper.freeze();
		link.helper.failed();
		link.opener.failed(() => undefined);
		expect([phaseOf(link.sourceHost), phaseOf(link.targetHost)]).toEqual([HelperPhase.idle, HelperPhase.aborted]);
		const memory = await migrate(link);
		expect(Buffer.compare(memoryOf(link.target), memory)).toBe(0);
	});

	it('is aborted by the target after the commit: its ABORT gives the source its guest back', async () => {
		const link = pairOf();
		populate(link.source, pagesOf(RAM));
		await link.helper.open(link.peer);
		link.move(pagesOf(RAM));
		link.helper.freeze();
		await link.helper.prove(link.peer);
		const before = memoryOf(link.source);
		// START gets lost, and the target's host gives up.
		const { send } = link.peer;
		link.peer.send = () => undefined;
		await link.helper.commit(link.peer);
		link.peer.send = send;
		link.helper.failed();
		expect(phaseOf(link.sourceHost)).toBe(HelperPhase.committed);
		link.abort();
		await expect(link.helper.conclude(link.peer)).rejects.toMatchObject({ name: 'HelperRevived' });
		expect([phaseOf(link.sourceHost), phaseOf(link.targetHost)]).toEqual([HelperPhase.idle, HelperPhase.aborted]);
		expect(Buffer.compare(memoryOf(link.source), before)).toBe(0);
	});

	it('is told by the target to a source that waits for its proof', async () => {
		const link = pairOf();
		populate(link.source, pagesOf(RAM));
		await link.helper.open(link.peer);
		link.move(pagesOf(RAM));
		link.helper.freeze();
		// A write that no record has: the target's memory is not what the manifest says.
		populate(link.source, pagesOf(RAM).slice(0, 1), 9);
		await expect(link.helper.prove(link.peer)).rejects.toMatchObject({ name: 'HelperError', code: 'aborted' });
		expect(link.failures.map((error) => `${error}`)).toEqual([
			'HelperError: migration helper 0, verify: expected success, got incomplete',
		]);
		link.helper.failed();
		expect(phaseOf(link.sourceHost)).toBe(HelperPhase.idle);
		expect(link.runs).toBe(0);
	});

	it('after which a proof that is still under way comes to nothing', async () => {
		const link = pairOf({ blocksPerStep: 1 });
		populate(link.source, pagesOf(RAM));
		await link.helper.open(link.peer);
		link.move(pagesOf(RAM));
		link.helper.freeze();
		const replies: Uint8Array[] = [];
		await link.sourceHost.digestLater();
		const manifest = link.sourceHost.control(HelperCommand.manifest);
		const message = new Uint8Array(8 + manifest.length);
		message[0] = HelperCommand.verify;
		message.set(manifest, 8);
		link.opener.message(message, (reply) => replies.push(reply));
		link.opener.failed((reply) => replies.push(reply));
		for (let i = 0; i < 50; i++) await link.targetHost.pause(1);
		expect(replies.map((reply) => reply[0])).toEqual([HelperCommand.revive]);
		expect(link.failures).toEqual([]);
		expect(phaseOf(link.targetHost)).toBe(HelperPhase.aborted);
	});
});
