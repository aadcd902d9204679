import type { VmControl } from '../ports.js';
import { attempt } from './failure.js';
import type { PrecopyParameters } from './parameters.js';
import { DEFAULTS } from './parameters.js';
import type { PrecopyStatistics } from './statistics.js';

/** Times in a row that too much must have become dirty. */
const HIGH_PERIODS = 2;

/**
 * Slows the guest down while it dirties memory faster than is worth sending: capability `auto-converge`. QEMU 7.2
 * migration/ram.c `migration_trigger_throttle`, `mig_throttle_guest_down`, softmmu/cpu-throttle.c.
 */
export class AutoConverge {
	readonly #vm: VmControl;
	readonly #parameters: PrecopyParameters;
	readonly #statistics: PrecopyStatistics;
	#high = 0;
	#transferredBefore = 0;

	constructor(vm: VmControl, parameters: PrecopyParameters, statistics: PrecopyStatistics) {
		this.#vm = vm;
		this.#parameters = parameters;
		this.#statistics = statistics;
	}

	/** A period of at least a second ended in which so many bytes became dirty. @throws PrecopyError if the VM refuses */
	periodEnded(dirtyBytes: number): void {
		const { transferred } = this.#statistics;
		const sent = transferred - this.#transferredBefore;
		this.#transferredBefore = transferred;
		const percent = this.#parameters.throttleTriggerThreshold ?? DEFAULTS.throttleTriggerThreshold;
		const threshold = Math.floor((sent * percent) / 100);
		if (dirtyBytes <= threshold || ++this.#high < HIGH_PERIODS) return;
		this.#high = 0;
		this.#set(this.#next(dirtyBytes, threshold));
	}

	/** The migration ended, however it did. */
	stop(): void {
		if (this.#statistics.throttlePercentage === 0) return;
		this.#statistics.throttlePercentage = 0;
		this.#vm.throttle?.(0);
	}

	#next(dirtyBytes: number, threshold: number): number {
		const parameters = this.#parameters;
		const now = this.#statistics.throttlePercentage;
		if (now === 0) return parameters.cpuThrottleInitial ?? DEFAULTS.cpuThrottleInitial;
		let step = parameters.cpuThrottleIncrement ?? DEFAULTS.cpuThrottleIncrement;
		if (parameters.cpuThrottleTailslow ?? DEFAULTS.cpuThrottleTailslow) {
			// The share of CPU time at which the guest would dirty no more than is tolerated.
			const ideal = Math.floor((100 - now) * (threshold / dirtyBytes));
			step = Math.min(100 - now - ideal, step);
		}
		return Math.min(now + step, parameters.maxCpuThrottle ?? DEFAULTS.maxCpuThrottle);
	}

	#set(percent: number): void {
		const clamped = Math.min(Math.max(percent, 1), 99);
		this.#statistics.throttlePercentage = clamped;
		attempt('vm', () => this.#vm.throttle?.(clamped));
	}
}
