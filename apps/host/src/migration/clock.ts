import type { Clock } from '@cvm/qemu-mig';

/** The process's own clock and event loop. */
export const hostClock: Clock = {
	now: () => performance.now(),
	sleep: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
	yield: () => new Promise((resolve) => setImmediate(resolve)),
};
