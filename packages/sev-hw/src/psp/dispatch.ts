import type { CopyBack, CreatingRule, GuestRule, PlatformRule } from '../abi/commands.js';
import { GuestState, PlatformState } from '../abi/states.js';
import { Status } from '../abi/status.js';
import type { Bulk } from './bulk.js';
import { type PageHandler, WAIT } from './commands/page-commands.js';
import type { Guest } from './guests.js';
import type { CreatingHandler, GuestHandler, Platform, PlatformHandler, Reply } from './platform.js';
import { refuse } from './reply.js';

/**
 * One command of the table with its handler: runs it for each command buffer in turn, stops after the first that fails,
 * and returns how many ran.
 */
export type Executor = (psp: Platform, bulk: Bulk, bufferSpas: readonly number[], statuses: Uint16Array) => number;

/** How a command buffer becomes fields and how an answer gets into it: a layout of `@cvm/layout` is one. */
interface Codec<B> {
	readonly size: number;
	decode(data: Uint8Array): B;
	patch(out: Uint8Array, value: Partial<B>): void;
}

/** States in which VMRUN may use the guest's ASID. Entering one, or ACTIVATE in one, enables it; none disables it. */
const RUNNABLE: readonly GuestState[] = [GuestState.RUNNING, GuestState.SUPDATE];

/** A command without a command buffer. */
export const bare = (rule: PlatformRule, handler: PlatformHandler<void>): Executor =>
	oneByOne((psp) => runPlatform(psp, rule, handler, undefined).status);

/** A command of the platform. */
export const onPlatform = <B>(rule: PlatformRule & { buffer: Codec<B> }, handler: PlatformHandler<B>): Executor =>
	withBuffer(rule.buffer, rule.copyBack, (psp, buffer) => runPlatform(psp, rule, handler, buffer));

/** A command that makes a guest. */
export const creating = <B extends { handle: number }>(
	rule: CreatingRule & { buffer: Codec<B> & Codec<{ handle: number }> },
	handler: CreatingHandler<B>,
): Executor => {
	const { buffer: codec, copyBack } = rule;
	return withBuffer<{ handle: number }, B>(codec, copyBack, (psp, buffer) => {
		if (!isAmong(rule.platform, psp.state)) return refuse(Status.INVALID_PLATFORM_STATE);
		const { status, guest } = handler(psp, buffer);
		if (status !== Status.SUCCESS || guest === undefined) return refuse(status);
		psp.state = PlatformState.WORKING;
		return { status, out: { handle: psp.guests.add(guest, rule.next).handle } };
	});
};

/** A command on one guest. */
export const onGuest = <B extends { handle: number }>(
	rule: GuestRule & { buffer: Codec<B> },
	handler: GuestHandler<B>,
): Executor =>
	withBuffer<B>(rule.buffer, rule.copyBack, (psp, buffer) => {
		const first = handler.beforePlatform?.(psp, buffer);
		if (first !== undefined && first.status !== Status.SUCCESS) return first;
		if (!isAmong(rule.platform, psp.state)) return refuse(Status.INVALID_PLATFORM_STATE);
		const early = handler.beforeHandle?.(psp, buffer);
		if (early !== undefined && early.status !== Status.SUCCESS) return early;
		const guest = psp.guests.get(buffer.handle);
		if (guest === undefined) return refuse(Status.INVALID_GUEST);
		const late = handler.beforeState?.(psp, guest, buffer);
		if (late !== undefined && late.status !== Status.SUCCESS) return late;
		if (!isAmong(rule.guest, psp.guests.stateOf(guest.handle))) return refuse(Status.INVALID_GUEST_STATE);
		const reply = handler.run(psp, guest, buffer);
		if (reply.status === Status.SUCCESS) advance(psp, guest, rule.next);
		return reply;
	});

