import { COMMANDS, type CommandName, type CommandRule, type GuestRule } from '../../src/abi/commands.js';
import { Policy } from '../../src/abi/policy.js';
import { GuestState } from '../../src/abi/states.js';
import {
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	signSevCertificate,
} from '../../src/certificates/sev-certificate.js';
import { sealPacket } from '../../src/channel/packet.js';
import { csrOf } from '../../src/psp/identity.js';
import { scalar } from '../fake-platform.js';
import { peerOf, provider } from '../rig.js';
import { type Dice, NOISE_ADDRESSES, NOISE_NUMBERS, POLICIES, RARE_POLICIES } from './dice.js';
import type { Intent } from './predict.js';
import {
	AT,
	type Fields,
	isBound,
	type ModelGuest,
	PAGES,
	type Packet,
	remember,
	SAVE_AREAS,
	type Ticket,
	type World,
} from './world.js';

/** A command for the firmware, and what the host meant by it. */
export interface Call {
	readonly name: CommandName;
	readonly fields: Fields;
	readonly intent: Intent;
}

interface Picking {
	readonly w: World;
	readonly d: Dice;
}

const UNBOUND: readonly CommandName[] = ['ACTIVATE', 'ACTIVATE_EX', 'DECOMMISSION'];

/** Whether state, ASID and policy of a guest are what a command on guests wants. */
function fits(name: CommandName, guest: ModelGuest): boolean {
	const rule: CommandRule = COMMANDS[name];
	const es = !name.endsWith('_VMSA') || (guest.policy & Policy.ES) !== 0;
	return rule.kind === 'guest' && rule.guest.includes(guest.state) && isBound(guest) !== UNBOUND.includes(name) && es;
}

/** A guest that the command is legal for, if there is one and luck has it; else any, else nobody. */
function pickGuest({ w, d }: Picking, name: CommandName): ModelGuest | undefined {
	const guests = [...w.model.guests.values()];
	const fit = guests.filter((guest) => COMMANDS[name].kind !== 'guest' || fits(name, guest));
	if (fit.length > 0 && !d.once(8)) return d.oneOf(fit);
	return guests.length > 0 && !d.once(6) ? d.oneOf(guests) : undefined;
}

/** For a platform without keys: it is refused before anybody reads it. */
const NO_TICKET: Ticket = {
	cert: new Uint8Array(2084),
	session: new Uint8Array(128),
	policy: 0,
	pdh: 0,
	channel: 'none',
	keys: undefined,
};

/** A session for the platform's present PDH, or an older one. Sessions may be used again: nothing forbids it. */
function ticketFor({ w, d }: Picking): Ticket {
	const { model, rig } = w;
	const fresh = model.tickets.filter(({ pdh }) => pdh === model.pdh);
	if (rig.platform.identity === undefined) return model.tickets[0] ?? NO_TICKET;
	if (fresh.length > 3 && !d.once(10)) return d.oneOf(d.once(10) ? model.tickets : fresh);
	const policy = d.once(20) ? d.oneOf(RARE_POLICIES) : d.oneOf(POLICIES);
	const seed = `peer ${model.serial++}`;
	const made = peerOf(rig, policy, seed);
	const ticket = { ...made, policy: policy >>> 0, pdh: model.pdh, channel: seed };
	remember(model.tickets, ticket, 12);
	return ticket;
}

const plaintextFor = ({ w, d }: Picking, guest: ModelGuest | undefined, length: number): Uint8Array => {
	const out = new Uint8Array(length).fill(d.below(256));
	if (guest !== undefined && (guest.policy & Policy.NODBG) !== 0) out.set(w.canary.subarray(0, length));
	return out;
};

const zeroKeys = { tek: new Uint8Array(16), tik: new Uint8Array(16) };

/** A packet that the guest should take, one that somebody sent, or a broken one. */
function packetFor(p: Picking, name: CommandName, guest: ModelGuest | undefined, length: number): Packet {
	const { w, d } = p;
	const secret = name === 'LAUNCH_SECRET';
	const sent = w.model.packets.filter(({ channel }) => channel === guest?.channel);
	if (!secret && sent.length > 0 && (guest?.keys === undefined || d.once(3))) return d.oneOf(sent);
	if (w.model.packets.length > 0 && d.once(12)) return d.oneOf(w.model.packets);
	const keys = guest?.keys ?? zeroKeys;
	const channel = guest?.keys === undefined ? 'zero' : guest.channel;
	const context = secret ? 1 : name === 'RECEIVE_UPDATE_VMSA' ? w.rig.platform.options.vmsaPacketContext : 2;
	const measure = secret ? (guest?.measure ?? new Uint8Array(32)) : undefined;
	const sealed = sealPacket(provider, keys, {
		context,
		iv: d.bytes(16),
		plaintext: plaintextFor(p, guest, length),
		...(measure && { measure }),
	});
	const hex = measure && { measure: Buffer.from(measure).toString('hex') };
	if (!d.once(12)) return { ...sealed, channel, context, ...hex };
	const payload = new Uint8Array(sealed.payload);
	const at = d.below(payload.length);
	payload[at] = (payload[at] ?? 0) ^ 1;
	return { header: sealed.header, payload, channel: 'broken', context, ...hex };
}

