import { describe, expect, it } from 'vitest';
import { HelperCommand, HelperPhase } from '../mailbox/abi.js';
import { commandName, nextPhase, type PhaseName, phaseName, SESSION_TABLE } from './transitions.js';

const edges = Object.entries(SESSION_TABLE).flatMap(([command, { next }]) =>
	(Object.entries(next) as [PhaseName, PhaseName][]).map(([from, to]) => ({ command, from, to })),
);
/** Phases that can be reached, over edges that `allowed` lets through. */
function reached(from: PhaseName, allowed: (command: string) => boolean): Set<PhaseName> {
	const found = new Set<PhaseName>([from]);
	for (const phase of found) {
		for (const edge of edges) if (edge.from === phase && allowed(edge.command)) found.add(edge.to);
	}
	return found;
}

describe('the table of the session', () => {
	it('has every command and every phase', () => {
		expect(Object.keys(SESSION_TABLE).sort()).toEqual(Object.keys(HelperCommand).sort());
		const phases = new Set([...reached('idle', () => true), ...reached('empty', () => true)]);
		expect([...phases].sort()).toEqual(Object.keys(HelperPhase).sort());
	});

	it('never leads out of retired', () => {
		expect([...reached('retired', () => true)]).toEqual(['retired']);
	});

	it('lets a committed source back only by revive, and to the end only by retire', () => {
		const others = reached('committed', (command) => command !== 'revive' && command !== 'retire');
		expect([...others]).toEqual(['committed']);
		expect(SESSION_TABLE.revive.next).toEqual({ committed: 'idle' });
	});

	it('lets a target run only from verified, by run', () => {
		const toIdle = edges.filter(({ to, from }) => to === 'idle' && HelperPhase[from] >= HelperPhase.empty);
		expect(toIdle).toEqual([{ command: 'run', from: 'verified', to: 'idle' }]);
	});

	it('leads from aborted to running only by another session', () => {
		expect([...reached('aborted', (command) => command !== 'accept')]).toEqual(['aborted']);
	});

	it('has the fatal commands at the target only', () => {
		for (const { fatal, next } of Object.values(SESSION_TABLE)) {
			if (fatal) for (const from of Object.keys(next)) expect(['receiving', 'proving']).toContain(from);
		}
	});

	it('gives names to numbers, and nothing to other numbers', () => {
		expect(commandName(HelperCommand.verify)).toBe('verify');
		expect(phaseName(HelperPhase.proving)).toBe('proving');
		expect([commandName(4), phaseName(7), nextPhase('hello', 7)]).toEqual([undefined, undefined, undefined]);
		expect(nextPhase('hello', HelperPhase.idle)).toBe(HelperPhase.offered);
	});
});
