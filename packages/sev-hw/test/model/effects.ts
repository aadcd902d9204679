import { COMMANDS, type CommandName, type CommandRule } from '../../src/abi/commands.js';
import { Policy } from '../../src/abi/policy.js';
import { GuestState, PlatformState } from '../../src/abi/states.js';
import { readSevCertificate } from '../../src/certificates/sev-certificate.js';
import { openSession } from '../../src/channel/session.js';
import { provider } from '../rig.js';
import type { Call } from './fields.js';
import { pageSize } from './guest-checks.js';
import { big, num, ticketOf, untouched } from './predict.js';
import { AT, type Fields, isRunnable, type Model, type ModelGuest, remember, type World } from './world.js';

/** A range that a command may write: address, bytes. */
export type Range = readonly [at: bigint, bytes: number];

const CBIT = 1n << 51n;
const SIZES: Partial<Record<CommandName, (f: Fields) => readonly (readonly [key: string, bytes: number])[]>> = {
	PEK_CSR: () => [['csrPaddr', 2084]],
	PDH_CERT_EXPORT: () => [
		['pdhPaddr', 2084],
		['certsPaddr', 6252],
	],
	GET_ID: () => [['idPaddr', 64]],
	COPY: (f) => [['dstPaddr', num(f, 'length')]],
	LAUNCH_UPDATE_DATA: (f) => [['paddr', num(f, 'length')]],
	LAUNCH_UPDATE_VMSA: () => [['paddr', 4096]],
	LAUNCH_MEASURE: () => [['paddr', 48]],
	LAUNCH_SECRET: (f) => [['guestPaddr', num(f, 'guestLen')]],
	ATTESTATION: () => [['paddr', 208]],
	SEND_START: () => [['sessionPaddr', 128]],
	SEND_UPDATE_DATA: (f) => [
		['transPaddr', num(f, 'guestLen')],
		['hdrPaddr', 52],
	],
	SEND_UPDATE_VMSA: (f) => [
		['transPaddr', num(f, 'guestLen')],
		['hdrPaddr', 52],
	],
	RECEIVE_UPDATE_DATA: (f) => [['guestPaddr', num(f, 'guestLen')]],
	RECEIVE_UPDATE_VMSA: (f) => [['guestPaddr', num(f, 'guestLen')]],
	DBG_DECRYPT: (f) => [['dstPaddr', num(f, 'length')]],
	DBG_ENCRYPT: (f) => [['dstPaddr', num(f, 'length')]],
	SWAP_OUT: (f) => [
		['dstPaddr', pageSize(num(f, 'flags'))],
		['mdataPaddr', 64],
	],
	SWAP_IN: (f) => [[(num(f, 'flags') & 8) === 0 ? 'dstPaddr' : 'srcPaddr', pageSize(num(f, 'flags'))]],
};

/** Commands that renew what the platform keeps. */
const KEEPING: readonly CommandName[] = ['INIT_EX', 'PEK_GEN', 'PDH_GEN', 'PEK_CERT_IMPORT'];

/** All DRAM that a command may have written, given its answer, its command buffer apart; and what that means for the model. */
export function writtenBy({ model, rig, shadow }: World, { name, fields }: Call, status: string): readonly Range[] {
	// The one failure that writes: storage that is not the platform's is erased.
	if (status === 'SECURE_DATA_INVALID') return [[AT.nv, 0x8000]];
	if (status !== 'SUCCESS') return [];
	const own = (SIZES[name]?.(fields) ?? []).map(([key, bytes]): Range => [big(fields, key) & ~CBIT, bytes]);
	// Long ranges reach the memory of INIT_EX, which is the host's to spoil.
	const [from, to] = [Number(AT.nv), Number(AT.nv) + 0x8000];
	const reached = own.some((range) => overlap(range, [AT.nv, 0x8000]));
	if (reached && !shadow.subarray(from, to).equals(rig.machine.dram.subarray(from, to))) model.nv = 'invalid';
	return KEEPING.includes(name) && (model.inMemory || name === 'INIT_EX') ? [...own, [AT.nv, 0x8000]] : own;
}

const copyOf = ({ rig }: World, [at, bytes]: Range): Buffer =>
	Buffer.from(rig.machine.dram.slice(Number(at), Number(at) + bytes));

function forget(model: Model): void {
	model.platform = PlatformState.UNINIT;
	model.es = false;
	model.external = false;
	model.inMemory = false;
	// What SHUTDOWN does to the flags of WBINVD is not public.
	model.wbinvd = undefined;
	model.guests.clear();
	model.asids.clear();
}

