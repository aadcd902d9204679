import { PAGE_SIZE } from '@cvm/layout';
import type { ByteSink, DeviceSection, LoaderOptions, Precopy, PrecopyOptions } from '../src/index.js';
import { createLoader, createPrecopy } from '../src/index.js';
import type { FakeClock, FakeSource } from '../src/testing.js';
import { createFakeClock, createFakeSource, createFakeTarget } from '../src/testing.js';

export const TWO_BLOCKS = [
	{ idstr: 'pc.ram', usedLength: 100 * PAGE_SIZE },
	{ idstr: 'pc.bios', usedLength: 33 * PAGE_SIZE },
];
const DEVICES: DeviceSection[] = [
	{ idstr: 'timer', instanceId: 0, version: 2, body: Uint8Array.of(1, 2, 3) },
	{ idstr: 'cpu', instanceId: 1, version: 12, body: new Uint8Array(300).fill(0x7e) },
];

export interface Migration {
	readonly precopy: Precopy;
	readonly source: FakeSource;
	readonly clock: FakeClock;
	/** Statuses, passes, sections, stop, devices, commit, finish, in order. */
	readonly log: string[];
	/** Pages of each `ram` section after START. */
	readonly sections: { type: string; pages: number; bytes: number }[];
}

/** An engine with fakes around it. */
export function prepare(
	o: Partial<PrecopyOptions> & { source?: FakeSource; clock?: FakeClock; sink: ByteSink },
): Migration {
	const source = o.source ?? createFakeSource({ blocks: TWO_BLOCKS });
	const clock = o.clock ?? createFakeClock();
	const log: string[] = [];
	const sections: Migration['sections'] = [];
	const precopy = createPrecopy({
		machineType: 'none',
		dialect: source.sealer === undefined ? 'qemu-7.2' : 'sev-v4',
		vm: {
			async stop() {
				log.push('stop');
			},
			devices() {
				log.push('devices');
				return DEVICES;
			},
		},
		commit: () => {
			log.push('commit');
		},
		events: {
			status: (status) => log.push(status),
			pass: (count) => log.push(`pass ${count}`),
			section: ({ type, pages, bytes, idstr }) => {
				if (idstr === 'ram' && type !== 'start') sections.push({ type, pages, bytes });
			},
		},
		...o,
		source,
		clock,
	});
	return { precopy, source, clock, log, sections };
}

/** A target whose `push` is a sink for {@link prepare}; its answers go to `answer`. */
export function receive(
	source: FakeSource,
	log: string[],
	answer: (m: Uint8Array) => void,
	o: Partial<LoaderOptions> = {},
) {
	const target = createFakeTarget(source.blocks);
	const devices = new Map<string, Uint8Array>();
	const loader = createLoader({
		sink: target,
		dialect: source.sealer === undefined ? 'qemu-7.2' : 'sev-v4',
		machineType: 'none',
		reply: { write: (message) => answer(message.slice()) },
		device: ({ idstr }, body) => {
			devices.set(idstr, body.slice());
			return 'loaded';
		},
		finish: () => {
			log.push('finish');
		},
		...o,
	});
	return { target, loader, devices };
}

/** An engine and a loader connected directly. */
export function connect(
	o: Partial<PrecopyOptions> & { source?: FakeSource; clock?: FakeClock } = {},
	target: Partial<LoaderOptions> = {},
) {
	const link: { push: (chunk: Uint8Array) => void } = { push: () => {} };
	const migration = prepare({ ...o, sink: { write: (chunk) => link.push(chunk) } });
	const answer = (message: Uint8Array): void => queueMicrotask(() => migration.precopy.returnPath.push(message));
	const handover = o.returnPath === 'handover';
	const receiver = receive(migration.source, migration.log, answer, { handover, ...target });
	link.push = (chunk) => receiver.loader.push(chunk);
	return { ...migration, ...receiver };
}

/** Whether a target holds what the source holds. */
export const sameMemory = (a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean =>
	a.length === b.length && a.every((bytes, block) => Buffer.compare(bytes, b[block] ?? new Uint8Array(0)) === 0);

/** Fills every page of a source with its own pattern, except every `zeroEvery`th. */
export function fillMemory(source: FakeSource, zeroEvery = 5): void {
	for (const [block, bytes] of source.memory.entries()) {
		for (let page = 0; page * PAGE_SIZE < bytes.length; page++) {
			if (page % zeroEvery === 0) continue;
			bytes.fill(1 + ((page * 7 + block) % 255), page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
		}
	}
}
