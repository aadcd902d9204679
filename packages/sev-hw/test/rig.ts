import { type RandomSource, seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { type Spa, spa, toHex } from '@cvm/layout';
import { CONFIG_ES, TMR_SIZE } from '../src/abi/buffers.js';
import { COMMANDS, type CommandName } from '../src/abi/commands.js';
import { Policy } from '../src/abi/policy.js';
import { GuestState } from '../src/abi/states.js';
import { statusName } from '../src/abi/status.js';
import {
	buildSevCertificate,
	CertAlgo,
	CertUsage,
	readSevCertificate,
	SEV_CERT_SIZE,
} from '../src/certificates/sev-certificate.js';
import { createSession } from '../src/channel/session.js';
import { openSilicon } from '../src/engine/silicon-state.js';
import { createKeyServer } from '../src/fake-amd/index.js';
import { assembleMachine, type SevMachine, type SevMachineOptions } from '../src/machine.js';
import type { NvStorage } from '../src/psp/persistence.js';
import type { Platform } from '../src/psp/platform.js';
import { openMemoryController } from '../src/silicon.js';

export const provider = nodeProvider;
const KIB = 1024;
export const MIB = 1024 * KIB;

type Fields = Record<string, number | bigint | Uint8Array>;
/** A command buffer after the command; the fields that tests ask for by name. */
type Out = Fields & {
	readonly handle?: number;
	readonly policy?: number;
	readonly state?: number;
	readonly asid?: number;
};
type Answer = { readonly status: string; readonly out: Out };

/** Bytes that the next draws return, before the seeded stream goes on. */
export interface ScriptedRandom extends RandomSource {
	readonly script: Uint8Array[];
	/** Goes on with another seeded stream. */
	reseed(seed: string): void;
}

export function scriptedRandom(seed: string): ScriptedRandom {
	let rest = seededRandom(seed);
	const script: Uint8Array[] = [];
	const fill = (out: Uint8Array): void => {
		const next = script.shift();
		if (next === undefined) rest.fill(out);
		else if (next.length === out.length) out.set(next);
		else throw new Error(`script: a draw of ${out.length} bytes met an entry of ${next.length}`);
	};
	return {
		script,
		fill,
		reseed: (next) => {
			rest = seededRandom(next);
		},
		bytes: (length) => {
			const out = new Uint8Array(length);
			fill(out);
			return out;
		},
	};
}

export function memoryStorage(): NvStorage & { content: Uint8Array | undefined } {
	const nv = {
		content: undefined as Uint8Array | undefined,
		load: () => nv.content,
		save: (data: Uint8Array) => {
			nv.content = data.slice();
		},
	};
	return nv;
}

/** A machine with what a host does to it: buffers are laid into DRAM, commands are given by name. */
export interface Rig {
	readonly machine: SevMachine;
	readonly platform: Platform;
	readonly random: ScriptedRandom;
	readonly nv: ReturnType<typeof memoryStorage>;
	/** Fresh zeroed DRAM on a page boundary. */
	allocate(bytes: number): Spa;
	/** Data in fresh DRAM. */
	put(data: Uint8Array): bigint;
	at(address: number | bigint, length: number): Uint8Array;
	command(name: CommandName, fields?: Fields): Answer;
	/** As `command`, and fails unless it succeeds. */
	must(name: CommandName, fields?: Fields): Answer['out'];
	/** All that a command can change, as one text; DRAM, unless it is left out, as a digest, without command buffers. */
	snapshot(o?: { readonly dram?: false }): string;
}

/** Digest of DRAM without the page of the rig's command buffers, which are the rig's doing. */
function digestOf(dram: Uint8Array): string {
	const end = BUFFER_AT + 4096;
	return toHex(provider.digest('sha256', dram.subarray(0, BUFFER_AT), dram.subarray(end)));
}

export function createRig(o: Partial<SevMachineOptions> & { seed?: string } = {}): Rig {
	const random = scriptedRandom(o.seed ?? 'rig');
	const nv = memoryStorage();
	const { machine, platform } = assembleMachine({
		dramBytes: 4 * MIB,
		provider,
		random,
		chipSeed: o.seed ?? 'rig',
		nv,
		...o,
	});
	let free = MIB;
	const rig: Rig = {
		machine,
		platform,
		random,
		nv,
		allocate: (bytes) => {
			const at = free;
			free += Math.ceil(bytes / 4096) * 4096;
			if (free > machine.dram.length) throw new Error('rig: out of DRAM');
			return spa(at);
		},
		put: (data) => {
			const at = rig.allocate(data.length);
			machine.dram.set(data, at);
			return BigInt(at);
		},
		at: (address, length) => machine.dram.slice(Number(address), Number(address) + length),
		command: (name, fields = {}) => {
			const rule = COMMANDS[name];
			if (!('buffer' in rule)) return { status: statusName(machine.psp.submit(rule.id, spa(0))), out: {} };
			const codec = rule.buffer as unknown as {
				size: number;
				encode(v: Fields): Uint8Array;
				decode(d: Uint8Array): Fields;
			};
			const at = BUFFER_AT;
			machine.dram.set(codec.encode(fields), at);
			const status = machine.psp.submit(rule.id, spa(at));
			return { status: statusName(status), out: codec.decode(rig.at(at, codec.size)) };
		},
		must: (name, fields) => {
			const { status, out } = rig.command(name, fields);
			if (status !== 'SUCCESS') throw new Error(`${name}: expected SUCCESS, got ${status}`);
			return out;
		},
		snapshot: ({ dram = true } = {}) => {
			const state = {
				...(dram && { dram: digestOf(machine.dram) }),
				slots: new Uint8Array(openSilicon(machine.silicon).keySlots),
				nv: nv.content,
				state: platform.state,
				config: platform.config,
				reserved: platform.memory.reserved,
				identity: platform.identity,
				asids: Array.from({ length: platform.asids.maxAsid + 1 }, (_, asid) =>
					platform.asids.complexes.map((complex) => platform.asids.stateOf(asid, complex)).join(),
				),
				saveAreas: [platform.vmsaSlots.count, platform.vmsaSlots.freeSlot()],
				guests: [...platform.guests.values()].map((g) => ({
					...g,
					digest: g.digest !== undefined,
					state: platform.guests.stateOf(g.handle),
				})),
			};
			const asText = (_: string, value: unknown) =>
				value instanceof Uint8Array
					? Buffer.from(value).toString('hex')
					: typeof value === 'bigint'
						? `${value}n`
						: value;
			return JSON.stringify(state, asText);
		},
	};
	return rig;
}

/** Where the rig lays command buffers: below what it allocates, above ASEG. */
export const BUFFER_AT = 0xf0000;

/** INIT, and all ASIDs clean; with `es`, SEV-ES on and the TMR in the last MiB of DRAM. */
export function initialised({ es = false, ...o }: Parameters<typeof createRig>[0] & { es?: boolean } = {}): Rig {
	const rig = createRig(o);
	// Making keys is slow: a chip with the same firmware takes up those of the first such rig.
	const chip = JSON.stringify([rig.platform.version, Array.from(rig.platform.chipId)]);
	if (o.nv === undefined) rig.nv.content = flashes.get(chip);
	rig.must('INIT', es ? { flags: CONFIG_ES, tmrPaddr: BigInt(tmrOf(rig)), tmrLength: TMR_SIZE } : {});
	if (rig.nv.content !== undefined) flashes.set(chip, rig.nv.content);
	// From here on draws are the same, whether keys were made or not.
	rig.random.reseed(`${o.seed ?? 'rig'} after INIT`);
	rig.machine.wbinvd();
	rig.must('DF_FLUSH');
	return rig;
}

/** Where {@link initialised} puts the trusted memory region. */
export const tmrOf = (rig: Rig): number => rig.machine.dram.length - TMR_SIZE;

const flashes = new Map<string, Uint8Array>();
const signedCeks = new Map<string, Uint8Array>();

/** The signed CEK certificate of a rig's chip; signing with a bare RSA key is slow as well. */
function signedCek({ platform: { chipId } }: Rig): Uint8Array {
	const known = signedCeks.get(toHex(chipId));
	const cek = known ?? createKeyServer(provider).cek(chipId);
	signedCeks.set(toHex(chipId), cek);
	return cek;
}

/** Certificates as a migration source wants them of this target: PDH, PEK ‖ OCA ‖ signed CEK, ASK ‖ ARK. */
export function certificatesOf(rig: Rig) {
	const pdhPaddr = rig.allocate(SEV_CERT_SIZE);
	const certsPaddr = rig.allocate(3 * SEV_CERT_SIZE);
	rig.must('PDH_CERT_EXPORT', {
		pdhPaddr: BigInt(pdhPaddr),
		pdhLen: SEV_CERT_SIZE,
		certsPaddr: BigInt(certsPaddr),
		certsLen: 3 * SEV_CERT_SIZE,
	});
	const server = createKeyServer(provider);
	const chain = rig.at(certsPaddr, 3 * SEV_CERT_SIZE);
	const signed = chain.slice();
	signed.set(signedCek(rig), 2 * SEV_CERT_SIZE);
	return {
		pdh: rig.at(pdhPaddr, SEV_CERT_SIZE),
		exported: new Uint8Array(chain),
		platform: new Uint8Array(signed),
		amd: server.askArk(),
	};
}

/** Fields of SEND_START towards a target with these certificates, laid into the source's DRAM. */
export function sendStartFields(rig: Rig, handle: number, to: ReturnType<typeof certificatesOf>) {
	return {
		handle,
		pdhCertPaddr: rig.put(to.pdh),
		pdhCertLen: to.pdh.length,
		platCertsPaddr: rig.put(to.platform),
		platCertsLen: to.platform.length,
		amdCertsPaddr: rig.put(to.amd),
		amdCertsLen: to.amd.length,
		sessionPaddr: BigInt(rig.allocate(128)),
		sessionLen: 128,
	};
}

export const ASID = 100;
/** For guests with SEV-ES. */
export const ES_ASID = 7;
/** The ASID of guests with this policy, unless a test wants another. */
const asidFor = (policy: number): number => ((policy & Policy.ES) === 0 ? ASID : ES_ASID);

/** Policy of test guests: debugging allowed, any API version. */
const OPEN_POLICY = 0;

export interface TestGuest {
	readonly handle: number;
	/** One page of guest memory, encrypted from LAUNCH_UPDATE_DATA on. */
	readonly page: bigint;
	/** The save area of a guest with SEV-ES, encrypted from LAUNCH_UPDATE_VMSA on; else 0. */
	readonly saveArea: bigint;
}

const PATTERN = Uint8Array.from({ length: 4096 }, (_, i) => (7 * i + 3) % 256);
export const patternPage = (): Uint8Array => PATTERN.slice();

/** A save area with something in every byte that the firmware leaves alone. */
export const patternVmsa = (): Uint8Array => Uint8Array.from({ length: 4096 }, (_, i) => (11 * i + 5) % 256);

/**
 * Takes a rig in INIT or WORKING and makes a guest in the given state, bound to {@link ASID} or {@link ES_ASID}, with
 * {@link patternPage} in it and, with SEV-ES, {@link patternVmsa}. One in RUPDATE has had neither yet.
 */
export function guestIn(rig: Rig, state: GuestState, policy = OPEN_POLICY, asid = asidFor(policy)): TestGuest {
	if (state === GuestState.RUPDATE) {
		const handle = Number(rig.must('RECEIVE_START', receiveStartFields(rig, policy)).handle);
		rig.must('ACTIVATE', { handle, asid });
		const page = rig.put(patternPage());
		return { handle, page, saveArea: 0n };
	}
	const handle = Number(rig.must('LAUNCH_START', { policy }).handle);
	rig.must('ACTIVATE', { handle, asid });
	const page = rig.put(patternPage());
	rig.must('LAUNCH_UPDATE_DATA', { handle, paddr: page, length: 4096 });
	const saveArea = (policy & Policy.ES) === 0 ? 0n : rig.put(patternVmsa());
	if (saveArea !== 0n) rig.must('LAUNCH_UPDATE_VMSA', { handle, paddr: saveArea, length: 4096 });
	const guest = { handle, page, saveArea };
	if (state === GuestState.LUPDATE) return guest;
	rig.must('LAUNCH_MEASURE', { handle, paddr: BigInt(rig.allocate(48)), length: 48 });
	if (state === GuestState.LSECRET) return guest;
	rig.must('LAUNCH_FINISH', { handle });
	if (state === GuestState.RUNNING) return guest;
	rig.must('SEND_START', sendStartFields(rig, handle, certificatesOf(rig)));
	if (state === GuestState.SUPDATE) return guest;
	rig.must('SEND_FINISH', { handle });
	return guest;
}

/** A peer that is not firmware: a guest owner, or somebody who plays the source of a migration. */
export function peerOf(rig: Rig, policy: number, seed = 'peer') {
	const privateKey = new Uint8Array(48).fill(0x11);
	const cert = buildSevCertificate({
		version: { major: 0, minor: 24 },
		usage: CertUsage.PDH,
		algo: CertAlgo.ECDH_SHA256,
		key: provider.p384.publicKey(privateKey),
	});
	const ours = readSevCertificate(rig.platform.identity?.pdh.certificate ?? new Uint8Array(0)).publicKey;
	if (ours === undefined) throw new Error('rig: expected a PDH');
	const { session, keys } = createSession(provider, seededRandom(seed), { privateKey, peer: ours, policy });
	return { cert, session, keys };
}

/** Fields of RECEIVE_START for a session of {@link peerOf}. */
export function receiveStartFields(rig: Rig, policy: number, { cert, session } = peerOf(rig, policy)) {
	return {
		policy,
		pdhCertPaddr: rig.put(cert),
		pdhCertLen: cert.length,
		sessionPaddr: rig.put(session),
		sessionLen: session.length,
	};
}

export const controllerOf = (rig: Rig) => openMemoryController(rig.machine.silicon, provider);
export { GuestState };
