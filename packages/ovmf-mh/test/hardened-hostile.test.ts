import type { GuestCpu } from '@cvm/kvm/vcpu';
import { describe, expect, it } from 'vitest';
import { SHARED_ALIAS } from '../src/firmware/index.js';
import { bodiesOf, HelperGeometry, mailboxOf, PublishedGeometry } from '../src/geometry.js';
import {
	EXTENSION_OFFSET,
	GPA_LIST_OFFSET,
	HelperCommand,
	HelperStatus,
	IO_HEADER_OFFSET,
} from '../src/mailbox/abi.js';
import {
	CANARY,
	contains,
	guestPage,
	type Link,
	memoryOf,
	pagesOf,
	pairOf,
	populate,
	RAM,
} from './hardened-couriers.js';
import { GUEST, type Machine, PAGE } from './hardened-rig.js';

/** A host that changes shared memory as soon as the helper has read from it. */
class HostileHost {
	/** What the helper read of shared memory. */
	readonly loads: { at: number; length: number }[] = [];
	/** What it wrote there. */
	readonly stores: number[] = [];
	attack: ((at: number) => void) | undefined;

	readonly wrap = (cpu: GuestCpu): GuestCpu => {
		const note = (va: number, length: number): void => {
			if (va >= 0) return;
			this.loads.push({ at: va - SHARED_ALIAS, length });
			this.attack?.(va - SHARED_ALIAS);
		};
		return Object.create(cpu, {
			load: {
				value: (va: number, out: Uint8Array) => {
					cpu.load(va, out);
					note(va, out.length);
				},
			},
			loadU32: {
				value: (va: number) => {
					const value = cpu.loadU32(va);
					note(va, 4);
					return value;
				},
			},
			storeU32: {
				value: (va: number, value: number) => {
					if (va < 0) this.stores.push(va - SHARED_ALIAS);
					cpu.storeU32(va, value);
				},
			},
		}) as GuestCpu;
	};
}

const view = ({ ram }: Machine): DataView => new DataView(ram.bytes.buffer, ram.bytes.byteOffset, ram.bytes.length);
const mailbox = mailboxOf(0);
const inputLengthAt = mailbox + EXTENSION_OFFSET + 0x10;
const countAt = mailbox + EXTENSION_OFFSET + 0x0c;

/** A session in front of hostile hosts. */
async function session(): Promise<{ link: Link; hostile: HostileHost }> {
	const hostile = new HostileHost();
	const link = pairOf({ wrap: hostile.wrap });
	populate(link.source, pagesOf(RAM));
	await link.helper.open(link.peer);
	hostile.loads.length = 0;
	return { link, hostile };
}

/** Loads that are more than a look at one word. */
const copies = (hostile: HostileHost) => hostile.loads.filter(({ length }) => length > 4);

