import type { CommandName } from '../../src/abi/commands.js';
import type { GuestState, PlatformState } from '../../src/abi/states.js';

/*
 * The specification's table of commands, written down a second time and in another form than `src/abi/commands.ts`, so that
 * a wrong row there is found: SEV API 0.24 §4.3 (ids), §5 and §6 (buffers, states), copy-back as firmware 1.55.25.
 */

export type PlatformStateName = keyof typeof PlatformState;
export type GuestStateName = keyof typeof GuestState;

/** Initials of platform states: Uninit, Init, Working. */
type Platforms = 'U' | 'I' | 'W' | 'IW' | 'UIW';

/** One row of the specification's table. */
export interface SpecRow {
	readonly id: number;
	/** Bytes of the command buffer. */
	readonly bytes: number;
	readonly copyBack: 'none' | 'in' | 'out' | 'inout' | 'query';
	readonly platform: Platforms;
	/** Guest states, one digit each (the specification's numbers); absent: the command looks at no guest's state. */
	readonly guest?: string;
	/** State after success: of the platform, or of the guest that `guest` is about or that is made. `gone`: no context is left. */
	readonly next?: PlatformStateName | GuestStateName | 'gone';
	/** Makes a guest. */
	readonly creates?: true;
	/** Only for SEV-ES guests, else UNSUPPORTED. */
	readonly es?: true;
	/** Whether the guest must have an ASID (else INACTIVE) or must not (else ACTIVE). */
	readonly asid?: 'bound' | 'unbound';
}

const platform = (id: number, platforms: Platforms, bytes = 0, copyBack: SpecRow['copyBack'] = 'none'): SpecRow => ({
	id,
	bytes,
	copyBack,
	platform: platforms,
});
const guest = (id: number, states: string, bytes = 4, o: Partial<SpecRow> = {}): SpecRow => ({
	id,
	bytes,
	copyBack: 'in',
	platform: 'W',
	guest: states,
	...o,
});
const VALID = '123456';
const NOT_SENT = '12345';
const BOUND = { asid: 'bound' } as const;
const VMSA = { es: true, asid: 'bound' } as const;
const QUERY = { copyBack: 'query' } as const;

