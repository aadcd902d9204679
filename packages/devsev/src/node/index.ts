/**
 * A software /dev/sev for unmodified Linux programs.
 *
 * ```ts
 * const device = await startSevDevice();
 * execFileSync('sevctl', ['show', 'identifier'], { env: { ...process.env, ...device.env } });
 * await device.close();
 * ```
 *
 * @packageDocumentation
 */
export { DevsevError, type DevsevErrorCode } from './error.js';
export { whyUnreachable } from './program.js';
export { findInPath } from './shim.js';
export { type SevDevice, type SevDeviceOptions, startSevDevice } from './start.js';
