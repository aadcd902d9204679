import { PAGE_SIZE } from '@cvm/layout';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { BATCH_PAGES as BATCH } from '../src/geometry.js';
import { createChannel } from '../src/host/hardened/channel.js';
import { createMailboxHost, FIXED_MAILBOX, type MailboxHostOptions } from '../src/host/mailbox.js';
import type { MailboxMemory } from '../src/host/mailbox-memory.js';
import {
	commandExtension,
	EXTENSION_OFFSET,
	HelperCommand,
	IO_HEADER_OFFSET,
	MAX_IO_HEADER,
	READY_MAGIC,
} from '../src/mailbox/abi.js';
import { contains } from './migration-rig.js';

/*
 * A14, the other way round: the guest is hostile and its host the victim. The helper's answers are in memory that the guest writes
 * at any time, between two looks of the host too.
 */

/** What lies behind the mailbox in the host's mapping: memory that is none of this guest's. */
const NEIGHBOUR = new TextEncoder().encode('memory of somebody else');

/** A guest that answers every command at once, and shows the host another header length at each look. */
function hostileGuest(lengths: readonly number[]): MailboxMemory & { looks: number } {
	const mapping = new Uint8Array(4 * PAGE_SIZE);
	mapping.set(NEIGHBOUR, 2 * PAGE_SIZE);
	const view = new DataView(mapping.buffer);
	const guest = {
		looks: 0,
		load: (offset: number): number => {
			if (offset === IO_HEADER_OFFSET) return lengths[guest.looks++] ?? 0;
			if (offset === EXTENSION_OFFSET + commandExtension.offsetOf('ready')) return READY_MAGIC;
			if (offset === EXTENSION_OFFSET + commandExtension.offsetOf('echo')) {
				return view.getUint32(EXTENSION_OFFSET + commandExtension.offsetOf('sequence'), true);
			}
			if (offset === 0x14) return 0;
			return offset === 0x1c ? 1 : view.getUint32(offset, true);
		},
		store: (offset: number, value: number) => view.setUint32(offset, value, true),
		read: (offset: number, out: Uint8Array) => {
			if (offset + out.length > mapping.length) throw new RangeError('not mapped');
			out.set(mapping.subarray(offset, offset + out.length));
		},
		write: (offset: number, data: Uint8Array) => mapping.set(data, offset),
		pause: () => {},
	};
	return guest;
}

const saved = (lengths: readonly number[], defects?: MailboxHostOptions['defects']) =>
	createMailboxHost({ memory: hostileGuest(lengths), ...(defects && { defects }) }).save(0x1000000);

describe('rfc-2021: the host of August 2021', () => {
	it('A14: the length is checked, read again, and the host sends memory that is none of the guest’s', () => {
		const { header, headerLength } = saved([8, 8, 0x2000]);
		expect(headerLength).toBe(8);
		expect(header.length).toBe(0x2000);
		expect(contains(header, NEIGHBOUR)).toBe(true);
	});

	it('A14: a length beyond the mapping ends the host as posted', () => {
		expect(() => saved([8, 8, 0x7fffffff])).toThrow(expect.objectContaining({ code: 'range' }));
	});

	it('A14: read once, as fixed, it is what was checked', () => {
		const { header, headerLength } = saved([8, 8, 0x2000], FIXED_MAILBOX);
		expect([header.length, headerLength]).toEqual([8, 8]);
		expect(() => saved([MAX_IO_HEADER + 1], FIXED_MAILBOX)).toThrow(expect.objectContaining({ code: 'length' }));
	});
});

describe('hardened helper: its host', () => {
	afterEach(() => {
		vi.restoreAllMocks();
	});

	const channelWith = (guest: (words: DataView) => void) => {
		const mailbox = new Uint8Array(new SharedArrayBuffer(PAGE_SIZE));
		const bodies = new Uint8Array(new SharedArrayBuffer(BATCH * PAGE_SIZE));
		const view = new DataView(mailbox.buffer);
		view.setUint32(EXTENSION_OFFSET + commandExtension.offsetOf('ready'), READY_MAGIC, true);
		const channel = createChannel({ mailbox, bodies }, 0);
		channel.post({ nr: HelperCommand.save, gpas: Float64Array.of(0x1000000), count: 1 });
		const echo = EXTENSION_OFFSET + commandExtension.offsetOf('echo');
		view.setUint32(echo, view.getUint32(EXTENSION_OFFSET + commandExtension.offsetOf('sequence'), true), true);
		guest(view);
		return channel;
	};

	it('A14: a length that is too large is a bad answer, whatever else the guest wrote', () => {
		for (const length of [MAX_IO_HEADER + 1, PAGE_SIZE, 0x7fffffff, 0x80000000, 0xffffffff]) {
			const channel = channelWith((view) => view.setUint32(IO_HEADER_OFFSET, length, true));
			expect(() => channel.header(), `${length}`).toThrow(expect.objectContaining({ code: 'bad-answer' }));
		}
		for (const length of [BATCH * PAGE_SIZE + 1, 0x80000000, 0xffffffff]) {
			const at = EXTENSION_OFFSET + commandExtension.offsetOf('outputLength');
			const channel = channelWith((view) => view.setUint32(at, length, true));
			expect(() => channel.collect(), `${length}`).toThrow(expect.objectContaining({ code: 'bad-answer' }));
		}
	});

	it('A14: the length is looked at once: a guest that changes it between two looks changes nothing', () => {
		const channel = channelWith((view) => view.setUint32(IO_HEADER_OFFSET, 16, true));
		let looks = 0;
		const original = DataView.prototype.getUint32;
		vi.spyOn(DataView.prototype, 'getUint32').mockImplementation(function (this: DataView, at, isLittle) {
			if (at === IO_HEADER_OFFSET && this.byteLength === PAGE_SIZE) looks += 1;
			return looks > 1 && at === IO_HEADER_OFFSET ? 0x2000 : original.call(this, at, isLittle);
		});
		expect(channel.header().length).toBe(16);
		expect(looks).toBe(1);
	});

	it('A14: what the host reads is a copy: the guest cannot change it any more', () => {
		let words: DataView = new DataView(new ArrayBuffer(0));
		const channel = channelWith((view) => {
			words = view;
			view.setUint32(IO_HEADER_OFFSET, 16, true);
		});
		const header = channel.header();
		words.setUint32(IO_HEADER_OFFSET + 4, 0x66666666, true);
		expect(header).toEqual(new Uint8Array(16));
		expect(header.buffer).not.toBe(words.buffer);
	});
});