export const SPEC: Readonly<Record<CommandName, SpecRow>> = {
	INIT: { ...platform(0x001, 'U', 20, 'in'), next: 'INIT' },
	SHUTDOWN: { ...platform(0x002, 'UIW'), next: 'UNINIT' },
	PLATFORM_RESET: platform(0x003, 'U'),
	PLATFORM_STATUS: platform(0x004, 'UIW', 12, 'out'),
	PEK_GEN: platform(0x005, 'I'),
	PEK_CSR: platform(0x006, 'IW', 12, 'query'),
	PEK_CERT_IMPORT: platform(0x007, 'I', 28, 'in'),
	PDH_CERT_EXPORT: platform(0x008, 'IW', 28, 'query'),
	PDH_GEN: platform(0x009, 'IW'),
	DF_FLUSH: platform(0x00a, 'UIW'),
	DOWNLOAD_FIRMWARE: platform(0x00b, 'U', 12, 'in'),
	GET_ID: platform(0x00c, 'UIW', 12, 'query'),
	INIT_EX: { ...platform(0x00d, 'U', 36, 'in'), next: 'INIT' },
	NOP: platform(0x00e, 'UIW'),
	DECOMMISSION: guest(0x020, VALID, 4, { asid: 'unbound', next: 'gone' }),
	// Whether the guest is bound is looked at before its state: see `expectedStatus`.
	ACTIVATE: guest(0x021, NOT_SENT, 8, { asid: 'unbound' }),
	DEACTIVATE: guest(0x022, VALID, 4, BOUND),
	GUEST_STATUS: platform(0x023, 'IW', 13, 'inout'),
	COPY: guest(0x024, VALID, 24, BOUND),
	ACTIVATE_EX: guest(0x025, NOT_SENT, 24, { asid: 'unbound' }),
	LAUNCH_START: { ...platform(0x030, 'IW', 36, 'inout'), creates: true, next: 'LUPDATE' },
	LAUNCH_UPDATE_DATA: guest(0x031, '1', 20, BOUND),
	LAUNCH_UPDATE_VMSA: guest(0x032, '1', 20, VMSA),
	LAUNCH_MEASURE: guest(0x033, '1', 20, { ...QUERY, next: 'LSECRET' }),
	LAUNCH_SECRET: guest(0x034, '2', 52, BOUND),
	LAUNCH_FINISH: guest(0x035, '2', 4, { next: 'RUNNING' }),
	ATTESTATION: guest(0x036, '2346', 36, QUERY),
	SEND_START: guest(0x040, '3', 68, { ...QUERY, next: 'SUPDATE' }),
	SEND_UPDATE_DATA: guest(0x041, '4', 52, { ...QUERY, ...BOUND }),
	SEND_UPDATE_VMSA: guest(0x042, '4', 52, { ...QUERY, ...VMSA }),
	SEND_FINISH: guest(0x043, '4', 4, { next: 'SENT' }),
	SEND_CANCEL: guest(0x044, '4', 4, { next: 'RUNNING' }),
	RECEIVE_START: { ...platform(0x050, 'IW', 36, 'inout'), creates: true, next: 'RUPDATE' },
	RECEIVE_UPDATE_DATA: guest(0x051, '5', 52, BOUND),
	RECEIVE_UPDATE_VMSA: guest(0x052, '5', 52, VMSA),
	RECEIVE_FINISH: guest(0x053, '5', 4, { next: 'RUNNING' }),
	DBG_DECRYPT: guest(0x060, VALID, 28, BOUND),
	DBG_ENCRYPT: guest(0x061, VALID, 28, BOUND),
	SWAP_OUT: guest(0x070, VALID, 40, { ...QUERY, ...BOUND }),
	SWAP_IN: guest(0x071, VALID, 32, BOUND),
};

/** States by their numbers: SEV API 0.24 §5.1.2 and §6.1.1. */
export const PLATFORM_STATES: readonly PlatformStateName[] = ['UNINIT', 'INIT', 'WORKING'];
export const GUEST_STATES: readonly GuestStateName[] = [
	'UNINIT',
	'LUPDATE',
	'LSECRET',
	'RUNNING',
	'SUPDATE',
	'RUPDATE',
	'SENT',
];

export const isLegalPlatform = ({ platform }: SpecRow, state: PlatformStateName): boolean =>
	(platform as string).includes(state.charAt(0));
export const isLegalGuest = ({ guest }: SpecRow, state: GuestStateName): boolean =>
	guest?.includes(`${GUEST_STATES.indexOf(state)}`) ?? true;

/**
 * Stages of a command, in the firmware's order: before anything; after the platform's state; after the handle; after the
 * guest's state; after SEV-ES; after the binding to an ASID.
 */
type Stage = 'first' | 'platform' | 'handle' | 'state' | 'es' | 'asid';

/** A command with one field that is wrong, and where in the order of checks that is noticed. */
export interface Flaw {
	readonly change: Readonly<Record<string, number | bigint>>;
	readonly at: Stage;
	readonly status: string;
	/** What is written into the command buffer along with the refusal. */
	readonly answers?: Readonly<Record<string, number>>;
}

const flaw = (change: Flaw['change'], at: Stage, status: string, answers?: Flaw['answers']): Flaw => ({
	change,
	at,
	status,
	...(answers && { answers }),
});
const LENGTH = 'INVALID_LENGTH';
const ADDRESS = 'INVALID_ADDRESS';
/** Above all DRAM, and aligned to everything. */
const NOWHERE = 0x4000_0000_0000n;
/** In the middle of a block of 16 bytes. */
const CROOKED = 0x100008n;

