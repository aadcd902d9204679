import { PAGE_SIZE } from '@cvm/layout';
import { streamOfFrame } from '../../geometry.js';
import { HelperCommand } from '../../mailbox/abi.js';
import { unwrap, wrap } from './envelope.js';
import { HelperError } from './error.js';
import type { HelperHost } from './helper-host.js';
import { createSealLane, type EmitRecord } from './lane.js';

/** The other helper, through both hosts, as `HelperPeer` of `@cvm/qemu-mig`. */
export interface MessagePeer {
	send(message: Uint8Array): void;
	receive(): Promise<Uint8Array>;
}

/** The source's helpers as the engine of `@cvm/qemu-mig` drives them: structurally its `PageHelper`. */
export interface HardenedPageHelper {
	readonly batchPages: number;
	seal(block: number, pages: Uint32Array, count: number, emit: EmitRecord): void;
	flush(emit: EmitRecord): void;
	open(peer: MessagePeer): Promise<void>;
	epoch(peer: MessagePeer): void;
	freeze(): void;
	prove(peer: MessagePeer): Promise<void>;
	commit(peer: MessagePeer): Promise<void>;
	conclude(peer: MessagePeer): Promise<void>;
	failed(): void;
}

export interface PageHelperOptions {
	/** Guest-physical address of a page of a block. */
	readonly gpaOf: (block: number, page: number) => number;
	/** SEV-ES: vCPUs whose state the helper carries. Default 0. */
	readonly vcpus?: number;
	/** A page that was not sealed because the guest shares it by now: the host must send it as it is. */
	readonly onShared?: (block: number, page: number) => void;
}

/** The target gave up after the commit and proved it: the guest is this host's again. The engine goes by the name. */
class HelperRevived extends Error {
	override readonly name = 'HelperRevived';
}

/** Most milliseconds that a host stands still for helpers whose session has failed. */
const FAREWELL_MS = 1000;
/** Errors after which a command may still be carried out, or be taken later. */
const LATE: ReadonlySet<string> = new Set(['timeout', 'busy']);

/** Pages that one helper is kept busy with by one call: two runs of frames that are its own. */
const PAGES_PER_HELPER = 128;

/**
 * Moves a guest's private pages and its session through the helpers of a source. One migration after the other; whatever fails
 * throws HelperError, and `failed` ends the session.
 */
export function createPageHelper(host: HelperHost, o: PageHelperOptions): HardenedPageHelper {
	const { gpaOf, vcpus = 0, onShared = () => undefined } = o;
	const { channels } = host;
	const lanes = channels.map((channel) => createSealLane(host, channel, onShared));
	let ready: Uint8Array | undefined;

	/** The next message, which must be for `command`. */
	const answer = async (peer: MessagePeer, command: number): Promise<Uint8Array> => {
		const got = unwrap(await peer.receive());
		if (got.command === command) return got.message;
		if (got.command === HelperCommand.revive) throw new HelperError('aborted', { expected: 'the target to go on' });
		if (command === HelperCommand.confirm && got.command === HelperCommand.hello) {
			const expected = `a target with at least ${lanes.length} helpers, as this machine has`;
			throw new HelperError('peer', { nr: HelperCommand.hello, expected, got: `one with ${got.argument}` });
		}
		throw new HelperError('bad-record', { nr: command, expected: 'a message for it', got: 'another' });
	};

	/** RESET once the helpers are free. After START it is refused: whoever commits stays committed. */
	const resetLater = async (): Promise<void> => {
		const mine = host.sessions.count;
		try {
			await host.idleLater();
			if (mine === host.sessions.count) await host.controlLater(HelperCommand.reset);
		} catch {
			// A helper that never answers.
		}
	};

	return {
		batchPages: PAGES_PER_HELPER * channels.length,
		seal: (block, pages, count, emit) => {
			for (let i = 0; i < count; i++) {
				const page = pages[i] ?? 0;
				const gpa = gpaOf(block, page);
				lanes[streamOfFrame(gpa / PAGE_SIZE, lanes.length)]?.add(gpa, block, page, emit);
			}
			for (const lane of lanes) lane.drain(emit);
		},
		flush: (emit) => {
			for (const lane of lanes) lane.start(emit);
			for (const lane of lanes) lane.finish(emit);
		},
		open: async (peer) => {
			await host.awaitReady();
			host.sessions.count++;
			const hello = await host.controlLater(HelperCommand.hello, { argument: lanes.length });
			peer.send(wrap(HelperCommand.accept, hello));
			const accept = await answer(peer, HelperCommand.confirm);
			peer.send(wrap(HelperCommand.establish, await host.controlLater(HelperCommand.confirm, { input: accept })));
		},
		epoch: (peer) => peer.send(wrap(HelperCommand.nextEpoch, host.control(HelperCommand.epoch))),
		freeze: () => {
			host.control(HelperCommand.freeze);
		},
		prove: async (peer) => {
			await host.digestLater();
			for (let vcpu = 0; vcpu < vcpus; vcpu++) {
				const record = await host.controlLater(HelperCommand.saveVcpu, { argument: vcpu });
				peer.send(wrap(HelperCommand.restoreVcpu, record, vcpu));
			}
			peer.send(wrap(HelperCommand.verify, await host.controlLater(HelperCommand.manifest)));
			ready = await answer(peer, HelperCommand.start);
		},
		commit: async (peer) => {
			if (ready === undefined) throw new HelperError('order', { nr: HelperCommand.start, got: 'no proof' });
			// From the post on the guest may be given up, whether an answer comes or not.
			peer.send(wrap(HelperCommand.run, await host.controlLater(HelperCommand.start, { input: ready })));
		},
		conclude: async (peer) => {
			const got = unwrap(await peer.receive());
			if (got.command === HelperCommand.revive) {
				await host.controlLater(HelperCommand.revive, { input: got.message });
				throw new HelperRevived('migration helper: expected the target to run, got its abort');
			}
			if (got.command !== HelperCommand.retire) {
				throw new HelperError('bad-record', { nr: HelperCommand.retire, expected: 'a message for it', got: 'another' });
			}
			await host.controlLater(HelperCommand.retire, { input: got.message });
		},
		failed: () => {
			ready = undefined;
			host.sessions.count++;
			// One that hangs costs a second, not one for each.
			let isFree = true;
			for (const lane of lanes) isFree = lane.clear(isFree ? FAREWELL_MS : 0) && isFree;
			try {
				// Also where no session was: then there is nothing to cancel.
				host.control(HelperCommand.reset, { timeoutMs: FAREWELL_MS });
			} catch (error) {
				// One that has given its guest up refuses. One that is late has the gate closed, perhaps: it hears of it when it can.
				if (error instanceof HelperError && LATE.has(error.code)) void resetLater();
			}
		},
	};
}
