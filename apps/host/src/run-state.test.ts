import type { RunState } from '@cvm/qmp';
import { describe, expect, it } from 'vitest';
import { RunStateMachine } from './run-state.js';

/** Moves that lead from the beginning to each state. */
const WAYS: Readonly<Record<RunState, readonly RunState[]>> = {
	prelaunch: [],
	inmigrate: ['inmigrate'],
	running: ['running'],
	paused: ['paused'],
	'finish-migrate': ['running', 'finish-migrate'],
	postmigrate: ['running', 'finish-migrate', 'postmigrate'],
	'internal-error': ['running', 'internal-error'],
	shutdown: ['shutdown'],
};
const STATES = Object.keys(WAYS) as RunState[];

function machineIn(state: RunState): RunStateMachine {
	const machine = new RunStateMachine();
	for (const next of WAYS[state]) machine.to(next);
	return machine;
}

describe('RunStateMachine', () => {
	it('begins before the launch, not running', () => {
		const machine = new RunStateMachine();
		expect([machine.state, machine.running]).toEqual(['prelaunch', false]);
	});

	it.each(STATES)('%s: runs in the state running and in no other', (state) => {
		const machine = machineIn(state);
		expect([machine.state, machine.running]).toEqual([state, state === 'running']);
	});

	it.each(STATES)('%s: staying is no move', (state) => {
		const machine = machineIn(state);
		machine.to(state);
		expect(machine.state).toBe(state);
	});

	it.each<[RunState, RunState]>([
		['running', 'postmigrate'],
		['running', 'prelaunch'],
		['paused', 'inmigrate'],
		['paused', 'prelaunch'],
		['postmigrate', 'inmigrate'],
		['internal-error', 'running'],
		['internal-error', 'paused'],
		...STATES.filter((s) => s !== 'shutdown').map((s): [RunState, RunState] => ['shutdown', s]),
	])('refuses to go from %s to %s, and stays', (from, to) => {
		const machine = machineIn(from);
		expect(() => machine.to(to)).toThrow(`invalid run-state transition: '${from}' -> '${to}'`);
		expect(machine.state).toBe(from);
	});

	it.each<readonly RunState[]>([
		['inmigrate', 'running', 'finish-migrate', 'postmigrate', 'shutdown'],
		['running', 'finish-migrate', 'running', 'paused', 'running'],
		['inmigrate', 'paused', 'finish-migrate', 'paused'],
		['prelaunch', 'finish-migrate', 'prelaunch'],
		['running', 'inmigrate', 'running', 'inmigrate', 'paused'],
		['paused', 'finish-migrate', 'postmigrate', 'paused', 'running'],
	])('lets a guest live: %s, %s, %s, …', (...states) => {
		const machine = new RunStateMachine();
		for (const state of states) machine.to(state);
		expect(machine.state).toBe(states.at(-1));
	});
});
