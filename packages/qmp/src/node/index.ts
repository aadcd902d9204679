/**
 * QMP over Unix and TCP sockets.
 *
 * ```ts
 * const listener = await serveQmp(server, 'unix:/tmp/qmp.sock,server,nowait');
 * const client = await connectQmpSocket('unix:/tmp/qmp.sock');
 * await client.execute('query-status');
 * ```
 *
 * @packageDocumentation
 */
export type { QmpAddress } from './address.js';
export { parseQmpAddress, QmpAddressError } from './address.js';
export { connectQmpSocket } from './connect.js';
export type { QmpListener } from './serve.js';
export { serveQmp, systemClock } from './serve.js';
