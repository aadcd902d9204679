export {
	BLOB_OFFSET,
	COMPLETION,
	COMPLETION_OFFSET,
	type CpuState,
	type CpuStateProblem,
	cpuStateLayout,
	cpuStatePage,
	DEMONSTRATOR_PAGES,
	DIRECT_MAP,
	decodeCpuState,
	encodeCpuState,
	STATE_OFFSET,
} from './cpu-state.js';
export {
	INTERMEDIATE_PAGES,
	intermediateTables,
	isCanonical,
	type Leaf,
	type ReadEntry,
	walkTables,
} from './page-tables.js';
export {
	SAVE_AREA_MSRS,
	SaveAreaOffset,
	type SaveAreaView,
	saveAreaProblem,
	viewSaveArea,
	xsaveOfSaveArea,
} from './save-area.js';
export {
	nextResumeState,
	RESUME_TABLE,
	type ResumeEvent,
	ResumeProblem,
	ResumeState,
	type ResumeStateName,
} from './states.js';
export {
	APIC_CONSTANTS,
	BLOB_NOT_RESTORED,
	type CpuRestore,
	DEMONSTRATOR_STEPS,
	interceptedSteps,
	type ResumeStep,
	requireTrampoline,
	SAVE_AREA_NOT_RESTORED,
	SAVE_AREA_STEPS,
} from './steps.js';
