import type { CryptoProvider, RandomSource } from '@cvm/crypto';
import type { FirmwareVersion } from './abi/policy.js';
import { PlatformState } from './abi/states.js';
import { type ArkPin, readAmdCertificate } from './certificates/amd-certificate.js';
import { openEngine } from './engine/engine.js';
import { openKeySlotWriter } from './engine/key-slots.js';
import { createSilicon, openSilicon, type SiliconHandle } from './engine/silicon-state.js';
import { chipIdentity } from './fake-amd/chip.js';
import { FAKE_ASK_KEY } from './fake-amd/published-keys.js';
import { fakeArk } from './fake-amd/roots.js';
import { type GenerationName, generationOf, memoryAddressBits, type SevGeneration } from './generations.js';
import { createAsidTable } from './psp/asids.js';
import { createPsp, type Psp } from './psp/firmware.js';
import { createGuestTable } from './psp/guests.js';
import { DEFAULT_OPTIONS, type FirmwareOptions } from './psp/options.js';
import { type NvStorage, openIdentityStore } from './psp/persistence.js';
import type { Platform } from './psp/platform.js';
import { createSaveAreaTable } from './psp/save-areas.js';
import { openSystemMemory } from './psp/system-memory.js';
import { openIntegritySlots } from './vmsa/integrity.js';

/** What a machine is made of. */
export interface SevMachineOptions {
	/** Whole 4 KiB pages, at least 1 MiB. */
	readonly dramBytes: number;
	readonly provider: CryptoProvider;
	/** All keys, nonces and tweak constants come from here. */
	readonly random: RandomSource;
	/** Names the chip: its id, endorsement key and storage key. The same seed is the same chip. */
	readonly chipSeed: string;
	/** With 2, GET_ID can answer two ids, the second that of the chip `${chipSeed}, socket 2`. One socket by default. */
	readonly sockets?: 1 | 2;
	/** The SPI flash; by default one that lasts as long as the machine. */
	readonly nv?: NvStorage;
	/** 0.24 build 15 by default. */
	readonly version?: FirmwareVersion;
	/** A name of `GENERATIONS`, or a generation of one's own: `{ ...GENERATIONS.rome, maxAsid: 3 }`. `milan` by default. */
	readonly generation?: GenerationName | SevGeneration;
	/** The root that SEND_START accepts under POLICY.SEV; by default the fake one of `@cvm/sev-hw/fake-amd`. */
	readonly trustedRoot?: ArkPin;
	/** What public sources leave open; see the fields for the defaults. */
	readonly options?: Partial<FirmwareOptions>;
	/** Core complexes of 8 cores each, for WBINVD, DF_FLUSH and ACTIVATE_EX: 1 … 128, 1 by default. */
	readonly coreComplexes?: number;
}

/** One machine with SEV: memory, its encryption engine, and the firmware. */
export interface SevMachine {
	/** Whole DRAM from system-physical address 0, as the host sees it without a C-bit: ciphertext where guests are private. */
	readonly dram: Uint8Array;
	/** For `openMemoryController` of `@cvm/sev-hw/silicon`, also in another thread. */
	readonly silicon: SiliconHandle;
	readonly psp: Psp;
	/** What CPUID reports; `cpuid8000001F` makes registers of it. */
	readonly cpuid: SevGeneration;
	/**
	 * WBINVD on all cores of a complex, or of all complexes: DF_FLUSH wants it.
	 *
	 * @throws RangeError for a complex that the machine has not
	 */
	wbinvd(complex?: number): void;
}

/** Powers a machine on. The firmware is in UNINIT. @throws RangeError if a number in the options does not fit */
export function createSevMachine(o: SevMachineOptions): SevMachine {
	const { machine } = assembleMachine(o);
	return machine;
}

/** A machine and, for tests, the memory of its firmware. */
export function assembleMachine(o: SevMachineOptions): { machine: SevMachine; platform: Platform } {
	const { provider, random, chipSeed } = o;
	const version = o.version ?? { major: 0, minor: 24, build: 15 };
	for (const [name, value] of Object.entries(version)) {
		if (!Number.isInteger(value) || value < 0 || value > 0xff) {
			throw new RangeError(`version.${name}: expected a byte, got ${value}`);
		}
	}
	const generation = generationOf(o.generation ?? 'milan');
	if (o.dramBytes > 2 ** memoryAddressBits(generation)) {
		throw new RangeError(`dramBytes: expected at most 2^${memoryAddressBits(generation)}, got ${o.dramBytes}`);
	}
	const { maxAsid, encryption } = generation;
	const silicon = createSilicon({ dramBytes: o.dramBytes, maxAsid, random, encryption });
	const engine = openEngine(silicon, provider);
	const chip = chipIdentity(provider, chipSeed);
	const asids = createAsidTable(maxAsid, openKeySlotWriter(openSilicon(silicon).keySlots), o.coreComplexes ?? 1);
	const memory = openSystemMemory(engine.dram, generation);
	const flash = openIdentityStore(provider, random, chipSeed, o.nv ?? volatileStorage());
	const platform: Platform = {
		provider,
		random,
		version,
		generation,
		options: completeOptions(o.options),
		firmwareKey: FAKE_ASK_KEY,
		chipId: chip.id,
		secondChipId: o.sockets === 2 ? chipIdentity(provider, `${chipSeed}, socket 2`).id : undefined,
		cekPrivateKey: chip.cekPrivateKey,
		trustedRoot: o.trustedRoot ?? fakeRoot(provider),
		flash,
		store: flash,
		memory,
		engine,
		asids,
		guests: createGuestTable(),
		vmsaSlots: createSaveAreaTable(memory, openIntegritySlots(openSilicon(silicon).integritySlots)),
		state: PlatformState.UNINIT,
		config: 0,
		identity: undefined,
	};
	const psp = createPsp(platform);
	const machine = { dram: engine.dram, silicon, psp, cpuid: generation, wbinvd: asids.wbinvd };
	return { machine, platform };
}

/** Packets are gathered in scratch memory of a fixed size. */
const MAX_PACKET_LIMIT = 0x10000;

function completeOptions(given: Partial<FirmwareOptions> | undefined): FirmwareOptions {
	const options = { ...DEFAULT_OPTIONS, ...given };
	const { packetLimit } = options;
	if (!Number.isInteger(packetLimit) || packetLimit < 16 || packetLimit > MAX_PACKET_LIMIT) {
		throw new RangeError(`options.packetLimit: expected 16 … ${MAX_PACKET_LIMIT}, got ${packetLimit}`);
	}
	return options;
}

function fakeRoot(provider: CryptoProvider): ArkPin {
	const ark = readAmdCertificate(fakeArk);
	return ark === undefined ? {} : { keyId: ark.keyId, bodySha256: provider.digest('sha256', ark.body) };
}

function volatileStorage(): NvStorage {
	let content: Uint8Array | undefined;
	return {
		load: () => content,
		save: (data) => {
			content = data.slice();
		},
	};
}