/** A command on pages of one guest: the AES of many is done at once, with the same results as one after the other. */
export const onPages = <R extends { readonly handle: number }>(
	rule: GuestRule & { buffer: { readonly size: number } },
	handler: PageHandler<R>,
): Executor => {
	const { size } = rule.buffer;
	const bytes = new Uint8Array(size);
	const view = new DataView(bytes.buffer);
	const read = handler.reader();

	return (psp, bulk, bufferSpas, statuses) => {
		const { memory, guests } = psp;
		let pending: Guest | undefined;
		const flush = (): void => {
			if (pending !== undefined && bulk.count > 0) handler.perform(psp, pending, bulk);
			bulk.reset();
		};
		const step = (bufferSpa: number): Status => {
			const at = memory.resolve(bufferSpa % 2 ** 32, Math.floor(bufferSpa / 2 ** 32), size);
			if (at < 0) return Status.INVALID_ADDRESS;
			if (bulk.isPendingOutput(at, size)) flush();
			bytes.set(memory.dram.subarray(at, at + size));
			const request = read(view);
			const status = admit(request, at);
			if (status === Status.INVALID_LENGTH && rule.copyBack === 'query') {
				flush();
				memory.dram.set(bytes, at);
			}
			return status;
		};
		const admit = (request: R, at: number): Status => {
			if (!isAmong(rule.platform, psp.state)) return Status.INVALID_PLATFORM_STATE;
			const early = handler.beforeHandle?.(psp, request, bytes) ?? Status.SUCCESS;
			if (early !== Status.SUCCESS) return early;
			const guest = guests.get(request.handle);
			if (guest === undefined) return Status.INVALID_GUEST;
			if (!isAmong(rule.guest, guests.stateOf(request.handle))) return Status.INVALID_GUEST_STATE;
			if (guest !== pending) flush();
			pending = guest;
			const planned = plan(guest, request, at);
			if (planned !== WAIT) return planned;
			flush();
			const again = plan(guest, request, at);
			if (again === WAIT) throw new Error('firmware: expected an empty bulk to take a command, got none');
			return again;
		};
		const plan = (guest: Guest, request: R, at: number): Status | typeof WAIT => {
			if (bulk.count < bulk.bufferSpas.length) {
				bulk.bufferSpas[bulk.count] = at;
				bulk.buffer(bulk.count).set(bytes);
			}
			return handler.plan(psp, guest, request, bulk);
		};

		bulk.reset();
		let ran = 0;
		for (const bufferSpa of bufferSpas) {
			const status = step(bufferSpa);
			statuses[ran++] = status;
			if (status !== Status.SUCCESS) break;
		}
		flush();
		return ran;
	};
};

/** `states` as a list of the general type: the table's own lists are narrower. */
const isAmong = <S>(states: readonly S[], state: S): boolean => states.includes(state);

function runPlatform<B>(psp: Platform, rule: PlatformRule, handler: PlatformHandler<B>, buffer: B): Reply<B> {
	if (!isAmong(rule.platform, psp.state)) return refuse(Status.INVALID_PLATFORM_STATE);
	const reply = handler(psp, buffer);
	if (reply.status === Status.SUCCESS && rule.next !== undefined) psp.state = rule.next;
	return reply;
}

/** What the table says happens to a guest after success. */
function advance(psp: Platform, guest: Guest, next: GuestState | undefined): void {
	if (next === GuestState.UNINIT) {
		psp.guests.remove(guest.handle);
		if (psp.guests.count === 0) psp.state = PlatformState.INIT;
		return;
	}
	if (next !== undefined) psp.guests.setState(guest.handle, next);
	if (guest.asid !== 0 && isAmong(RUNNABLE, psp.guests.stateOf(guest.handle))) psp.asids.enable(guest.asid);
}

/** Copies the command buffer in, once, before anything else is looked at, and back as the command's class says. */
function withBuffer<O, B extends O = O>(
	codec: { readonly size: number; decode(data: Uint8Array): B; patch(out: Uint8Array, value: Partial<O>): void },
	copyBack: CopyBack,
	run: (psp: Platform, buffer: B) => Reply<O>,
): Executor {
	return oneByOne((psp, bufferSpa) => {
		const { memory } = psp;
		const at = memory.resolve(bufferSpa % 2 ** 32, Math.floor(bufferSpa / 2 ** 32), codec.size);
		if (at < 0) return Status.INVALID_ADDRESS;
		const bytes = copyBack === 'out' ? new Uint8Array(codec.size) : memory.read(at, codec.size);
		const { status, out } = run(psp, codec.decode(bytes));
		if (isCopiedBack(copyBack, status)) {
			if (out !== undefined) codec.patch(bytes, out);
			memory.dram.set(bytes, at);
		}
		return status;
	});
}

function isCopiedBack(copyBack: CopyBack, status: Status): boolean {
	if (copyBack === 'none' || copyBack === 'in') return false;
	return status === Status.SUCCESS || (status === Status.INVALID_LENGTH && copyBack === 'query');
}

const oneByOne =
	(execute: (psp: Platform, bufferSpa: number) => Status): Executor =>
	(psp, _bulk, bufferSpas, statuses) => {
		let ran = 0;
		for (const bufferSpa of bufferSpas) {
			const status = execute(psp, bufferSpa);
			statuses[ran++] = status;
			if (status !== Status.SUCCESS) break;
		}
		return ran;
	};
