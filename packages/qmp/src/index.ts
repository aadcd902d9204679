/**
 * QMP, the protocol of QEMU's monitor, byte by byte as qemu 7.2 speaks it: server, client and the schema of the commands
 * that this project serves. What the commands do is up to the handlers.
 *
 * ```ts
 * const server = createQmpServer({ ...qmpSchema, 'x-steps': command({}, answers<{ steps: number }>()) }, {
 * 	handlers: { 'query-status': () => ({ status: 'running', running: true }), 'x-steps': () => ({ steps: 42 }) },
 * 	version: { qemu: { major: 7, minor: 2, micro: 22 }, package: 'model' },
 * 	clock: () => 0,
 * });
 * const session = server.open((bytes) => socket.write(bytes));
 * ```
 *
 * @packageDocumentation
 */
export type { ArgumentsOf, ArgumentType, Members, Sendable, ValueOf } from './argument-types.js';
export { flag, int64, listOf, oneOf, optional, struct, text, uint8, uint32, uint64 } from './argument-types.js';
export type { DuplexPort, QmpClient, QmpEvent } from './client.js';
export { connectQmp } from './client.js';
export { isQmpError, QmpConnectionError, QmpError, QmpErrorClass } from './error.js';
export type { JsonMessage, JsonStream, JsonStreamOptions } from './json-stream.js';
export { createJsonStream } from './json-stream.js';
export type { JsonObject, JsonValue } from './json-value.js';
export { isJsonObject, jsonText } from './json-value.js';
export type {
	MigrationInfo,
	MigrationParameters,
	MigrationRam,
	MigrationStatus,
	RunState,
	SevCapability,
	SevInfo,
	SocketAddress,
	StatusInfo,
	VersionInfo,
} from './results.js';
export type {
	Answer,
	BuiltInCommand,
	Command,
	CommandArguments,
	CommandInput,
	CommandResult,
	HandlerContext,
	MigrationCapability,
	MigrationCapabilityStatus,
	QmpHandlers,
	QmpSchema,
} from './schema.js';
export { answers, command, MIGRATION_CAPABILITIES, qmpSchema } from './schema.js';
export type { QmpClock, QmpServer, QmpServerOptions, QmpSession } from './server.js';
export { createQmpServer } from './server.js';
