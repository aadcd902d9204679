import type { CodeFragment } from '@cvm/kvm/vcpu';
import { type CpuRestore, requireTrampoline } from '../../resume/index.js';
import { CODE_BASE } from '../work-area.js';
import { saveAreaBlocks } from './save-area.js';

export { type DemonstratorOptions, demonstratorFragments } from './demonstrator.js';

export interface ResumeOptions {
	/** How vCPUs get their registers: `trampoline` (default) is the only one that works here. */
	readonly cpuRestore?: CpuRestore;
	/**
	 * What the source's kernel adds to a guest-physical address to reach the firmware's memory: an input, since KASLR moves it. Default 0:
	 * one to one, as our kernel maps it. PROJECT: code of this model is in the lower half, so 0 ≤ `directMap` < 2^46.
	 */
	readonly directMap?: number;
}

/**
 * How the vCPUs of a SEV-ES guest that arrived come back to life: `mh.resume.park`, where a vCPU of the target rests with its number in
 * RBX; once the helper opens the gate each restores itself from the save area that the helper put into private memory.
 *
 * @throws RangeError for `vmsaCreate`, and a direct map that is none
 */
export function resumeFragment({ cpuRestore = 'trampoline', directMap = 0 }: ResumeOptions = {}): CodeFragment {
	requireTrampoline(cpuRestore);
	if (!Number.isSafeInteger(directMap) || directMap < 0 || directMap >= 2 ** 46) {
		throw new RangeError(`direct map: expected 0 to 2^46 - 1, got ${directMap}`);
	}
	return { name: 'mh-resume', base: CODE_BASE + 0x30000, blocks: saveAreaBlocks(directMap) };
}
