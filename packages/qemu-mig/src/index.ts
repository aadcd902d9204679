/**
 * QEMU's live migration, without QEMU: the stream, read and written losslessly; a loader that puts it into a machine; and
 * the precopy engine that sends a running guest. Keys, VMs and sockets are behind ports, which are declared here
 * and implemented elsewhere (in memory: `@cvm/qemu-mig/testing`).
 *
 * ```ts
 * const loader = createLoader({ sink: memory, dialect: 'qemu-7.2', machineType: 'none', device, finish });
 * const precopy = createPrecopy({
 *   source: memory, vm, clock, dialect: 'qemu-7.2', machineType: 'none',
 *   sink: { write: (chunk) => loader.push(chunk) },
 * });
 * const result = await precopy.run(); // { status: 'completed' }
 * ```
 *
 * Sources: QEMU 7.2 migration/*.c; AMDESE/qemu `sev_live_migration_v4` for encrypted pages.
 *
 * @packageDocumentation
 */

export { ReturnMessage } from './abi/return-path.js';
export {
	COMMAND_RULES,
	Command,
	EncryptedSubtype,
	HANDOVER_CAPABILITY,
	IGNORE_SHARED_CAPABILITY,
	RamFlag,
	RegionListWord,
	SectionType,
} from './abi/stream.js';
export type { Dialect } from './dialect.js';
export type { StreamErrorCode } from './error.js';
export { isStreamError, StreamError } from './error.js';
export type {
	Configuration,
	ConfigurationSubsection,
	Place,
	RecordPlace,
	SectionInfo,
	StreamBlock,
	StreamEnd,
	StreamHandler,
} from './events.js';
export { encodeReturnMessage, encodeReturnWord, ReturnPathError, ReturnPathReader } from './handover/return-path.js';
export type { ReturnPathMode, SourceInput, SourceState } from './handover/source.js';
export { mayResume, stepSource } from './handover/source.js';
export type { TargetInput, TargetReply, TargetState, TargetStep } from './handover/target.js';
export { stepTarget } from './handover/target.js';
export { createLoader } from './load/loader.js';
export type { Loader, LoaderOptions, LoadOutcome, LoadPart, LoadProgress } from './load/options.js';
export { LOAD_PARTS } from './load/options.js';
export type {
	ByteSink,
	Clock,
	DeviceSection,
	PageOpener,
	PageSealer,
	PageSink,
	PageSource,
	RamBlock,
	RecordLayout,
	SessionPrefix,
	SharedRegion,
	VmControl,
} from './ports.js';
export { createPrecopy } from './precopy/engine.js';
export type { PrecopyErrorCode } from './precopy/failure.js';
export { PrecopyError } from './precopy/failure.js';
export type {
	Precopy,
	PrecopyEvents,
	PrecopyOptions,
	PrecopyResult,
	SectionWritten,
} from './precopy/options.js';
export type { PrecopyParameters } from './precopy/parameters.js';
export { defaultParameters } from './precopy/parameters.js';
export type { MigrationInfo, MigrationStatus, RamStatistics } from './precopy/statistics.js';
export { PrecopyStatistics } from './precopy/statistics.js';
export { announcesHandover, capabilitiesOf } from './read/configuration.js';
export type { DeviceLength, ReaderLimits, ReaderOptions } from './read/options.js';
export { DEFAULT_LIMITS } from './read/options.js';
export { StreamReader } from './read/reader.js';
export type { DescribedSection } from './write/description.js';
export { describeSections } from './write/description.js';
export { createRelay } from './write/relay.js';
export { SealedBatch } from './write/sealed-batch.js';
export { StreamWriter } from './write/writer.js';
