import { describe, expect, it } from 'vitest';
import { parseSmp } from './topology.js';
import { createVcpuGroup, type GroupVcpu, Synchronisation } from './vcpu-group.js';

/** A vCPU that writes down what is done to it; it parks when it is kicked. */
function recorder(index: number) {
	const log: string[] = [];
	const state = { isPaused: false, isIdle: false, wantsPause: false };
	const vcpu: GroupVcpu = {
		index,
		get isPaused() {
			return state.isPaused;
		},
		get isIdle() {
			return state.isIdle;
		},
		pause: () => {
			log.push('pause');
			state.wantsPause = true;
		},
		kick: () => {
			log.push('kick');
			state.isPaused = state.wantsPause;
		},
		resume: () => {
			log.push('resume');
			state.isPaused = false;
			state.wantsPause = false;
		},
		synchronise: (when) => log.push(when),
		reset: () => log.push('reset'),
	};
	return { vcpu, log, state };
}

function machine(option: string) {
	const topology = parseSmp(option);
	const group = createVcpuGroup(topology);
	const all = Array.from({ length: topology.maxCpus }, (_, i) => recorder(i));
	for (const { vcpu } of [...all].reverse()) group.add(vcpu);
	return { group, logs: all.map(({ log }) => log), states: all.map(({ state }) => state) };
}

describe('a machine with a mirror vCPU', () => {
	it('M8: pauses, resumes, synchronises and resets its other vCPUs only', () => {
		const { group, logs } = machine('3,mirrorvcpus=1');
		group.pauseAll();
		expect(group.allPaused()).toBe(true);
		group.kickAll();
		for (const when of Object.values(Synchronisation)) group.synchroniseAll(when);
		group.resetAll();
		group.resumeAll();
		expect(group.allPaused()).toBe(false);
		const done = [
			'pause',
			'kick',
			'kick',
			'states',
			'post-reset',
			'post-init',
			'pre-loadvm',
			'reset',
			'post-reset',
			'resume',
		];
		expect(logs).toEqual([done, done, []]);
	});

	it('is idle, and paused, whatever the mirror does', () => {
		const { group, states } = machine('3,mirrorvcpus=1');
		for (const state of states.slice(0, 2)) Object.assign(state, { isIdle: true, isPaused: true });
		expect([group.allIdle(), group.allPaused()]).toEqual([true, true]);
		Object.assign(states[1] ?? {}, { isIdle: false, isPaused: false });
		expect([group.allIdle(), group.allPaused()]).toEqual([false, false]);
	});

	it('starts the migration handler by resetting and resuming the mirror alone', () => {
		const { group, logs } = machine('3,mirrorvcpus=1');
		group.startMirrors();
		expect(logs).toEqual([[], [], ['reset', 'resume']]);
	});

	it('knows its vCPUs by their indices', () => {
		const { group } = machine('5,mirrorvcpus=2');
		expect(group.mains.map(({ index }) => index)).toEqual([0, 1, 2]);
		expect(group.mirrors.map(({ index }) => index)).toEqual([3, 4]);
		for (const index of [0, 4, 5, -1]) expect(() => group.add(recorder(index).vcpu)).toThrow(RangeError);
	});
});
