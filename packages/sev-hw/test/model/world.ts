import { type Hash, seededRandom } from '@cvm/crypto';
import { NV_SIZE } from '../../src/abi/buffers.js';
import { GuestState, type PlatformState } from '../../src/abi/states.js';
import { buildFirmwareImage } from '../../src/fake-amd/index.js';
import { type certificatesOf, createRig, initialised, MIB, provider, type Rig } from '../rig.js';

/** A command's fields by name, as `Rig.command` takes them. */
export type Fields = Record<string, number | bigint | Uint8Array>;

/** Where the host of the model keeps what: one page or more each, so that a noisy length hits nothing else of value. */
export const AT = {
	header: 0x120000n,
	payload: 0x121000n,
	pdh: 0x128000n,
	chain: 0x129000n,
	amd: 0x12c000n,
	session: 0x12d000n,
	out: 0x12e000n,
	out2: 0x130000n,
	swapped: 0x134000n,
	entry: 0x135000n,
	ids: 0x136000n,
	image: 0x137000n,
	nv: 0x140000n,
	tmr: BigInt(2 * MIB),
	end: BigInt(3 * MIB),
} as const;

/** Pages that guests of the model have: private ones, and everybody's noise. */
export const PAGES: readonly bigint[] = Array.from({ length: 8 }, (_, i) => 0x110000n + BigInt(i) * 0x1000n);

/** Pages for save areas: not among the noise, or none would last. */
export const SAVE_AREAS: readonly bigint[] = PAGES.map((page) => page + 0x8000n);

interface Keys {
	readonly tek: Uint8Array;
	readonly tik: Uint8Array;
}

/** A guest as the model knows it. */
export interface ModelGuest {
	readonly handle: number;
	/** No other context ever had or will have this number. */
	readonly serial: number;
	readonly policy: number;
	state: GuestState;
	/** 0: not bound. */
	asid: number;
	/** Names the session whose keys the channel has; `zero` without one. */
	channel: string;
	/** The channel's keys, if the model's peer made them. */
	keys: Keys | undefined;
	digest: Hash;
	launchDigest: Uint8Array;
	measure: Uint8Array;
	/** Save areas, with the ciphertext that stood there. */
	readonly saveAreas: { readonly page: bigint; readonly ciphertext: Buffer }[];
}

/** A session buffer with its certificate, for a PDH of this platform. */
export interface Ticket {
	readonly cert: Uint8Array;
	readonly session: Uint8Array;
	readonly policy: number;
	/** Which of the platform's successive PDHs it was made for. */
	readonly pdh: number;
	readonly channel: string;
	readonly keys: Keys | undefined;
}

/** A packet as it lies in DRAM. */
export interface Packet {
	readonly header: Uint8Array;
	readonly payload: Uint8Array;
	readonly channel: string;
	/** First byte under the MAC. */
	readonly context: number;
	/** For a launch secret: the measurement that it answers to, in hex. */
	readonly measure?: string;
}

/** What one SWAP_OUT made. */
export interface Swapped {
	readonly page: Uint8Array;
	readonly entry: Uint8Array;
	readonly flags: number;
	readonly serial: number;
}

export type AsidState = 'dirty' | 'clean' | 'allocated' | 'in-use';

/** The abstract machine: all that decides what the firmware answers. */
export interface Model {
	platform: PlatformState;
	es: boolean;
	external: boolean;
	/** Counts the PDHs and PEKs that the platform has had. */
	pdh: number;
	pek: number;
	/** Whether the keys are kept in the memory that INIT_EX was given; else in the flash. */
	inMemory: boolean;
	nv: 'invalid' | 'empty' | 'valid';
	/** What is kept in each place. */
	readonly kept: Record<'flash' | 'nv', { pdh: number; pek: number; external: boolean }>;
	flashEmpty: boolean;
	build: number;
	/** Unknown after an INIT that failed. */
	wbinvd: boolean | undefined;
	readonly asids: Map<number, AsidState>;
	readonly guests: Map<number, ModelGuest>;
	serial: number;
	readonly packets: Packet[];
	readonly tickets: Ticket[];
	readonly swapped: Swapped[];
	/** Each key with each IV that encrypted under it. */
	readonly ivs: Set<string>;
}

/** A machine, the model of it, and what a host has at hand. */
export interface World {
	readonly rig: Rig;
	readonly model: Model;
	/** Sixteen bytes that only guests with NODBG hold: nobody may ever see them. */
	readonly canary: Buffer;
	readonly image: Uint8Array;
	readonly other: ReturnType<typeof certificatesOf>;
	readonly signedCek: Uint8Array;
	readonly amd: Uint8Array;
	/** DRAM as it must be. */
	readonly shadow: Buffer;
	/** The host writes: into DRAM and into its shadow. */
	poke(at: bigint, data: Uint8Array): void;
}

let images: Uint8Array | undefined;

export function createWorld(seed: string, o: Pick<World, 'other' | 'signedCek' | 'amd'>): World {
	const rig = createRig({ dramBytes: Number(AT.end) });
	// Making the first keys is slow; PLATFORM_RESET and PEK_GEN make others.
	rig.nv.content = initialised().nv.content;
	rig.random.reseed(seed);
	const shadow = Buffer.from(rig.machine.dram);
	images ??= buildFirmwareImage(provider, { major: 0, minor: 24, build: 16 });
	const model: Model = {
		platform: 0,
		es: false,
		external: false,
		pdh: 1,
		pek: 1,
		inMemory: false,
		nv: 'invalid',
		kept: { flash: { pdh: 1, pek: 1, external: false }, nv: { pdh: 0, pek: 0, external: false } },
		flashEmpty: false,
		build: rig.platform.version.build,
		wbinvd: false,
		asids: new Map(),
		guests: new Map(),
		serial: 1,
		packets: [],
		tickets: [],
		swapped: [],
		ivs: new Set(),
	};
	const poke = (at: bigint, data: Uint8Array) => {
		rig.machine.dram.set(data, Number(at));
		shadow.set(data, Number(at));
	};
	poke(AT.nv, new Uint8Array(NV_SIZE).fill(7));
	const canary = Buffer.from(seededRandom(`${seed} canary`).bytes(16));
	return { rig, model, canary, image: images, shadow, poke, ...o };
}

export const isBound = ({ asid }: ModelGuest): boolean => asid !== 0;
export const asidState = ({ asids }: Model, asid: number): AsidState => asids.get(asid) ?? 'dirty';
export const isRunnable = ({ state }: ModelGuest): boolean =>
	state === GuestState.RUNNING || state === GuestState.SUPDATE;

/** Adds to a list that keeps its last entries only. */
export function remember<T>(list: T[], entry: T, limit = 8): void {
	list.push(entry);
	if (list.length > limit) list.shift();
}
