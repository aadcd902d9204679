/** Milliseconds without letting signals and timers in. */
const PERIOD = 50;

let last = performance.now();

/** Something to wait for now and then in long work that never waits for the system, so that Ctrl-C is heard. */
export function breathe(): Promise<void> | undefined {
	const now = performance.now();
	if (now - last < PERIOD) return undefined;
	last = now;
	return new Promise((resolve) => setImmediate(resolve));
}

let unfinished = 0;

/** Whether there is something to clean up, so that waiting must not keep signals out. */
export const mustHear = (): boolean => unfinished > 0;

/** Something to clean up appears, or is gone. */
export function hear(on: boolean): void {
	unfinished += on ? 1 : -1;
}
