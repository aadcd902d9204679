/**
 * The hardened migration helper without its guest: session, records, hand-over, as a state machine over private memory.
 *
 * @packageDocumentation
 */
export { createHelperCore } from './core.js';
export type { ControlResult, HelperCore, HelperMemory, HelperPlatform, SealResult } from './ports.js';
export type { MigrationSecret } from './secret.js';
export { encodeMigrationSecret, MIGRATION_SECRET_GUID, migrationSecret } from './secret.js';
export { SECRETS, stateLayout, streamAddress, streamLayout } from './state.js';
export type { CommandName, PhaseName, SessionRule } from './transitions.js';
export { commandName, nextPhase, phaseName, SESSION_TABLE } from './transitions.js';
export {
	acceptMessage,
	Capability,
	confirmMessage,
	epochBody,
	HELPER_VERSIONS,
	helloMessage,
	MAX_RECORD_HEADER,
	MessageType,
	manifestBody,
	messageHeader,
	RecordType,
	recordHeader,
	sharedRange,
	VCPU_STREAM,
	WIRE_MAGIC,
} from './wire.js';
