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
	BitmapWord,
	COMMAND_RULES,
	Command,
	EncryptedSubtype,
	HANDOVER_CAPABILITY,
	IGNORE_SHARED_CAPABILITY,
	MAPPED_RAM_CAPABILITY,
	MAX_HELPER_MESSAGE,
	RamFlag,
	RegionListWord,
	SectionType,
} from './abi/stream.js';
export type { ZlibLevel } from './codec/deflate-stream.js';
export type { CodecErrorCode } from './codec/error.js';
export { CodecError, isCodecError } from './codec/error.js';
export { GzipDecoder, GzipEncoder } from './codec/gzip.js';
export type { ByteFilter, SaveImageReaderOptions } from './codec/libvirt/body.js';
export { createSavePacker, createSaveUnpacker, SaveImageReader } from './codec/libvirt/body.js';
export type { SaveFormat, SaveHeader, SaveImage, SaveImageContent } from './codec/libvirt/header.js';
export {
	createSaveImage,
	decodeSaveHeader,
	decodeSaveImage,
	encodeSaveImage,
	isSaveImage,
	SAVE_FORMATS,
	SAVE_HEADER_SIZE,
	saveFormatOf,
	saveImageCookie,
	saveImageXml,
} from './codec/libvirt/header.js';
export type {
	MappedRamBlock,
	MappedRamHeader,
	MappedRamPlacement,
	MappedRamRun,
	RandomAccess,
} from './codec/mapped-ram.js';
export {
	decodeMappedRamHeader,
	encodeMappedRamHeader,
	MAPPED_RAM_HEADER_SIZE,
	MappedRamBitmap,
	mappedRamBitmapSize,
	planMappedRam,
	readMappedRam,
} from './codec/mapped-ram.js';
export type { MultifdDeviceState, MultifdInit, MultifdPacket } from './codec/multifd/packet.js';
export {
	decodeMultifdInit,
	decodeMultifdPacket,
	encodeMultifdInit,
	encodeMultifdPacket,
	MULTIFD_COMPRESSION_MASK,
	MULTIFD_INIT_SIZE,
	MULTIFD_MAGIC,
	MULTIFD_PAGE_COUNT,
	MultifdFlag,
	multifdPacketSize,
} from './codec/multifd/packet.js';
export type { MultifdCompression, MultifdHandler, MultifdReaderOptions } from './codec/multifd/reader.js';
export { MultifdReader } from './codec/multifd/reader.js';
export type { MultifdPages, MultifdWriterOptions } from './codec/multifd/writer.js';
export { MultifdWriter } from './codec/multifd/writer.js';
export type { XbzrleOutcome } from './codec/xbzrle.js';
export { decodeXbzrle, encodeXbzrle, XBZRLE_OVERFLOW, XbzrleCache } from './codec/xbzrle.js';
export {
	deflatePage,
	inflatePage,
	ZLIB_PAGE_LIMIT,
	ZlibChannelDeflater,
	ZlibChannelInflater,
} from './codec/zlib.js';
export { ZstdChannelInflater } from './codec/zstd/channel.js';
export type { ZstdOptions } from './codec/zstd/decoder.js';
export { ZstdDecoder } from './codec/zstd/decoder.js';
export { ZstdStoredEncoder } from './codec/zstd/stored.js';
export type { DecodedCommand } from './command.js';
export { decodeCommand, encodeCommand, MAX_DISCARDS_PER_COMMAND } from './command.js';
export type { ElementSource, FieldSource, StateSource } from './device/describe.js';
export { describeDevice, describeOldStyle, stateField } from './device/describe.js';
export type {
	DeviceDescription,
	DeviceKey,
	ExtraMember,
	FieldDescription,
	OldStyleDevice,
	StateDescription,
	StateDevice,
	VmDescription,
} from './device/description.js';
export { findDevice, MAX_STATE_DEPTH } from './device/description.js';
export type { ComparedValue, DeviceDifference, DiffOptions } from './device/diff.js';
export { diffDevices } from './device/diff.js';
export type { DescriptionErrorCode, DeviceStateErrorCode } from './device/error.js';
export { DescriptionError, DeviceStateError } from './device/error.js';
export { formatVmDescription } from './device/format.js';
export type { DeviceLengths } from './device/lengths.js';
export { deviceLengths } from './device/lengths.js';
export type { DescriptionLimits } from './device/parse.js';
export { DEFAULT_DESCRIPTION_LIMITS, parseVmDescription } from './device/parse.js';
export type { IntegerArray } from './device/scalar.js';
export type { DeviceJson, DeviceJsonOptions, FieldJson, StateJson } from './device/to-json.js';
export { deviceToJson } from './device/to-json.js';
export type { DeviceField, DeviceState, DeviceTree, DeviceValue, FieldPlace, Leaf } from './device/tree.js';
export { fieldLabel, leavesOf, rawBytes } from './device/tree.js';
export type { ViewEntry, ViewGroup } from './device/view.js';
export { viewDevice } from './device/view.js';
export type { WalkOptions } from './device/walk.js';
export { walkConfiguration, walkDevice } from './device/walk.js';
export type { Dialect } from './dialect.js';
export { DIALECTS } from './dialect.js';
export type { StreamErrorCode } from './error.js';
export { isStreamError, StreamError } from './error.js';
export type {
	BitmapSlot,
	ByteRange,
	Configuration,
	ConfigurationSubsection,
	HostRegionList,
	MappedLayout,
	PageEncoding,
	Place,
	RecordPlace,
	SectionInfo,
	StreamBlock,
	StreamEnd,
	StreamHandler,
} from './events.js';
export type { DecodedReturn } from './handover/return-message.js';
export { decodeReturn, encodeReturn } from './handover/return-message.js';
export type { ReturnHandler, ReturnPathOptions } from './handover/return-path.js';
export { encodeReturnMessage, encodeReturnWord, ReturnPathError, ReturnPathReader } from './handover/return-path.js';
export type { ReturnPathMode, SourceInput, SourceState } from './handover/source.js';
export { mayResume, stepSource } from './handover/source.js';
export type { TargetInput, TargetReply, TargetState, TargetStep } from './handover/target.js';
export { stepTarget } from './handover/target.js';
export { createLoader } from './load/loader.js';
export type { LoaderChannel, MultifdInputsOptions } from './load/multifd.js';
export type { Loader, LoaderOptions, LoadOutcome, LoadPart, LoadProgress, LoadStatus } from './load/options.js';
export { LOAD_PARTS } from './load/options.js';
export type { PagePlace, PageRoute, Quirk, RoutedPage, RouteRules } from './page-route.js';
export { routePage, skipsHelperPage } from './page-route.js';
export type {
	ByteSink,
	Clock,
	DeviceSection,
	EmitHelperPage,
	HelperPeer,
	PageHelper,
	PageHelperTarget,
	PageOpener,
	PageSealer,
	PageSink,
	PageSource,
	PostcopyMemory,
	RamBlock,
	RecordLayout,
	SessionPrefix,
	SharedRegion,
	VmControl,
} from './ports.js';
export type { PrecopyCapabilities } from './precopy/capabilities.js';
export { createPrecopy } from './precopy/engine.js';
export type { PrecopyErrorCode } from './precopy/failure.js';
export { PrecopyError } from './precopy/failure.js';
export type {
	CompressionStatistics,
	MigrationInfo,
	MigrationStatus,
	RamStatistics,
	XbzrleStatistics,
} from './precopy/info.js';
export type { MultifdSinks } from './precopy/multifd-sender.js';
export type {
	Precopy,
	PrecopyEvents,
	PrecopyOptions,
	PrecopyResult,
	SectionWritten,
} from './precopy/options.js';
export type { PrecopyParameters } from './precopy/parameters.js';
export { defaultParameters } from './precopy/parameters.js';
export { PrecopyStatistics } from './precopy/statistics.js';
export { announcesHandover, capabilitiesOf } from './read/configuration.js';
export type { Detection, DialectCandidate } from './read/detect.js';
export { DialectProbe, detectDialect } from './read/detect.js';
export type {
	DeviceLength,
	PageSizeListed,
	ReaderLimits,
	ReaderOptions,
	ResumeState,
	StreamKind,
} from './read/options.js';
export { DEFAULT_LIMITS, PostcopyState } from './read/options.js';
export type { Evidence } from './read/probe-candidate.js';
export type { PullOptions } from './read/pull.js';
export { readStream } from './read/pull.js';
export { StreamReader } from './read/reader.js';
export type { ByteSource, ReadableBytes } from './read/source.js';
export type { StreamEvent } from './read/stream-event.js';
export type { DescribedSection } from './write/description.js';
export { describeSections } from './write/description.js';
export { createRelay } from './write/relay.js';
export { SealedBatch } from './write/sealed-batch.js';
export { StreamWriter } from './write/writer.js';
