/**
 * The view through the memory-encryption engine: plaintext of guests. Only a vCPU and the firmware may import this;
 * whoever else does has left the threat model.
 *
 * ```ts
 * const memory = openMemoryController(machine.silicon, provider);
 * memory.write(asid, spa, Uint8Array.of(1, 2, 3));   // DRAM now holds ciphertext
 * ```
 *
 * @packageDocumentation
 */

export { SiliconError } from './engine/fault.js';
export { type MemoryController, openMemoryController } from './engine/memory-controller.js';
export type { SiliconHandle } from './engine/silicon-state.js';
export { openSaveAreas, type SaveAreas } from './vmsa/save-area.js';