/** Certificates and signature of an owner over the platform's PEK. */
function owner({ rig }: World): { pek: Uint8Array; oca: Uint8Array } | undefined {
	const { identity } = rig.platform;
	if (identity === undefined) return undefined;
	const signer = { usage: CertUsage.OCA, algo: CertAlgo.ECDSA_SHA256, privateKey: scalar(0x21) };
	const key = provider.p384.publicKey(signer.privateKey);
	const oca = buildSevCertificate({ version: { major: 0, minor: 24 }, usage: signer.usage, algo: signer.algo, key });
	signSevCertificate(provider, oca, signer);
	const pek = new Uint8Array(csrOf(identity));
	signSevCertificate(provider, pek, signer);
	return { pek, oca };
}

function target(p: Picking): { kind: 'self' | 'other' | 'software'; pdh: Uint8Array; chain: Uint8Array } {
	const { w, d } = p;
	const { identity } = w.rig.platform;
	const kind = identity === undefined ? 'other' : d.oneOf(['self', 'self', 'other', 'software'] as const);
	if (kind === 'self' && identity !== undefined) {
		const chain = [identity.pek.certificate, identity.oca.certificate, w.signedCek].flatMap((c) => Array.from(c));
		return { kind, pdh: identity.pdh.certificate, chain: Uint8Array.from(chain) };
	}
	const pdh = kind === 'software' ? peerOf(w.rig, 0).cert : w.other.pdh;
	return { kind, pdh, chain: w.other.platform };
}

type Maker = (
	p: Picking,
	guest: ModelGuest | undefined,
) => readonly [fields: Fields, intent?: Omit<Intent, 'sound'> | undefined];

const receive =
	(name: CommandName, sizes: readonly number[], pages = PAGES): Maker =>
	(p, guest) => {
		const packet = packetFor(p, name, guest, p.d.oneOf(sizes));
		p.w.poke(AT.header, packet.header);
		p.w.poke(AT.payload, packet.payload);
		const { length } = packet.payload;
		const place = { hdrPaddr: AT.header, hdrLen: 52, transPaddr: AT.payload, transLen: length };
		return [{ ...place, guestPaddr: p.d.oneOf(pages), guestLen: length }, { packet }];
	};
const send = (at: bigint, length: number): Fields => ({
	hdrPaddr: AT.out,
	hdrLen: 52,
	guestPaddr: at,
	guestLen: length,
	transPaddr: AT.out2,
	transLen: length,
});
const creating = (p: Picking, certField: string, ticket: Ticket): Fields => {
	p.w.poke(AT.pdh, ticket.cert);
	p.w.poke(AT.session, ticket.session);
	const handle = p.d.once(8) ? p.d.below(5) : 0;
	return {
		handle,
		policy: ticket.policy,
		[`${certField}Paddr`]: AT.pdh,
		[`${certField}Len`]: 2084,
		sessionPaddr: AT.session,
		sessionLen: 128,
	};
};
const init = ({ d }: Picking): Fields => (d.once(3) ? {} : { flags: 1, tmrPaddr: AT.tmr, tmrLength: 0x100000 });
const asidOf = ({ d }: Picking, guest: ModelGuest | undefined): number =>
	(guest !== undefined && (guest.policy & Policy.ES) !== 0 ? 1 : 100) + d.below(6);
const debug: Maker = ({ d }) => [
	{ srcPaddr: d.oneOf(PAGES), dstPaddr: d.oneOf(PAGES), length: d.oneOf([16, 48, 4096]) },
];

