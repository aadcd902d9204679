/**
 * One complete host process for confidential guests, source or target of a migration: composed from the packages, driven by
 * QEMU's command line and QMP.
 *
 * ```ts
 * const host = await Host.start(parseHostOptions(['-m', '64M', '-S']) as HostOptions);
 * await host.commands.cont({});
 * ```
 *
 * @packageDocumentation
 */
export { runHost } from './cli.js';
export type { HelperFigures } from './helper/tally.js';
export { Host, type HostEnd } from './host.js';
export { type HostOptions, parseHostOptions, type SevGuestOptions, USAGE, UsageError } from './options.js';
export { type PlatformIdentity, platformIn, platformInMemory } from './platform.js';
export { type GuestDigest, HANDOVER, hostSchema } from './qmp-schema.js';
