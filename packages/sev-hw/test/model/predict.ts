import { COMMANDS, type CommandName, type CommandRule } from '../../src/abi/commands.js';
import { Policy } from '../../src/abi/policy.js';
import {
	AT,
	asidState,
	type Fields,
	isBound,
	type Model,
	type ModelGuest,
	type Packet,
	type Swapped,
	type Ticket,
} from './world.js';

/*
 * What the firmware must answer, from the specification's checks in their order: SEV API 0.24 §5 and §6. States come from
 * the command table, everything else is written down here a second time.
 */

/** What the host put where its fields point, unless a field is noise. */
export interface Intent {
	readonly ticket?: Ticket;
	readonly packet?: Packet;
	readonly swapped?: Swapped;
	/** APIC ids for ACTIVATE_EX: all of them are of cores that exist. */
	readonly idsExist?: boolean;
	/** Certificates for SEND_START. */
	readonly target?: 'self' | 'other' | 'software';
	/** PEK that the certificates of PEK_CERT_IMPORT were made for. */
	readonly pek?: number;
	/** The fields as they were before noise was put in. */
	readonly sound: Fields;
}

/** Checks that the specification does not order: each that fails may be the answer. */
export type Stage = readonly (readonly [fails: boolean, ...statuses: string[]])[];
export type Stages = Iterable<Stage>;

export interface Given {
	readonly m: Model;
	readonly dram: Uint8Array;
	readonly name: CommandName;
	readonly f: Fields;
	readonly intent: Intent;
}
export type OnGuest = Given & { readonly guest: ModelGuest };

export const num = (f: Fields, key: string): number => Number(f[key] ?? 0);
export const big = (f: Fields, key: string): bigint => BigInt((f[key] as bigint | number | undefined) ?? 0n);

const LENGTH = 'INVALID_LENGTH';
const ADDRESS = 'INVALID_ADDRESS';
const PARAM = 'INVALID_PARAM';
const CBIT = 1n << 51n;
/** What a certificate that is none can be refused with. */
export const BAD_CERTIFICATE = ['INVALID_CERTIFICATE', 'BAD_SIGNATURE', 'UNSUPPORTED'] as const;
export const PACKET_LIMIT = 0x4000;
const MAX_ASID = 509;
export const FIRST_PLAIN_ASID = 100;

/** The address rules: within DRAM, outside ASEG and the TMR. */
function isReachable({ es }: Pick<Model, 'es'>, paddr: bigint, length: number): boolean {
	const start = paddr & ~CBIT;
	const end = start + BigInt(length);
	const meets = (from: bigint, to: bigint) => start < to && end > from;
	return end <= AT.end && !meets(0xa0000n, 0xc0000n) && !(es && meets(AT.tmr, AT.end));
}

export const unreachable = ({ m, f }: Given, ...ranges: readonly (readonly [string, number])[]): Stage => [
	[ranges.some(([key, length]) => !isReachable(m, big(f, key), length)), ADDRESS],
];
/** Whether fields are as the host meant them. */
export const untouched = ({ f, intent }: Pick<Given, 'f' | 'intent'>, ...keys: readonly string[]): boolean =>
	keys.every((key) => f[key] === intent.sound[key]);

/** Whether DRAM holds these bytes at an address: what noise points to may be genuine too. */
export function holds({ dram }: Pick<Given, 'dram'>, paddr: bigint, bytes: Uint8Array): boolean {
	const at = Number(paddr & ~CBIT);
	return Buffer.from(dram.buffer, dram.byteOffset + at, bytes.length).equals(bytes);
}

/** The session that certificate and session buffer of a command are of. */
export function ticketOf(given: Pick<Given, 'm' | 'dram' | 'f' | 'intent' | 'name'>): Ticket | undefined {
	const { m, f, intent } = given;
	const cert = big(f, given.name === 'LAUNCH_START' ? 'dhCertPaddr' : 'pdhCertPaddr');
	const known = [intent.ticket, ...m.tickets].filter((ticket) => ticket !== undefined);
	return known.find((t) => holds(given, cert, t.cert) && holds(given, big(f, 'sessionPaddr'), t.session));
}

const badSession = (given: Given): Stage => {
	const ticket = ticketOf(given);
	const genuine = ticket?.pdh === given.m.pdh && ticket.policy === num(given.f, 'policy') >>> 0;
	return [[!genuine, 'BAD_MEASUREMENT', ...(ticket === undefined ? ['INVALID_CERTIFICATE'] : [])]];
};