/** Fields that ought to succeed, and what lies where they point. */
const MAKERS: Partial<Record<CommandName, Maker>> = {
	INIT: (p) => [init(p)],
	INIT_EX: (p) => [{ ...init(p), length: 36, ...(p.d.once(3) ? {} : { nvPaddr: AT.nv, nvLength: 0x8000 }) }],
	PEK_CSR: () => [{ csrPaddr: AT.out, csrLen: 2084 }],
	PEK_CERT_IMPORT: ({ w }) => {
		const made = owner(w);
		if (made !== undefined) w.poke(AT.pdh, made.pek);
		if (made !== undefined) w.poke(AT.chain, made.oca);
		const intent = made && { pek: w.model.pek };
		return [{ pekPaddr: AT.pdh, pekLen: 2084, ocaPaddr: AT.chain, ocaLen: 2084 }, intent];
	},
	PDH_CERT_EXPORT: () => [{ pdhPaddr: AT.out, pdhLen: 2084, certsPaddr: AT.out2, certsLen: 6252 }],
	DOWNLOAD_FIRMWARE: ({ w }) => {
		w.poke(AT.image, w.image);
		return [{ fwPaddr: AT.image, fwLen: w.image.length }];
	},
	GET_ID: () => [{ idPaddr: AT.out, idLen: 64 }],
	ACTIVATE: (p, guest) => [{ asid: asidOf(p, guest) }],
	ACTIVATE_EX: (p, guest) => {
		const ids = [p.d.below(8), p.d.once(8) ? 8 + p.d.below(100) : p.d.below(8)];
		p.w.poke(AT.ids, Uint8Array.from(ids.flatMap((id) => [id, 0, 0, 0])));
		const asid = guest?.asid !== 0 && guest !== undefined && p.d.once(2) ? guest.asid : asidOf(p, guest);
		return [{ exLen: 24, asid, numIds: 2, idsPaddr: AT.ids }, { idsExist: ids.every((id) => id < 8) }];
	},
	COPY: ({ d }) => [{ srcPaddr: d.oneOf(PAGES), dstPaddr: d.oneOf(PAGES), length: 4096 }],
	LAUNCH_START: (p) => {
		const ticket = ticketFor(p);
		const fields = creating(p, 'dhCert', ticket);
		return p.d.once(2) ? [fields, { ticket }] : [{ handle: fields['handle'] ?? 0, policy: ticket.policy }];
	},
	LAUNCH_UPDATE_DATA: ({ d }) => [{ paddr: d.oneOf(PAGES), length: d.oneOf([16, 64, 4096]) }],
	LAUNCH_UPDATE_VMSA: ({ d }) => [{ paddr: d.oneOf(SAVE_AREAS), length: 4096 }],
	LAUNCH_MEASURE: () => [{ paddr: AT.out, length: 48 }],
	LAUNCH_SECRET: receive('LAUNCH_SECRET', [16, 32, 4096]),
	ATTESTATION: ({ d }) => [{ paddr: AT.out, mnonce: d.bytes(16), length: 208 }],
	SEND_START: (p) => {
		const { kind, pdh, chain } = target(p);
		p.w.poke(AT.pdh, pdh);
		p.w.poke(AT.chain, chain);
		p.w.poke(AT.amd, p.w.amd);
		const certs = { pdhCertPaddr: AT.pdh, pdhCertLen: 2084, platCertsPaddr: AT.chain, platCertsLen: 6252 };
		const fields = { ...certs, amdCertsPaddr: AT.amd, amdCertsLen: p.w.amd.length };
		return [{ ...fields, sessionPaddr: AT.session, sessionLen: 128 }, { target: kind }];
	},
	SEND_UPDATE_DATA: ({ d }) => [send(d.oneOf(PAGES), d.oneOf([16, 1024, 4096]))],
	SEND_UPDATE_VMSA: ({ d }, guest) => {
		const [first] = guest?.saveAreas ?? [];
		return [send(first === undefined || d.once(4) ? d.oneOf(PAGES) : first.page, 4096)];
	},
	RECEIVE_START: (p) => {
		const ticket = ticketFor(p);
		return [creating(p, 'pdhCert', ticket), { ticket }];
	},
	RECEIVE_UPDATE_DATA: receive('RECEIVE_UPDATE_DATA', [16, 512, 4096]),
	RECEIVE_UPDATE_VMSA: receive('RECEIVE_UPDATE_VMSA', [4096, 4096, 16], SAVE_AREAS),
	DBG_DECRYPT: debug,
	DBG_ENCRYPT: debug,
	SWAP_OUT: ({ d }) => [
		{ srcPaddr: d.oneOf(PAGES), dstPaddr: AT.out2, mdataPaddr: AT.out, softwareData: BigInt(d.below(1000)) },
	],
	SWAP_IN: ({ w, d }, guest) => {
		const own = w.model.swapped.filter(({ serial }) => serial === guest?.serial);
		const pool = own.length > 0 && !d.once(8) ? own : w.model.swapped;
		const swapped = pool.length > 0 ? d.oneOf(pool) : undefined;
		w.poke(AT.swapped, swapped?.page ?? new Uint8Array(4096));
		w.poke(AT.entry, swapped?.entry ?? new Uint8Array(64));
		const flags = (swapped?.flags ?? 0) | (d.once(4) ? 8 : 0);
		return [{ flags, srcPaddr: AT.swapped, dstPaddr: d.oneOf(PAGES), mdataPaddr: AT.entry }, swapped && { swapped }];
	},
};

