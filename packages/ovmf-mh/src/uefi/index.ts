/**
 * UEFI around the migration handler, without guest code: memory types, HOBs, PCDs, MP services with the three changes of 2021, and
 * what the ways to start and idle a handler come to.
 *
 * @packageDocumentation
 */
export { type CpuViews, cpuMismatch, enumerateCpus, madtCpus } from './cpu-views.js';
export {
	assertSameLayout,
	type FirmwareLayout,
	firmwareAllocations,
	firstLayoutDifference,
	LayoutMismatch,
	type LayoutOptions,
} from './firmware-layout.js';
export { encodeHobs, HANDLER_HOBS, HobType, memoryAllocationHob, readHobs } from './hob.js';
export {
	type Allocation,
	EfiMemoryType,
	e820Of,
	efiMemoryDescriptor,
	encodeMemoryMap,
	isFreeToOs,
	memoryMapOf,
	type TypedRange,
} from './memory-map.js';
export {
	type ApContext,
	type ApProcedure,
	type ApReport,
	type ApState,
	createMpServices,
	type MpOptions,
	type MpServices,
	type MpStatus,
	type UefiCpuChanges,
} from './mp-services.js';
export { type DynamicPcd, encodePcds, HandlerPcd, pcdDatabase, pcdEntry, ResumePcd, readPcd } from './pcd.js';
export {
	createHelperService,
	type HelperService,
	type HelperServiceOptions,
	type IdlePolicy,
	type MainVcpus,
	type StartModel,
} from './start-models.js';
