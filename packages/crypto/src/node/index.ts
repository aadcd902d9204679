/**
 * The crypto provider over `node:crypto`, several times faster than the default one on bulk data.
 *
 * ```ts
 * const machine = createSevMachine({ provider: nodeProvider, ... });
 * ```
 *
 * @packageDocumentation
 */
export { nodeProvider } from './provider.js';