describe('a hardened helper whose host changes the mailbox under its hands', () => {
	it('K11: reads the mailbox page once for SAVE, and seals the pages that stood there then', async () => {
		const { link, hostile } = await session();
		const bytes = view(link.source);
		hostile.attack = (at) => {
			if (at !== mailbox) return;
			// Another page, one of the helper's own, more of them, and another command.
			bytes.setBigUint64(mailbox + GPA_LIST_OFFSET, BigInt(HelperGeometry.state), true);
			bytes.setBigUint64(mailbox + GPA_LIST_OFFSET + 8, BigInt(GUEST + 0x40000), true);
			bytes.setUint32(countAt, 64, true);
			bytes.setUint32(mailbox, HelperCommand.reset, true);
			bytes.setUint32(inputLengthAt, 0xffffffff, true);
		};
		link.helper.seal(0, Uint32Array.of(GUEST / PAGE, GUEST / PAGE + 1), 2, link.emit);
		link.helper.flush(link.emit);
		expect(copies(hostile)).toEqual([{ at: mailbox, length: PAGE }]);
		hostile.attack = undefined;
		link.opener.flush();
		expect([...link.target.read(GUEST, 16)]).toEqual([...guestPage(GUEST, 1).subarray(0, 16)]);
		expect([...link.target.read(GUEST + PAGE, 16)]).toEqual([...guestPage(GUEST + PAGE, 1).subarray(0, 16)]);
	});

	it('K11: reads page, header and bodies once for RESTORE: what changes later changes nothing', async () => {
		const { link, hostile } = await session();
		const bytes = view(link.target);
		const sealed: [number, number, Uint8Array, Uint8Array][] = [];
		link.helper.seal(0, Uint32Array.of(GUEST / PAGE, GUEST / PAGE + 1), 2, () => undefined);
		link.helper.flush((block, page, header, body) => sealed.push([block, page, header.slice(), body.slice()]));
		hostile.loads.length = 0;
		hostile.attack = (at) => {
			if (at === mailbox) {
				bytes.setBigUint64(mailbox + GPA_LIST_OFFSET, BigInt(GUEST + 0x40000), true);
				bytes.setUint32(mailbox + IO_HEADER_OFFSET, 0xffffffff, true);
				for (let i = 0; i < 64; i++) bytes.setUint8(mailbox + IO_HEADER_OFFSET + 4 + i, 0xff);
				bytes.setUint32(inputLengthAt, 0xffffffff, true);
			}
			if (at === bodiesOf(0)) link.target.ram.bytes.fill(0, bodiesOf(0), bodiesOf(0) + 2 * PAGE);
		};
		for (const record of sealed) link.opener.open(...record);
		link.opener.flush();
		expect(copies(hostile)).toEqual([
			{ at: mailbox, length: PAGE },
			{ at: bodiesOf(0), length: 2 * PAGE },
		]);
		expect([...link.target.read(GUEST, 16)]).toEqual([...guestPage(GUEST, 1).subarray(0, 16)]);
	});

	it('K11: reads a message once', async () => {
		const { link, hostile } = await session();
		const token = link.sourceHost.control(HelperCommand.epoch);
		hostile.loads.length = 0;
		hostile.attack = (at) => {
			if (at === bodiesOf(0)) link.target.ram.bytes.fill(0, bodiesOf(0), bodiesOf(0) + PAGE);
			if (at === mailbox) view(link.target).setUint32(inputLengthAt, 1, true);
		};
		link.targetHost.control(HelperCommand.nextEpoch, { input: token });
		expect(copies(hostile)).toEqual([
			{ at: mailbox, length: PAGE },
			{ at: bodiesOf(0), length: token.length },
		]);
	});

	it('A9: every field of the mailbox that is changed before the copy is what the helper goes by, checked', async () => {
		const { link } = await session();
		const bytes = view(link.source);
		const [channel] = link.sourceHost.channels;
		if (channel === undefined) throw new Error('no channel');
		const status = (change: () => void): number => {
			channel.post({ nr: HelperCommand.save, gpas: Float64Array.of(GUEST, GUEST + PAGE), count: 2 });
			change();
			return link.sourceHost.answerOf(channel).status;
		};
		const list = (i: number, gpa: bigint) => () => bytes.setBigUint64(mailbox + GPA_LIST_OFFSET + 8 * i, gpa, true);
		const own = [PublishedGeometry.mailbox, PublishedGeometry.entry, HelperGeometry.state, HelperGeometry.gate];
		for (const gpa of own) expect(status(list(1, BigInt(gpa)))).toBe(HelperStatus.address);
		expect(status(list(1, BigInt(GUEST + 1)))).toBe(HelperStatus.address);
		expect(status(list(0, 2n ** 39n))).toBe(HelperStatus.address);
		expect(status(list(0, 0xffffff8000820000n))).toBe(HelperStatus.address);
		expect(status(list(0, (1n << 51n) | BigInt(GUEST)))).toBe(HelperStatus.address);
		expect(status(list(0, 2n ** 64n - 4096n))).toBe(HelperStatus.address);
		expect(status(list(1, BigInt(GUEST)))).toBe(HelperStatus.list);
		expect(status(() => bytes.setUint32(countAt, 0, true))).toBe(HelperStatus.length);
		expect(status(() => bytes.setUint32(countAt, 65, true))).toBe(HelperStatus.length);
		expect(status(() => bytes.setUint32(inputLengthAt, 60_001, true))).toBe(HelperStatus.length);
		expect(status(() => bytes.setUint32(mailbox, 0x99, true))).toBe(HelperStatus.invalidFunction);
		expect(status(() => bytes.setBigUint64(mailbox, 2n ** 64n - 1n, true))).toBe(HelperStatus.invalidFunction);
		expect(status(() => undefined)).toBe(HelperStatus.success);
	});

	it('A9: bodies that are fewer than the record says end the session, not the helper', async () => {
		for (const length of [0, 1, PAGE, 2 * PAGE - 1]) {
			const { link } = await session();
			link.helper.seal(0, Uint32Array.of(GUEST / PAGE, GUEST / PAGE + 1), 2, link.emit);
			link.helper.flush(link.emit);
			view(link.target).setUint32(inputLengthAt, length, true);
			expect(() => link.opener.flush()).toThrow('expected success, got length');
			expect(contains(link.target.read(GUEST, 2 * PAGE), CANARY)).toBe(false);
			expect(link.targetHost.control(HelperCommand.abort)).toHaveLength(96);
		}
	});

	it('A9: a header length that is none ends the session, not the helper', async () => {
		for (const length of [0, 71, 87, 89, 1024, 1025, 0xffffffff]) {
			const { link } = await session();
			link.helper.seal(0, Uint32Array.of(GUEST / PAGE, GUEST / PAGE + 1), 2, link.emit);
			link.helper.flush(link.emit);
			view(link.target).setUint32(mailbox + IO_HEADER_OFFSET, length, true);
			expect(() => link.opener.flush()).toThrow('expected success, got length');
			expect(contains(link.target.read(GUEST, 2 * PAGE), CANARY)).toBe(false);
		}
	});

	it('writes its results once each, done last', async () => {
		const { link, hostile } = await session();
		hostile.stores.length = 0;
		link.sourceHost.control(HelperCommand.query);
		const offsets = hostile.stores.map((at) => at - mailbox);
		// echo, detail, output length, ret, go; `done` by an exchange.
		expect(offsets).toEqual([0x24, 0x38, 0x34, 0x14, 0x18]);
	});

	it('A11: does not seal a page that the guest’s own record calls shared, whatever the host says', async () => {
		const { link } = await session();
		const gfn = GUEST / PAGE + 9;
		link.source.guest((cpu) => {
			const at = HelperGeometry.sharedMap + Math.floor(gfn / 8);
			cpu.storeU8(at, cpu.loadU8(at) | (1 << (gfn % 8)));
		});
		link.move([GUEST + 8 * PAGE, GUEST + 9 * PAGE, GUEST + 10 * PAGE]);
		expect(link.shared).toEqual([GUEST + 9 * PAGE]);
		expect(contains(link.target.read(GUEST + 9 * PAGE, PAGE), CANARY)).toBe(false);
		expect(contains(link.target.read(GUEST + 10 * PAGE, PAGE), CANARY)).toBe(true);
		expect(memoryOf(link.source).length).toBeGreaterThan(0);
	});
});