/** INIT and INIT_EX: takes up the keys of a place, or makes them. */
function start(model: Model, place: 'flash' | 'nv', f: Fields): void {
	const isEmpty = place === 'flash' ? model.flashEmpty : model.nv === 'empty';
	if (isEmpty) model.kept[place] = { pdh: ++model.serial, pek: ++model.serial, external: false };
	if (place === 'flash') model.flashEmpty = false;
	else model.nv = 'valid';
	Object.assign(model, model.kept[place], { inMemory: place === 'nv', es: (num(f, 'flags') & 1) !== 0, wbinvd: false });
	model.asids.clear();
}

function rekey(model: Model, change: Partial<Pick<Model, 'pek' | 'external'>>): void {
	Object.assign(model, { pdh: ++model.serial, ...change });
	const { pdh, pek, external } = model;
	model.kept[model.inMemory ? 'nv' : 'flash'] = { pdh, pek, external };
	if (model.inMemory) model.nv = 'valid';
}

function add(w: World, call: Call, handle: number): void {
	const { model, rig } = w;
	const { name, fields } = call;
	const owned = name === 'RECEIVE_START' || big(fields, 'dhCertPaddr') !== 0n;
	const ticket = owned ? ticketOf({ ...call, m: model, f: fields, dram: rig.machine.dram }) : undefined;
	const serial = ++model.serial;
	model.guests.set(handle, {
		handle,
		serial,
		policy: num(fields, 'policy') >>> 0,
		state: name === 'RECEIVE_START' ? GuestState.RUPDATE : GuestState.LUPDATE,
		asid: 0,
		channel: ticket?.channel ?? 'zero',
		keys: ticket?.keys,
		digest: provider.hash('sha256'),
		launchDigest: new Uint8Array(32),
		measure: new Uint8Array(32),
		saveAreas: [],
	});
	model.platform = PlatformState.WORKING;
}

function close(guest: ModelGuest): void {
	guest.channel = 'zero';
	guest.keys = undefined;
	guest.measure = new Uint8Array(32);
}

/** SEND_START: a new session, which the model can open if it is for a key of its own, and use if it is for this platform. */
function open(w: World, call: Call, guest: ModelGuest): void {
	const { fields, intent } = call;
	const { model, rig } = w;
	const channel = `send ${++model.serial}`;
	const session = new Uint8Array(copyOf(w, [big(fields, 'sessionPaddr') & ~CBIT, 128]));
	const ours = rig.platform.identity?.pdh.certificate;
	const peer = ours && readSevCertificate(ours).publicKey;
	Object.assign(guest, { channel, keys: undefined });
	if (!untouched({ f: fields, intent }, 'pdhCertPaddr')) return;
	if (intent.target === 'self' && ours !== undefined) {
		const ticket = {
			cert: new Uint8Array(ours),
			session,
			policy: guest.policy,
			pdh: model.pdh,
			channel,
			keys: undefined,
		};
		remember(model.tickets, ticket, 12);
	}
	if (intent.target === 'software' && peer !== undefined) {
		const { keys } = openSession(provider, { privateKey: new Uint8Array(48).fill(0x11), peer, session });
		if (keys === undefined) throw new Error('SEND_START: expected a session that its target can open');
		guest.keys = keys;
	}
}