const HEADER_QUERY = flaw({ hdrLen: 51 }, 'platform', LENGTH, { hdrLen: 52 });
const packetFlaws = (lengths: readonly Flaw['change'][]) => [
	...lengths.map((change) => flaw(change, 'asid', LENGTH)),
	flaw({ guestPaddr: CROOKED }, 'asid', ADDRESS),
	flaw({ guestPaddr: NOWHERE }, 'asid', ADDRESS),
];
const activateFlaws = [flaw({ asid: 0 }, 'handle', 'INVALID_ASID'), flaw({ asid: 510 }, 'handle', 'INVALID_ASID')];
const debugFlaws = [
	flaw({ srcPaddr: CROOKED }, 'platform', ADDRESS),
	flaw({ dstPaddr: CROOKED }, 'platform', ADDRESS),
	flaw({ length: 17 }, 'platform', LENGTH),
	flaw({ length: 0 }, 'asid', 'INVALID_PARAM'),
];
const initFlaws = [
	flaw({ flags: 2 }, 'platform', 'INVALID_CONFIG'),
	flaw({ flags: 1, tmrPaddr: 0x280000n, tmrLength: 0x100000 }, 'platform', ADDRESS),
	flaw({ flags: 1, tmrPaddr: 0x300000n, tmrLength: 0xfffff }, 'platform', LENGTH),
];

export const FLAWS: Partial<Record<CommandName, readonly Flaw[]>> = {
	INIT: initFlaws,
	INIT_EX: [
		...initFlaws,
		flaw({ length: 35 }, 'platform', LENGTH),
		flaw({ nvPaddr: 0x180800n, nvLength: 0x8000 }, 'platform', ADDRESS),
		flaw({ nvPaddr: 0x180000n, nvLength: 0x7000 }, 'platform', LENGTH),
	],
	PEK_CSR: [flaw({ csrLen: 2083 }, 'platform', LENGTH, { csrLen: 2084 })],
	PEK_CERT_IMPORT: [flaw({ pekLen: 2083 }, 'platform', LENGTH), flaw({ ocaLen: 2085 }, 'platform', LENGTH)],
	PDH_CERT_EXPORT: [
		flaw({ pdhLen: 2083 }, 'platform', LENGTH, { pdhLen: 2084, certsLen: 6252 }),
		flaw({ certsLen: 6251 }, 'platform', LENGTH, { pdhLen: 2084, certsLen: 6252 }),
	],
	DOWNLOAD_FIRMWARE: [flaw({ fwPaddr: 0x100010n }, 'platform', ADDRESS)],
	GET_ID: [flaw({ idLen: 63 }, 'platform', LENGTH, { idLen: 64 })],
	ACTIVATE: activateFlaws,
	ACTIVATE_EX: [
		flaw({ exLen: 20 }, 'platform', 'INVALID_PARAM'),
		...activateFlaws,
		flaw({ numIds: 0 }, 'handle', 'INVALID_PARAM'),
		flaw({ numIds: 1025 }, 'handle', 'INVALID_PARAM'),
	],
	COPY: [
		flaw({ length: 0 }, 'asid', LENGTH),
		flaw({ length: 4112 }, 'asid', LENGTH),
		flaw({ srcPaddr: 0x100010n }, 'asid', ADDRESS),
		flaw({ dstPaddr: 0x100010n }, 'asid', ADDRESS),
	],
	LAUNCH_START: [
		flaw({ sessionLen: 127 }, 'platform', LENGTH),
		flaw({ dhCertLen: 2083 }, 'platform', LENGTH),
		flaw({ handle: 1000 }, 'platform', 'INVALID_GUEST'),
	],
	LAUNCH_UPDATE_DATA: [
		flaw({ paddr: CROOKED }, 'asid', ADDRESS),
		flaw({ length: 24 }, 'asid', LENGTH),
		flaw({ length: 0 }, 'asid', LENGTH),
	],
	LAUNCH_UPDATE_VMSA: [
		flaw({ length: 4080 }, 'first', LENGTH),
		flaw({ length: 0 }, 'first', LENGTH),
		flaw({ paddr: CROOKED }, 'asid', ADDRESS),
	],
	LAUNCH_MEASURE: [flaw({ length: 47 }, 'state', LENGTH, { length: 48 })],
	LAUNCH_SECRET: [
		flaw({ guestPaddr: CROOKED }, 'handle', ADDRESS),
		flaw({ hdrLen: 51 }, 'handle', LENGTH),
		flaw({ hdrLen: 53 }, 'handle', LENGTH),
		flaw({ guestLen: 0, transLen: 0 }, 'handle', LENGTH),
		flaw({ guestLen: 24, transLen: 24 }, 'handle', LENGTH),
		flaw({ transLen: 32 }, 'handle', LENGTH),
		flaw({ guestLen: 0x4010, transLen: 0x4010 }, 'handle', LENGTH),
	],
	ATTESTATION: [flaw({ length: 207 }, 'state', LENGTH, { length: 208 })],
	SEND_START: [
		flaw({ sessionLen: 127 }, 'handle', LENGTH, { sessionLen: 128 }),
		flaw({ sessionLen: 129 }, 'handle', LENGTH, { sessionLen: 128 }),
		flaw({ pdhCertLen: 2083 }, 'state', LENGTH),
	],
	SEND_UPDATE_DATA: [
		HEADER_QUERY,
		...packetFlaws([{ guestLen: 0 }, { guestLen: 24 }, { guestLen: 4096, transLen: 4080 }]),
	],
	SEND_UPDATE_VMSA: [
		HEADER_QUERY,
		...packetFlaws([{ guestLen: 0 }, { guestLen: 4104, transLen: 4104 }, { transLen: 4080 }]),
	],
	RECEIVE_START: [flaw({ sessionLen: 127 }, 'platform', LENGTH), flaw({ pdhCertLen: 2083 }, 'platform', LENGTH)],
	RECEIVE_UPDATE_DATA: packetFlaws([{ hdrLen: 51 }, { guestLen: 0, transLen: 0 }, { transLen: 32 }]),
	RECEIVE_UPDATE_VMSA: packetFlaws([{ hdrLen: 51 }, { guestLen: 0, transLen: 0 }, { transLen: 4080 }]),
	DBG_DECRYPT: debugFlaws,
	DBG_ENCRYPT: debugFlaws,
};