/** Puts noise into one field. */
function spoil({ d }: Picking, name: CommandName, fields: Fields): Fields {
	const rule: CommandRule = COMMANDS[name];
	if (rule.buffer === undefined) return fields;
	const { fields: known } = rule.buffer as unknown as {
		fields: Record<string, { kind: string; type: string; size: number }>;
	};
	const [key, { type, size }] = d.oneOf(Object.entries(known).filter(([, { kind }]) => kind === 'value'));
	if (type.startsWith('bytes')) return { ...fields, [key]: d.bytes(size) };
	const small = () => (size < 4 ? d.below(2 ** (8 * size)) : d.oneOf(NOISE_NUMBERS));
	// The model follows one place for INIT_EX: noise is what must be refused.
	const addresses = key === 'nvPaddr' ? [0xa0000n, 0x111800n, AT.end, 1n << 52n] : NOISE_ADDRESSES;
	return { ...fields, [key]: size === 8 ? d.oneOf(addresses) : small() };
}

/** A call of one command: sound more often than not. */
export function callOf(p: Picking, name: CommandName): Call {
	const rule: CommandRule = COMMANDS[name];
	const named = rule.kind === 'guest' || name === 'GUEST_STATUS';
	const guest = named ? pickGuest(p, name) : undefined;
	const [made, intent] = MAKERS[name]?.(p, guest) ?? [{}];
	const sound = named ? { handle: guest?.handle ?? p.d.oneOf([0, 99, 1024]), ...made } : made;
	const fields = p.d.once(5) ? spoil(p, name, sound) : sound;
	return { name, fields, intent: { ...intent, sound } };
}

const WEIGHTS: Partial<Record<CommandName, number>> = {
	SHUTDOWN: 1,
	PLATFORM_RESET: 3,
	PEK_GEN: 3,
	PEK_CERT_IMPORT: 5,
	PDH_GEN: 2,
	DECOMMISSION: 2,
	DEACTIVATE: 3,
	LAUNCH_MEASURE: 10,
	SEND_FINISH: 4,
	DF_FLUSH: 15,
	ACTIVATE: 30,
	LAUNCH_START: 15,
	RECEIVE_START: 15,
};
const NAMES = Object.keys(COMMANDS) as CommandName[];
const POT: readonly CommandName[] = NAMES.flatMap((name) => new Array<CommandName>(WEIGHTS[name] ?? 12).fill(name));

/** For platforms that are down. */
const BELOW: readonly CommandName[] = [
	'INIT',
	'INIT',
	'INIT',
	'INIT_EX',
	'INIT_EX',
	'PLATFORM_RESET',
	'DOWNLOAD_FIRMWARE',
];
/** Ends of a guest's life, or of one of its phases: seldom, so that something happens in it. */
const ENDING: readonly CommandName[] = [
	'DECOMMISSION',
	'DEACTIVATE',
	'LAUNCH_MEASURE',
	'SEND_FINISH',
	'SEND_CANCEL',
	'RECEIVE_FINISH',
];

/** A command that some guest is ready for. */
function pickReady({ w, d }: Picking): CommandName | undefined {
	const guests = [...w.model.guests.values()];
	if (guests.length === 0) return undefined;
	const guest = d.oneOf(guests);
	const ready = NAMES.filter((name) => fits(name, guest));
	// What only this phase of a guest's life has comes first, or COPY, DBG_* and SWAP_* would drown it.
	const own = ready.filter((name) => (COMMANDS[name] as GuestRule).guest.length === 1);
	const pool = own.length > 0 && !d.once(3) ? own : ready;
	const name = pool.length > 0 ? d.oneOf(pool) : undefined;
	return name !== undefined && ENDING.includes(name) && !d.once(4) ? undefined : name;
}

/** The next command: any at any time, but so that guests get somewhere and do not pile up. */
export function pickName(p: Picking): CommandName {
	const { w, d } = p;
	const { model } = w;
	if (model.platform === 0 && d.once(3)) return d.oneOf(BELOW);
	const name = (d.once(2) ? pickReady(p) : undefined) ?? d.oneOf(POT);
	const crowded = model.guests.size >= 8 && COMMANDS[name].kind === 'creating';
	if (crowded) return d.oneOf(['DEACTIVATE', 'DECOMMISSION']);
	const isSent = [...model.guests.values()].some(({ state }) => state === GuestState.SENT);
	return isSent && d.once(30) ? d.oneOf(['DEACTIVATE', 'DECOMMISSION']) : name;
}
