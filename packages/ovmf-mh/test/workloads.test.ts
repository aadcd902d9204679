import { PAGE_SIZE } from '@cvm/layout';
import { fc, test as property } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { HelperStatus } from '../src/mailbox/abi.js';
import { guestPages, handOver, makeManifest, Refused, Side, saveAll, streamOf, takeManifest } from './migration-rig.js';

/*
 * Any workload, any interleaving of rounds, cancels, retries and losses. Either the target has the memory that the source had when
 * it was frozen, or the session fails with a status that has a name and the source goes on with what it had.
 */

const RAM = [
	{ start: 0x80c000, end: 0x80d000 },
	// The mailbox and the entry page are in here: of the helper, so not of the comparison.
	{ start: 0x81f000, end: 0x825000 },
	{ start: 0x1000000, end: 0x1003000 },
	{ start: 0x107f000, end: 0x1082000 },
	{ start: 0x1100000, end: 0x1102000 },
];
/** The page of the secret stays as it is. */
const PAGES = guestPages(RAM).slice(1);

type Happening =
	| { readonly what: 'write' | 'share' | 'unshare'; readonly page: number; readonly value: number }
	/** The dirty log is read, an epoch ends, everything dirty is sent. */
	| { readonly what: 'round' }
	/** Some of what is dirty is sent. */
	| { readonly what: 'part'; readonly pages: number }
	| { readonly what: 'cancel' | 'abort' | 'lose' | 'repeat' | 'forget' | 'swap' };

const page = fc.nat(PAGES.length - 1);
const happening: fc.Arbitrary<Happening> = fc.oneof(
	{ weight: 8, arbitrary: fc.record({ what: fc.constant('write' as const), page, value: fc.nat(3) }) },
	{ weight: 2, arbitrary: fc.record({ what: fc.constantFrom('share', 'unshare'), page, value: fc.nat(3) }) },
	{ weight: 4, arbitrary: fc.constant({ what: 'round' as const }) },
	{ weight: 3, arbitrary: fc.record({ what: fc.constant('part' as const), pages: fc.integer({ min: 1, max: 5 }) }) },
	{
		weight: 1,
		arbitrary: fc.record({ what: fc.constantFrom('cancel', 'abort', 'lose', 'repeat', 'forget', 'swap') }),
	},
);
const workload = fc.record({
	streams: fc.integer({ min: 1, max: 3 }),
	happenings: fc.array(happening, { maxLength: 30 }),
	end: fc.constantFrom('run', 'run', 'lost START'),
});

const filled = (value: number): Uint8Array =>
	new Uint8Array(PAGE_SIZE).map((_, i) => (value === 0 ? 0 : (value * 37 + i * 11) & 0xff));

/** Two helpers and the hosts between them, which keep a dirty log and a word about status, as hosts do. */
class Hosts {
	readonly source = new Side({ name: 'source', role: 'idle', ram: RAM });
	readonly target = new Side({ name: 'target', role: 'empty', ram: RAM });
	/** What the guest has, by the test's own book. */
	readonly memory = new Map<number, Uint8Array>(PAGES.map((gpa) => [gpa, filled(0)]));
	readonly shared = new Set<number>();
	private dirty = new Set<number>();
	private sent = new Set<number>();
	private isLossy: 'lose' | 'repeat' | 'swap' | undefined;

	readonly streams: number;

	constructor(streams: number) {
		this.streams = streams;
		this.begin();
	}

	/** A new session: every page is dirty. */
	begin(): void {
		const accept = this.target.run('accept', this.source.run('hello', undefined, this.streams));
		this.target.run('establish', this.source.run('confirm', accept));
		this.dirty = new Set(PAGES);
		this.sent = new Set();
		this.isLossy = undefined;
		const { source } = this;
		for (const record of saveAll(source, guestPages(RAM).slice(0, 1), this.streams)) this.target.restore(record);
	}

	happen(happening: Happening): void {
		const { what } = happening;
		if (what === 'write') this.write(happening.page, happening.value);
		else if (what === 'share' || what === 'unshare') this.setStatus(happening.page, what === 'share');
		else if (what === 'round') this.round();
		else if (what === 'part') this.send([...this.dirty].slice(0, happening.pages));
		else if (what === 'forget') this.dirty.delete([...this.dirty][0] ?? -1);
		else if (what === 'cancel' || what === 'abort') {
			this.target.run('abort');
			this.source.run('cancel');
			this.begin();
		} else this.isLossy = what;
	}