/** Where platform and guest stand when a command comes. */
export interface Situation {
	readonly platform: PlatformStateName;
	/** Of the handle that the command names; UNINIT: nobody has it. */
	readonly guest: GuestStateName;
	readonly bound: boolean;
	readonly es: boolean;
}

/** What the firmware answers to a command that is sound, or has one flaw: its checks in their order. */
export function expectedStatus(name: CommandName, { platform, guest, bound, es }: Situation, given?: Flaw): string {
	const row = SPEC[name];
	const activates = name === 'ACTIVATE' || name === 'ACTIVATE_EX';
	const isFlawedAt = (stage: Stage) => given?.at === stage;
	if (isFlawedAt('first')) return given?.status ?? '';
	if (!isLegalPlatform(row, platform)) return 'INVALID_PLATFORM_STATE';
	if (isFlawedAt('platform')) return given?.status ?? '';
	if (row.guest === undefined) return 'SUCCESS';
	if (guest === 'UNINIT') return 'INVALID_GUEST';
	if (isFlawedAt('handle')) return given?.status ?? '';
	if (activates && bound) return 'ACTIVE';
	if (!isLegalGuest(row, guest)) return 'INVALID_GUEST_STATE';
	if (isFlawedAt('state')) return given?.status ?? '';
	if (row.es && !es) return 'UNSUPPORTED';
	if (isFlawedAt('es')) return given?.status ?? '';
	if (row.asid === 'bound' && !bound) return 'INACTIVE';
	if (row.asid === 'unbound' && bound) return 'ACTIVE';
	return given?.status ?? 'SUCCESS';
}
