import type { CryptoProvider, RandomSource } from '@cvm/crypto';
import type { FirmwareVersion } from './abi/policy.js';
import { PlatformState } from './abi/states.js';
import { type ArkPin, readAmdCertificate } from './certificates/amd-certificate.js';
import { openEngine } from './engine/engine.js';
import { openKeySlotWriter } from './engine/key-slots.js';
import { createSilicon, openSilicon, type SiliconHandle } from './engine/silicon-state.js';
import { chipIdentity } from './fake-amd/chip.js';
import { fakeArk } from './fake-amd/roots.js';
import { GENERATIONS, type GenerationName, type SevGeneration } from './generations.js';
import { createAsidTable } from './psp/asids.js';
import { createPsp, type Psp } from './psp/firmware.js';
import { createGuestTable } from './psp/guests.js';
import { type NvStorage, openIdentityStore } from './psp/persistence.js';
import type { Platform } from './psp/platform.js';
import { openSystemMemory } from './psp/system-memory.js';

/** What a machine is made of. */
export interface SevMachineOptions {
	/** Whole 4 KiB pages, at least 1 MiB. */
	readonly dramBytes: number;
	readonly provider: CryptoProvider;
	/** All keys, nonces and tweak constants come from here. */
	readonly random: RandomSource;
	/** Names the chip: its id, endorsement key and storage key. The same seed is the same chip. */
	readonly chipSeed: string;
	/** The SPI flash; by default one that lasts as long as the machine. */
	readonly nv?: NvStorage;
	/** 0.24 build 15 by default. */
	readonly version?: FirmwareVersion;
	/** `milan` by default. */
	readonly generation?: GenerationName;
	/** The root that SEND_START accepts under POLICY.SEV; by default the fake one of `@cvm/sev-hw/fake-amd`. */
	readonly trustedRoot?: ArkPin;
}

/** One machine with SEV: memory, its encryption engine, and the firmware. */
export interface SevMachine {
	/** Whole DRAM from system-physical address 0, as the host sees it without a C-bit: ciphertext where guests are private. */
	readonly dram: Uint8Array;
	/** For `openMemoryController` of `@cvm/sev-hw/silicon`, also in another thread. */
	readonly silicon: SiliconHandle;
	readonly psp: Psp;
	/** CPUID Fn8000_001F. */
	readonly cpuid: SevGeneration;
	/** WBINVD on all cores: DF_FLUSH wants it. */
	wbinvd(): void;
}

/** Powers a machine on. The firmware is in UNINIT. @throws RangeError if `dramBytes` or a version number does not fit */
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
	const generation = GENERATIONS[o.generation ?? 'milan'];
	const silicon = createSilicon({ dramBytes: o.dramBytes, maxAsid: generation.maxAsid, random });
	const engine = openEngine(silicon, provider);
	const chip = chipIdentity(provider, chipSeed);
	const asids = createAsidTable(generation.maxAsid, openKeySlotWriter(openSilicon(silicon).keySlots));
	const platform: Platform = {
		provider,
		random,
		version,
		generation,
		chipId: chip.id,
		cekPrivateKey: chip.cekPrivateKey,
		trustedRoot: o.trustedRoot ?? fakeRoot(provider),
		store: openIdentityStore(provider, random, chipSeed, o.nv ?? volatileStorage()),
		memory: openSystemMemory(engine.dram, generation),
		engine,
		asids,
		guests: createGuestTable(),
		state: PlatformState.UNINIT,
		config: 0,
		identity: undefined,
	};
	const psp = createPsp(platform);
	const machine = { dram: engine.dram, silicon, psp, cpuid: generation, wbinvd: asids.wbinvd };
	return { machine, platform };
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
