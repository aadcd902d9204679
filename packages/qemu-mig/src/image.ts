/**
 * A migration as content: what a target has after reading it, whatever the encoding. Reading, writing in another encoding,
 * extracting, comparing, checking, and saving what is left of a damaged one.
 *
 * ```ts
 * const image = await openImage(file.stream(), { store: createMemoryStore() });
 * for (const { device } of deviceTrees(image)) console.log(device.section.idstr);
 * for (const chunk of dense(elfCore(image))) out.write(chunk);
 * ```
 *
 * @packageDocumentation
 */

export type {
	HeaderSlots,
	ImageBlock,
	ImageCommand,
	ImageDescription,
	ImageDevice,
	InputInfo,
	InputKind,
	MultifdChannelInfo,
	MultifdInfo,
	PageStatus,
	RamSection,
	StreamImage,
} from './image/content.js';
export type { DecodedDevice, ImageDeviceJson } from './image/devices.js';
export { devicesJson, deviceTrees } from './image/devices.js';
export type { BodyDifference, ImageDiff, ImageDiffOptions, PageDifferenceReason, PageRange } from './image/diff.js';
export { diffImages } from './image/diff.js';
export type { ElfCore, ElfOptions, ElfSegment } from './image/elf.js';
export { elfCore } from './image/elf.js';
export type { ImageErrorCode } from './image/error.js';
export { ImageError, isImageError } from './image/error.js';
export type { FactDetail, KindRun, PageFacts } from './image/facts.js';
export type { ImageInput, ImageInputs } from './image/input.js';
export type { PhysicalRange } from './image/memory-map.js';
export { memoryMap } from './image/memory-map.js';
export type { OpenOptions } from './image/open.js';
export { openImage } from './image/open.js';
export type { KindCounts, PageKindName } from './image/page-kind.js';
export { isMissing, isSealed, isZeroKind, PAGE_KIND_NAMES, PageKind } from './image/page-kind.js';
export type { PagePolicy } from './image/pages.js';
export { pageAt, sealedHeader } from './image/pages.js';
export type { FilePiece, SparseOutput } from './image/sparse.js';
export { dense, rawBlock } from './image/sparse.js';
export type { MemoryStoreOptions, RamStore, RandomFile } from './image/store.js';
export { createFileStore, createMemoryStore } from './image/store.js';
export type { Verification, VerifyOptions } from './image/verify.js';
export { POSTCOPY_PAUSED, verifyStream } from './image/verify.js';
export type { Finding, Severity, VerifyRule } from './image/verify-rules.js';
export { VERIFY_RULES } from './image/verify-rules.js';
export { writeImage } from './image/write-image.js';
export type { ImageEncoding, ImageSinks, WriteImageOptions, WrittenImage } from './image/write-options.js';
export type { Salvage, SalvageOptions, SalvageSource } from './salvage/options.js';
export { bytesSource } from './salvage/options.js';
export type { Gap, LostPages, LostPart, Missing } from './salvage/report.js';
export { salvage } from './salvage/salvage.js';