function* newGuest(given: Given): Stages {
	const { m, f } = given;
	const policy = num(f, 'policy') >>> 0;
	const [major, minor] = [(policy >>> 16) & 0xff, policy >>> 24];
	yield [[major > 0 || (major === 0 && minor > 24), 'POLICY_FAILURE']];
	yield [[(policy & 0xffc0) !== 0, 'POLICY_FAILURE']];
	const shared = num(f, 'handle');
	if (shared !== 0) {
		const other = m.guests.get(shared);
		yield [[other === undefined, 'INVALID_GUEST']];
		yield [[other?.policy !== policy || (policy & Policy.NOKS) !== 0, 'POLICY_FAILURE']];
	}
	yield [[(policy & Policy.ES) !== 0 && !m.es, 'UNSUPPORTED']];
}

function* session(given: Given, cert: string, certLen: string): Stages {
	const { f } = given;
	yield [[num(f, 'sessionLen') !== 128, LENGTH]];
	yield [...unreachable(given, ['sessionPaddr', 128]), [num(f, certLen) !== 2084, LENGTH]];
	yield unreachable(given, [cert, 2084]);
	yield badSession(given);
}

function* tmr({ f }: Given): Stages {
	if ((num(f, 'flags') & 1) === 0) return;
	yield [[big(f, 'tmrPaddr') % 0x100000n !== 0n, ADDRESS]];
	yield [[num(f, 'tmrLength') !== 0x100000, LENGTH]];
	yield [[!isReachable({ es: false }, big(f, 'tmrPaddr'), 0x100000), ADDRESS]];
}
const isZero = (value: Fields[string] | undefined): boolean =>
	value === undefined || (value instanceof Uint8Array ? value.every((b) => b === 0) : Number(value) === 0);
const badConfig = (f: Fields): boolean =>
	(num(f, 'flags') & ~1) !== 0 || !isZero(f['reserved']) || !isZero(f['reserved2']);

/** Checks of commands that name no guest, after the platform's state. */
const PLATFORM: Partial<Record<CommandName, (given: Given) => Stages>> = {
	*INIT(given) {
		yield [[badConfig(given.f), 'INVALID_CONFIG']];
		yield* tmr(given);
	},
	*INIT_EX(given) {
		const { m, f } = given;
		yield [[badConfig(f), 'INVALID_CONFIG']];
		yield [[num(f, 'length') !== 36, LENGTH]];
		const nv = big(f, 'nvPaddr');
		if (nv !== 0n) {
			yield [[nv % 4096n !== 0n, ADDRESS]];
			yield [[num(f, 'nvLength') !== 0x8000, LENGTH]];
			yield [[!isReachable({ es: false }, nv, 0x8000), ADDRESS]];
			yield [[m.nv === 'invalid', 'SECURE_DATA_INVALID']];
		}
		yield* tmr(given);
	},
	*DF_FLUSH({ m }) {
		yield m.wbinvd === undefined ? [[true, 'SUCCESS', 'WBINVD_REQUIRED']] : [[!m.wbinvd, 'WBINVD_REQUIRED']];
	},
	*PEK_CSR(given) {
		yield [[num(given.f, 'csrLen') < 2084, LENGTH]];
		yield unreachable(given, ['csrPaddr', 2084]);
	},
	*PEK_CERT_IMPORT(given) {
		const { m, f, intent } = given;
		yield [[m.external, 'ALREADY_OWNED']];
		yield [[num(f, 'pekLen') !== 2084 || num(f, 'ocaLen') !== 2084, LENGTH]];
		yield unreachable(given, ['pekPaddr', 2084], ['ocaPaddr', 2084]);
		yield [[!untouched(given, 'pekPaddr', 'ocaPaddr') || intent.pek !== m.pek, ...BAD_CERTIFICATE]];
	},
	*PDH_CERT_EXPORT(given) {
		yield [[num(given.f, 'pdhLen') < 2084 || num(given.f, 'certsLen') < 6252, LENGTH]];
		yield unreachable(given, ['pdhPaddr', 2084], ['certsPaddr', 6252]);
	},
	*DOWNLOAD_FIRMWARE(given) {
		yield [[big(given.f, 'fwPaddr') % 32n !== 0n, ADDRESS]];
		const intact = untouched(given, 'fwPaddr', 'fwLen');
		const reachable = isReachable(given.m, big(given.f, 'fwPaddr'), num(given.f, 'fwLen'));
		yield [[!intact, 'BAD_SIGNATURE', LENGTH, ...(reachable ? [] : [ADDRESS])]];
	},
	*GET_ID(given) {
		yield [[num(given.f, 'idLen') < 64, LENGTH]];
		yield unreachable(given, ['idPaddr', 64]);
	},
	*LAUNCH_START(given) {
		if (big(given.f, 'dhCertPaddr') !== 0n) yield* session(given, 'dhCertPaddr', 'dhCertLen');
		yield* newGuest(given);
	},
	*RECEIVE_START(given) {
		yield* session(given, 'pdhCertPaddr', 'pdhCertLen');
		yield* newGuest(given);
	},
};

