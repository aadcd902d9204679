/**
 * A machine with AMD SEV in software: DRAM that holds ciphertext, the memory-encryption engine at its edge, and the PSP
 * firmware with its mailbox (SEV API 0.24).
 *
 * ```ts
 * const machine = createSevMachine({ dramBytes: 64 << 20, provider: nobleProvider, random: systemRandom(), chipSeed: 'a' });
 * machine.dram.set(COMMANDS.INIT.buffer.encode({}), 0x100000);
 * machine.psp.submit(COMMANDS.INIT.id, spa(0x100000));   // Status.SUCCESS
 * ```
 *
 * @packageDocumentation
 */
export type { FirmwareVersion } from './abi/policy.js';
export { Status, statusName, statusText } from './abi/status.js';
export type { ArkPin } from './certificates/amd-certificate.js';
export type { SiliconHandle } from './engine/silicon-state.js';
export type { EncryptionMode, MemoryEncryption } from './engine/tweak-constants.js';
export {
	type CpuidRegisters,
	cpuid8000001F,
	GENERATIONS,
	type GenerationName,
	MemoryFeature,
	type SevGeneration,
} from './generations.js';
export { createSevMachine, type SevMachine, type SevMachineOptions } from './machine.js';
export type { Psp } from './psp/firmware.js';
export type { FirmwareOptions } from './psp/options.js';
export type { NvStorage } from './psp/persistence.js';
