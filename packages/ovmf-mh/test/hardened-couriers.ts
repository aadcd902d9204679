import { setImmediate } from 'node:timers/promises';
import {
	createHelperHost,
	createPageHelper,
	createPageHelperTarget,
	type HardenedPageHelper,
	type HardenedPageHelperTarget,
	type HelperHost,
	type HelperHostOptions,
	type MessagePeer,
} from '@cvm/ovmf-mh/host';
import type { GpaRange } from '../src/geometry.js';
import { createMachine, GUEST, type Machine, type MachineOptions, MIB, PAGE } from './hardened-rig.js';

/** The guest's pages that the tests move. */
export const RAM: readonly GpaRange[] = [{ start: GUEST, end: GUEST + 2 * MIB }];

/** The host of a machine, which runs the helpers while it waits. */
export function hostOf(machine: Machine, o: Partial<HelperHostOptions> = {}): HelperHost {
	// They start, and say that they are ready.
	for (let i = 0; i < 4 && !machine.hasWorkers; i++) machine.stepAll();
	return createHelperHost({
		helpers: machine.ports,
		wait: () => machine.stepAll(),
		pause: async () => {
			machine.stepAll();
			await setImmediate();
		},
		...o,
	});
}

/** Everything that went from host to host, and the two ends of it. */
export interface Link {
	readonly source: Machine;
	readonly target: Machine;
	readonly sourceHost: HelperHost;
	readonly targetHost: HelperHost;
	readonly helper: HardenedPageHelper;
	readonly opener: HardenedPageHelperTarget;
	readonly peer: MessagePeer;
	/** All records and messages. */
	readonly seen: Uint8Array[];
	readonly shared: number[];
	/** What the target's host heard of proofs that failed. */
	readonly failures: unknown[];
	runs: number;
	emit(block: number, page: number, header: Uint8Array, bytes: Uint8Array): void;
	/** Seals pages and opens them at the target. */
	move(gpas: readonly number[]): void;
	/** The target's host gives up. */
	abort(): void;
	/** Changes a message on its way. */
	tamper: ((message: Uint8Array, toTarget: boolean) => Uint8Array) | undefined;
}

/** All page addresses of ranges. */
export const pagesOf = (ranges: readonly GpaRange[]): number[] =>
	ranges.flatMap(({ start, end }) => Array.from({ length: (end - start) / PAGE }, (_, i) => start + i * PAGE));

export function connect(source: Machine, target: Machine, o: Partial<HelperHostOptions> = {}, atTarget = o): Link {
	const sourceHost = hostOf(source, o);
	const targetHost = hostOf(target, atTarget);
	const gpaOf = (_block: number, page: number) => page * PAGE;
	const seen: Uint8Array[] = [];
	const replies: Uint8Array[] = [];
	const waiting: ((message: Uint8Array) => void)[] = [];
	let failure: unknown;
	const reply = (message: Uint8Array): void => {
		seen.push(message.slice());
		const changed = link.tamper?.(message.slice(), false) ?? message.slice();
		const taker = waiting.shift();
		if (taker === undefined) replies.push(changed);
		else taker(changed);
	};
	const link: Link = {
		...{ source, target, sourceHost, targetHost, seen, shared: [], failures: [], runs: 0, tamper: undefined },
		helper: createPageHelper(sourceHost, { gpaOf, onShared: (_block, page) => link.shared.push(page * PAGE) }),
		opener: createPageHelperTarget(targetHost, {
			gpaOf,
			onRun: () => link.runs++,
			onFailure: (error) => link.failures.push(error),
		}),
		abort: () => link.opener.failed(reply),
		peer: {
			send: (message) => {
				seen.push(message.slice());
				const changed = link.tamper?.(message.slice(), true) ?? message.slice();
				try {
					link.opener.message(changed, reply);
				} catch (error) {
					failure ??= error;
				}
			},
			receive: async () => {
				if (failure !== undefined) throw failure;
				const next = replies.shift();
				return next ?? new Promise<Uint8Array>((resolve) => waiting.push(resolve));
			},
		},
		emit: (block, page, header, bytes) => {
			seen.push(header.slice(), bytes.slice());
			link.opener.open(block, page, header, bytes);
		},
		move: (gpas) => {
			const pages = Uint32Array.from(gpas, (gpa) => gpa / PAGE);
			for (let at = 0; at < pages.length; at += 200) {
				const part = pages.subarray(at, at + 200);
				link.helper.seal(0, part, part.length, link.emit);
			}
			link.helper.flush(link.emit);
			link.opener.flush();
		},
	};
	return link;
}

/** Two machines of one guest with a link between their hosts. */
export function pairOf(o: Partial<MachineOptions> & { host?: Partial<HelperHostOptions> } = {}): Link {
	const { host = {}, ...machine } = o;
	const source = createMachine({ seed: 'source', ram: RAM, ...machine, role: 'source' });
	const target = createMachine({ seed: 'target', ram: RAM, ...machine, role: 'target' });
	return connect(source, target, host);
}

/** Bytes that no cipher makes by chance, in every page of the guest. */
export const CANARY = Uint8Array.from({ length: 32 }, (_, i) => (37 * i + 101) & 0xff);
/** A page of the guest: canaries, and what tells it from others. */
export function guestPage(gpa: number, version: number): Uint8Array {
	const page = new Uint8Array(PAGE);
	for (let at = 0; at < PAGE; at += CANARY.length) page.set(CANARY, at);
	new DataView(page.buffer).setUint32(0, gpa, true);
	new DataView(page.buffer).setUint32(8, version, true);
	return page;
}
/** Writes pages of the guest; every eighth one is zero. */
export function populate(machine: Machine, gpas: readonly number[], version = 1): void {
	machine.guest((cpu) => {
		for (const gpa of gpas) {
			if ((gpa / PAGE) % 8 === 5) cpu.fill(gpa, PAGE, 0);
			else cpu.store(gpa, guestPage(gpa, version));
		}
	});
}
/** The guest's memory, through the machine's own key. */
export const memoryOf = (machine: Machine, ranges = RAM): Uint8Array =>
	Buffer.concat(ranges.map(({ start, end }) => machine.read(start, end - start)));

/** Whether bytes occur somewhere. */
export const contains = (haystack: Uint8Array, needle: Uint8Array): boolean =>
	Buffer.from(haystack.buffer, haystack.byteOffset, haystack.byteLength).includes(Buffer.from(needle));

/** From the first page to the guest's life at the target. */
export async function migrate(link: Link, ranges = RAM): Promise<Uint8Array> {
	const { helper, peer, source } = link;
	const all = pagesOf(RAM);
	await helper.open(peer);
	link.move(pagesOf(ranges));
	populate(source, all.slice(3, 90), 2);
	helper.epoch(peer);
	link.move(all.slice(3, 90));
	populate(source, all.slice(80, 300), 3);
	helper.epoch(peer);
	link.move(all.slice(80, 300));
	populate(source, all.slice(250, 260), 4);
	helper.epoch(peer);
	helper.freeze();
	link.move(all.slice(250, 260));
	await helper.prove(peer);
	const memory = memoryOf(source, ranges);
	await helper.commit(peer);
	await helper.conclude(peer);
	return memory;
}
