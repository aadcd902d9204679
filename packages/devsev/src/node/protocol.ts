import { layout, u32, u64 } from '@cvm/layout';

/*
 * What goes over the platform's socket. The other end of `request` and `operation` is shim/exchange.h, which describes them.
 */

/** `SEVI`: an ioctl, from the shim. */
export const IOCTL_MAGIC = 0x49564553;
/** `SEVR`: somebody who wants the platform to live until this connection ends. The answer is {@link WELCOME}. */
export const RUNNER_MAGIC = 0x52564553;

/** The first thing on a connection. A runner sets `magic` only. */
export const request = layout('devsev_request', 24, {
	magic: u32(0),
	request: u32(4),
	argument: u64(8),
	flags: u32(16),
});

/** What the platform wants of the shim. */
export const Operation = { READ: 1, WRITE: 2, RESULT: 3 } as const;

/** `address` of a RESULT is what the ioctl returns. */
export const operation = layout('devsev_operation', 16, { code: u32(0), length: u32(4), address: u64(8) });

/** Most bytes that one operation moves. */
export const OPERATION_LIMIT = 16 * 1024;

/** One byte: the platform will live until the connection ends. */
export const WELCOME = '\n';
