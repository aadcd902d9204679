import type { Clock } from '../ports.js';

/** A clock that only moves when told, or when somebody sleeps on it. */
export interface FakeClock extends Clock {
	/** Moves time forward. */
	advance(milliseconds: number): void;
	/** Sleeps asked for so far, in ms. */
	readonly sleeps: readonly number[];
	/** Called at every `yield` and after every `sleep`, when others would run. */
	onIdle: () => void;
}

/** A {@link FakeClock} at 0 ms; every reading of it adds `perReading` ms. */
export function createFakeClock(perReading = 0): FakeClock {
	let time = 0;
	const sleeps: number[] = [];
	const clock: FakeClock = {
		sleeps,
		onIdle: () => {},
		advance(milliseconds) {
			time += milliseconds;
		},
		now() {
			time += perReading;
			return time;
		},
		async sleep(milliseconds) {
			sleeps.push(milliseconds);
			time += milliseconds;
			clock.onIdle();
		},
		async yield() {
			clock.onIdle();
		},
	};
	return clock;
}