function* headerQuery({ f }: Given): Stages {
	yield [[num(f, 'hdrLen') < 52, LENGTH]];
}
function* debugBuffer({ f }: Given): Stages {
	yield [[big(f, 'srcPaddr') % 16n !== 0n || big(f, 'dstPaddr') % 16n !== 0n, ADDRESS]];
	yield [[num(f, 'length') % 16 !== 0, LENGTH]];
}

/** Checks between the platform's state and the handle. */
const BEFORE_HANDLE: Partial<Record<CommandName, (given: Given) => Stages>> = {
	SEND_UPDATE_DATA: headerQuery,
	SEND_UPDATE_VMSA: headerQuery,
	DBG_DECRYPT: debugBuffer,
	DBG_ENCRYPT: debugBuffer,
	*ACTIVATE_EX({ f }) {
		yield [[num(f, 'exLen') !== 24, PARAM]];
	},
};

const isOwned = (m: Model, asid: number): boolean => ['allocated', 'in-use'].includes(asidState(m, asid));
const badAsid = (asid: number): boolean => asid < 1 || asid > MAX_ASID;

/** Checks between the handle and the guest's state. */
const BEFORE_STATE: Partial<Record<CommandName, (given: OnGuest) => Stages>> = {
	*ACTIVATE({ m, f, guest }) {
		yield [[badAsid(num(f, 'asid')), 'INVALID_ASID']];
		yield [[isOwned(m, num(f, 'asid')), 'ASID_OWNED']];
		yield [[isBound(guest), 'ACTIVE']];
	},
	*ACTIVATE_EX({ m, f, guest }) {
		yield [[badAsid(num(f, 'asid')), 'INVALID_ASID']];
		yield [[num(f, 'numIds') < 1 || num(f, 'numIds') > 1024, PARAM]];
		// Repeated with the same ASID it adds cores.
		if (guest.asid === num(f, 'asid')) return;
		yield [[isOwned(m, num(f, 'asid')), 'ASID_OWNED']];
		yield [[isBound(guest), 'ACTIVE']];
	},
	*LAUNCH_SECRET({ f }) {
		yield [[big(f, 'guestPaddr') % 16n !== 0n, ADDRESS]];
		const length = num(f, 'guestLen');
		const fits = length !== 0 && length % 16 === 0 && length <= PACKET_LIMIT && length === num(f, 'transLen');
		yield [[num(f, 'hdrLen') !== 52 || !fits, LENGTH]];
	},
	*SEND_START({ f }) {
		yield [[num(f, 'sessionLen') !== 128, LENGTH]];
	},
};

/** Checks after the guest's state: `guest-checks.ts` has them. */
export type RunChecks = Partial<Record<CommandName, (given: OnGuest) => Stages>>;

function* stages(given: Given, run: RunChecks): Stages {
	const { m, name, f } = given;
	const rule: CommandRule = COMMANDS[name];
	if (name === 'LAUNCH_UPDATE_VMSA') yield [[num(f, 'length') !== 4096, LENGTH]];
	yield [[!rule.platform.includes(m.platform), 'INVALID_PLATFORM_STATE']];
	if (rule.kind !== 'guest') {
		yield* PLATFORM[name]?.(given) ?? [];
		return;
	}
	yield* BEFORE_HANDLE[name]?.(given) ?? [];
	const guest = m.guests.get(num(f, 'handle'));
	yield [[guest === undefined, 'INVALID_GUEST']];
	if (guest === undefined) return;
	yield* BEFORE_STATE[name]?.({ ...given, guest }) ?? [];
	yield [[!rule.guest.includes(guest.state), 'INVALID_GUEST_STATE']];
	yield* run[name]?.({ ...given, guest }) ?? [];
}

/** The statuses that the firmware may answer with: one, unless the sources leave it open or the contents are noise. */
export function predictWith(given: Given, run: RunChecks): readonly string[] {
	for (const stage of stages(given, run)) {
		const failing = stage.filter(([fails]) => fails).flatMap(([, ...statuses]) => statuses);
		if (failing.length > 0) return [...new Set(failing)];
	}
	return ['SUCCESS'];
}