	/** From the last round to READY. */
	finish(): Uint8Array {
		this.endEpoch();
		this.source.run('freeze');
		this.send([...this.dirty]);
		return takeManifest(this.target, makeManifest(this.source, this.streams), this.streams);
	}

	private write(index: number, value: number): void {
		const gpa = PAGES[index] ?? 0;
		expect(this.source.write(gpa, filled(value)), 'the guest runs until it is frozen').toBe(true);
		if (!this.shared.has(gpa)) this.memory.set(gpa, filled(value));
		this.dirty.add(gpa);
	}

	/** As the kernel does it: status in the record first, then fresh contents. */
	private setStatus(index: number, isShared: boolean): void {
		const gpa = PAGES[index] ?? 0;
		this.source.setShared(gpa, isShared);
		if (isShared) this.shared.add(gpa);
		else this.shared.delete(gpa);
		this.source.write(gpa, filled(7));
		this.memory.set(gpa, filled(7));
		this.dirty.add(gpa);
	}

	private round(): void {
		this.endEpoch();
		this.send([...this.dirty]);
	}

	private endEpoch(): void {
		this.target.run('nextEpoch', this.source.run('epoch'));
		this.sent = new Set();
	}

	private send(pages: readonly number[]): void {
		const due = pages.filter((gpa) => !this.sent.has(gpa));
		const records = saveAll(this.source, due, this.streams);
		for (const gpa of due) {
			this.dirty.delete(gpa);
			if (!this.shared.has(gpa)) this.sent.add(gpa);
		}
		if (this.isLossy === 'lose') records.shift();
		else if (this.isLossy === 'repeat') records.push(...records.slice(-1));
		else if (this.isLossy === 'swap' && records.length > 1) records.reverse();
		if (records.length > 0) this.isLossy = undefined;
		for (const record of records) this.target.restore(record);
	}
}

/** The named status of a session that fails, or undefined. */
const failure = (act: () => void): string | undefined => {
	try {
		act();
		return undefined;
	} catch (error) {
		if (!(error instanceof Refused)) throw error;
		return error.status;
	}
};

const expectSame = (side: Side, hosts: Hosts): void => {
	for (const gpa of PAGES) {
		expect(side.isShared(gpa), `status of 0x${gpa.toString(16)}`).toBe(hosts.shared.has(gpa));
		if (hosts.shared.has(gpa)) continue;
		const isEqual = Buffer.from(side.page(gpa)).equals(hosts.memory.get(gpa) ?? new Uint8Array());
		expect(isEqual, `page 0x${gpa.toString(16)}`).toBe(true);
	}
};

const runs = process.env['CVM_LONG'] === '1' ? 3000 : 200;
/** How the sessions of all runs came out, so that a rig in which nothing ever works is seen. */
const outcomes = new Map<string, number>();

describe('the hardened helper under any workload', () => {
	property.prop([workload], { numRuns: runs })(
		'gives the target the memory of the freeze, or fails by name and lets the source go on',
		({ streams, happenings, end }) => {
			const hosts = new Hosts(streams);
			const { source, target } = hosts;
			let ready: Uint8Array = new Uint8Array();
			const failed = failure(() => {
				for (const each of happenings) hosts.happen(each);
				ready = hosts.finish();
			});
			outcomes.set(failed ?? end, (outcomes.get(failed ?? end) ?? 0) + 1);
			if (failed !== undefined) {
				expect(Object.keys(HelperStatus)).toContain(failed);
				expect(target.phase).toBe('aborted');
				source.run('cancel');
			} else if (end === 'lost START') {
				source.run('start', ready);
				expect(source.canRun).toBe(false);
				source.run('revive', target.run('abort'));
			}
			if (failed !== undefined || end === 'lost START') {
				expect(source.canRun).toBe(true);
				expect(target.canRun).toBe(false);
				expectSame(source, hosts);
				hosts.begin();
				ready = hosts.finish();
			}
			handOver(source, target, ready);
			expect(target.canRun).toBe(true);
			expect(source.canRun).toBe(false);
			expectSame(target, hosts);
		},
		600_000,
	);

	property('saw sessions that came through, and some that did not', () => {
		expect(outcomes.get('run') ?? 0).toBeGreaterThan(0);
		expect(outcomes.get('order') ?? 0).toBeGreaterThan(0);
		expect(outcomes.get('incomplete') ?? 0).toBeGreaterThan(0);
	});

	property('keeps every page with the stream that owns it', () => {
		expect(new Set(PAGES.map((gpa) => streamOf(gpa, 3))).size).toBe(3);
	});
});