function onGuest(w: World, call: Call, guest: ModelGuest): void {
	const { model } = w;
	const { name, fields } = call;
	const [first, second] = (SIZES[name]?.(fields) ?? []).map(([key, n]): Range => [big(fields, key) & ~CBIT, n]);
	const rangeOf = (range: Range | undefined) =>
		range === undefined ? new Uint8Array(0) : new Uint8Array(copyOf(w, range));
	switch (name) {
		case 'ACTIVATE':
		case 'ACTIVATE_EX':
			guest.asid = num(fields, 'asid');
			if (model.asids.get(guest.asid) !== 'in-use') model.asids.set(guest.asid, 'allocated');
			break;
		case 'DEACTIVATE': {
			const ran = model.asids.get(guest.asid) === 'in-use';
			model.asids.set(guest.asid, ran ? 'dirty' : 'clean');
			if (ran) model.wbinvd = false;
			guest.asid = 0;
			break;
		}
		case 'LAUNCH_UPDATE_VMSA':
		case 'RECEIVE_UPDATE_VMSA':
			if (first !== undefined)
				remember(guest.saveAreas, {
					page: first[0],
					ciphertext: copyOf(w, [first[0], 4096]),
				});
			break;
		case 'LAUNCH_MEASURE':
			guest.measure = rangeOf(first).slice(0, 32);
			guest.launchDigest = guest.digest.digest();
			break;
		case 'LAUNCH_FINISH':
		case 'RECEIVE_FINISH':
		case 'SEND_FINISH':
		case 'SEND_CANCEL':
			close(guest);
			break;
		case 'SEND_START':
			open(w, call, guest);
			break;
		case 'SEND_UPDATE_DATA':
		case 'SEND_UPDATE_VMSA': {
			const context = name === 'SEND_UPDATE_DATA' ? 2 : w.rig.platform.options.vmsaPacketContext;
			const packet = { payload: rangeOf(first), header: rangeOf(second), channel: guest.channel, context };
			// With one inside the other, no packet is left.
			if (overlap(first, second)) break;
			remember(model.packets, packet);
			useIv(model, guest.channel, packet.header.subarray(4, 20));
			break;
		}
		case 'SWAP_OUT': {
			const flags = num(fields, 'flags') & 7;
			const entry = rangeOf(second);
			if (overlap(first, second)) break;
			remember(model.swapped, { page: rangeOf(first), entry, flags, serial: guest.serial });
			useIv(model, `offline key ${guest.serial}`, entry.subarray(8, 16));
			break;
		}
	}
}

/** No key encrypts twice with the same IV. */
function useIv({ ivs }: Model, key: string, iv: Uint8Array): void {
	const use = `${key}: ${Buffer.from(iv).toString('hex')}`;
	if (ivs.has(use)) throw new Error(`IV: expected a new one under each key, got ${use} again`);
	ivs.add(use);
}

const overlap = (a: Range | undefined, b: Range | undefined): boolean =>
	a !== undefined && b !== undefined && a[0] < b[0] + BigInt(b[1]) && b[0] < a[0] + BigInt(a[1]);

/** What a successful command does to the model. States come from the command table. */
export function applySuccess(w: World, call: Call, out: Fields): void {
	const { model } = w;
	const { name, fields } = call;
	const rule: CommandRule = COMMANDS[name];
	if (rule.kind === 'creating') add(w, call, num(out, 'handle'));
	if (rule.kind === 'guest') {
		const guest = model.guests.get(num(fields, 'handle'));
		if (guest === undefined) throw new Error(`${name}: expected a guest in the model, got none`);
		onGuest(w, call, guest);
		if (rule.next === GuestState.UNINIT) model.guests.delete(guest.handle);
		else if (rule.next !== undefined) guest.state = rule.next;
		if (rule.next === GuestState.UNINIT && model.guests.size === 0) model.platform = PlatformState.INIT;
		if (guest.asid !== 0 && isRunnable(guest)) model.asids.set(guest.asid, 'in-use');
		return;
	}
	if (name === 'SHUTDOWN') forget(model);
	if (name === 'INIT') start(model, 'flash', fields);
	if (name === 'INIT_EX') start(model, big(fields, 'nvPaddr') === 0n ? 'flash' : 'nv', fields);
	if (name === 'PLATFORM_RESET') model.flashEmpty = true;
	if (name === 'PEK_GEN') rekey(model, { pek: ++model.serial, external: false });
	if (name === 'PDH_GEN') rekey(model, {});
	if (name === 'PEK_CERT_IMPORT') rekey(model, { external: true });
	if (name === 'DOWNLOAD_FIRMWARE') model.build = 16;
	if (name === 'DF_FLUSH') flush(model);
	if (rule.kind === 'platform' && rule.next !== undefined) model.platform = rule.next;
}

/** Every dirty ASID is clean now; the model keeps those that are not dirty. */
function flush(model: Model): void {
	model.wbinvd = true;
	if (model.platform === PlatformState.UNINIT) return;
	for (let asid = 1; asid <= 509; asid++)
		if ((model.asids.get(asid) ?? 'dirty') === 'dirty') model.asids.set(asid, 'clean');
}

/** What a refusal does: nothing, but for INIT. */
export function applyFailure({ model }: World, { name }: Call, status: string): void {
	if (status === 'SECURE_DATA_INVALID') model.nv = 'empty';
	const started = (name === 'INIT' || name === 'INIT_EX') && model.platform === PlatformState.UNINIT;
	if (started) model.wbinvd = undefined;
}

/** Whether the guest's memory is nobody else's to see. */
export const isSecret = ({ policy }: ModelGuest): boolean => (policy & Policy.NODBG) !== 0;
