import type { GuestCpu } from '@cvm/kvm/vcpu';
import { PAGE_SIZE } from '@cvm/layout';
import { BATCH_PAGES, bodiesOf, mailboxOf } from '../../geometry.js';
import {
	commandBlock,
	commandExtension,
	EXTENSION_OFFSET,
	GPA_LIST_OFFSET,
	HelperCommand,
	HelperStatus,
	IO_HEADER_OFFSET,
	MAX_HELPER_MESSAGE,
	MAX_IO_HEADER,
	READY_MAGIC,
} from '../../mailbox/abi.js';
import { SHARED_ALIAS } from './paging.js';

const go = commandBlock.offsetOf('go');
const done = commandBlock.offsetOf('done');
const ret = commandBlock.offsetOf('ret');
const extension = (field: 'echo' | 'ready' | 'outputLength' | 'detail' | 'asleep'): number =>
	EXTENSION_OFFSET + commandExtension.offsetOf(field);
const [echo, ready, outputLength, detail, asleep] = [
	extension('echo'),
	extension('ready'),
	extension('outputLength'),
	extension('detail'),
	extension('asleep'),
];

/** Virtual address of a helper's mailbox page and of its bodies, without the C-bit. */
const mailboxAt = (helper: number): number => SHARED_ALIAS + mailboxOf(helper);
const bodiesAt = (helper: number): number => SHARED_ALIAS + bodiesOf(helper);

/** A command as it stood in the mailbox at one moment: private, whatever the host writes there later (K11). */
export interface PrivateCommand {
	/** May be any number below 2^53; above that, -1. */
	readonly nr: number;
	readonly sequence: number;
	readonly count: number;
	readonly inputLength: number;
	/** The whole mailbox page. */
	readonly page: Uint8Array;
}

/** Whether the host posted a command. */
export const isPosted = (cpu: GuestCpu, helper: number): boolean => cpu.loadU32(mailboxAt(helper) + go) !== 0;

/** Says that the helper takes commands. A command that was posted before stays posted (K12). */
export function announceReady(cpu: GuestCpu, helper: number): void {
	cpu.storeU32(mailboxAt(helper) + asleep, 0);
	cpu.exchangeU32(mailboxAt(helper) + ready, READY_MAGIC);
}

/** Says that the helper is about to sleep, or that it woke. The exchange orders it before the next look at `go`. */
export function setAsleep(cpu: GuestCpu, helper: number, value: 0 | 1): void {
	cpu.exchangeU32(mailboxAt(helper) + asleep, value);
}

/** Takes a posted command: clears `done` and copies the page once. @param page 4096 bytes to copy to */
export function takeCommand(cpu: GuestCpu, helper: number, page: Uint8Array): PrivateCommand {
	cpu.exchangeU32(mailboxAt(helper) + done, 0);
	cpu.load(mailboxAt(helper), page);
	const { nr } = commandBlock.decodePrefix(page);
	const { sequence, count, inputLength } = commandExtension.decodePrefix(page.subarray(EXTENSION_OFFSET));
	return { nr: nr < 2n ** 53n ? Number(nr) : -1, sequence, count, inputLength, page };
}

/** The addresses of a batch. @returns status and index: an address above 2^53 is none */
export function takeAddresses(command: PrivateCommand, gpas: Float64Array): { status: number; detail: number } {
	if (command.count === 0 || command.count > BATCH_PAGES) return { status: HelperStatus.length, detail: 0 };
	const view = new DataView(command.page.buffer, command.page.byteOffset + GPA_LIST_OFFSET);
	for (let i = 0; i < command.count; i++) {
		const high = view.getUint32(8 * i + 4, true);
		if (high >= 2 ** 21) return { status: HelperStatus.address, detail: i };
		gpas[i] = high * 2 ** 32 + view.getUint32(8 * i, true);
	}
	return { status: HelperStatus.success, detail: 0 };
}

/** The header that came with a record, `undefined` if its length is none. */
export function takeHeader({ page }: PrivateCommand): Uint8Array | undefined {
	const length = new DataView(page.buffer, page.byteOffset).getUint32(IO_HEADER_OFFSET, true);
	return length > MAX_IO_HEADER ? undefined : page.subarray(IO_HEADER_OFFSET + 4, IO_HEADER_OFFSET + 4 + length);
}

/** Copies bodies or a message out of the window, once. */
export function takeBodies(cpu: GuestCpu, helper: number, out: Uint8Array): void {
	if (out.length !== 0) cpu.load(bodiesAt(helper), out);
}

/** Puts bodies or a message into the window. */
export function giveBodies(cpu: GuestCpu, helper: number, data: Uint8Array): void {
	if (data.length !== 0) cpu.store(bodiesAt(helper), data);
}

/** Puts a record's header behind its length. */
export function giveHeader(cpu: GuestCpu, helper: number, header: Uint8Array): void {
	cpu.storeU32(mailboxAt(helper) + IO_HEADER_OFFSET, header.length);
	cpu.store(mailboxAt(helper) + IO_HEADER_OFFSET + 4, header);
}

/** What a command came to. */
export interface Outcome {
	readonly status: number;
	readonly detail: number;
	readonly outputLength: number;
}

/** Writes the results, each once, and hands the mailbox back: `done` last, as a fence. */
export function finishCommand(cpu: GuestCpu, helper: number, sequence: number, outcome: Outcome): void {
	const at = mailboxAt(helper);
	cpu.storeU32(at + echo, sequence);
	cpu.storeU32(at + detail, outcome.detail);
	cpu.storeU32(at + outputLength, outcome.outputLength);
	cpu.storeU32(at + ret, outcome.status >>> 0);
	cpu.storeU32(at + go, 0);
	cpu.exchangeU32(at + done, 1);
}

/** Clears all shared memory of the helpers, which holds noise when it was only just shared. */
export function clearSharedMemory(
	cpu: GuestCpu,
	ranges: readonly { readonly start: number; readonly end: number }[],
): void {
	for (const { start, end } of ranges) cpu.fill(SHARED_ALIAS + start, end - start, 0);
}

/** Bytes of the bodies that a command may bring. */
export const inputLimit = (nr: number): number =>
	nr === HelperCommand.restore ? BATCH_PAGES * PAGE_SIZE : MAX_HELPER_MESSAGE;
