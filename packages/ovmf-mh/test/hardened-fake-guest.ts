import { setImmediate } from 'node:timers/promises';
import { expect } from 'vitest';
import { createHelperHost, HelperError } from '../src/host/index.js';
import {
	commandBlock,
	commandExtension,
	EXTENSION_OFFSET,
	GPA_LIST_OFFSET,
	IO_HEADER_OFFSET,
	READY_MAGIC,
} from '../src/mailbox/abi.js';

export const PAGE = 4096;
/** Bytes of the bodies of a batch. */
export const WINDOW = 64 * PAGE;

/** A guest that does whatever the test wants when a command was posted. */
export function guestOf(answer: (guest: FakeGuest, nr: number, polls: number) => void, helpers = 1) {
	const guests = Array.from({ length: helpers }, () => createFakeGuest());
	let time = 0;
	const look = (polls: number): void => {
		time += 1;
		for (const guest of guests) if (guest.go !== 0) answer(guest, guest.nr, polls);
	};
	const host = createHelperHost({
		helpers: guests,
		wait: look,
		pause: async (polls) => {
			look(polls);
			await setImmediate();
		},
		now: () => time,
		timeoutMs: 500,
	});
	return { host, guests, guest: guests[0] ?? createFakeGuest() };
}

/** A mailbox with a guest behind it. */
export interface FakeGuest {
	readonly mailbox: Uint8Array;
	readonly bodies: Uint8Array;
	readonly view: DataView;
	kicks: number;
	kick(): void;
	readonly go: number;
	readonly nr: number;
	readonly sequence: number;
	readonly count: number;
	set(field: 'ready' | 'asleep' | 'echo' | 'outputLength' | 'detail', value: number): void;
	/** As an honest helper does. */
	finish(status: number, outputLength?: number, detail?: number, echo?: number): void;
	/** The header of a record over the list that the host posted. */
	sealed(zeroMap?: bigint, counter?: number): void;
}
function createFakeGuest(): FakeGuest {
	const memory = new SharedArrayBuffer(PAGE + WINDOW);
	const mailbox = new Uint8Array(memory, 0, PAGE);
	const view = new DataView(memory);
	const at = (field: keyof Parameters<typeof commandBlock.encode>[0]) => commandBlock.offsetOf(field);
	const extra = (field: keyof Parameters<typeof commandExtension.encode>[0]) =>
		EXTENSION_OFFSET + commandExtension.offsetOf(field);
	const guest: FakeGuest = {
		mailbox,
		bodies: new Uint8Array(memory, PAGE, WINDOW),
		view,
		kicks: 0,
		kick: () => {
			guest.kicks++;
		},
		get go() {
			return view.getUint32(at('go'), true);
		},
		get nr() {
			return Number(view.getBigUint64(at('nr'), true));
		},
		get sequence() {
			return view.getUint32(extra('sequence'), true);
		},
		get count() {
			return view.getUint32(extra('count'), true);
		},
		set: (field: 'ready' | 'asleep' | 'echo' | 'outputLength' | 'detail', value: number) =>
			view.setUint32(extra(field), value, true),
		finish: (status: number, outputLength = 0, detail = 0, echo = guest.sequence) => {
			guest.set('echo', echo);
			guest.set('outputLength', outputLength);
			guest.set('detail', detail);
			view.setInt32(at('ret'), status, true);
			view.setUint32(at('go'), 0, true);
			view.setUint32(at('done'), 1, true);
		},
		sealed: (zeroMap = 0n, counter = 0) => {
			const header = new Uint8Array(72 + 8 * guest.count);
			const fields = new DataView(header.buffer);
			fields.setUint32(0x1c, counter, true);
			fields.setUint16(0x22, guest.count, true);
			fields.setBigUint64(0x40, zeroMap, true);
			header.set(mailbox.subarray(GPA_LIST_OFFSET, GPA_LIST_OFFSET + 8 * guest.count), 0x48);
			view.setUint32(IO_HEADER_OFFSET, header.length, true);
			mailbox.set(header, IO_HEADER_OFFSET + 4);
			const zeros = zeroMap.toString(2).replaceAll('0', '').length;
			guest.finish(0, (guest.count - zeros) * PAGE);
		},
	};
	guest.set('ready', READY_MAGIC);
	return guest;
}

/** The code of the HelperError that something throws. */
export const codeOf = (run: () => unknown): string => {
	try {
		run();
	} catch (error) {
		if (!(error instanceof HelperError)) throw error;
		expect(error.message.includes('\n')).toBe(false);
		return error.code;
	}
	return 'none';
};
export const codeLater = async (promise: Promise<unknown>): Promise<string> => {
	const error: unknown = await promise.then(
		() => new Error('none'),
		(reason: unknown) => reason,
	);
	return codeOf(() => {
		throw error;
	});
};
