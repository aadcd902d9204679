import { expect } from 'vitest';
import type { GpaRange } from '../src/geometry.js';
import { answer, Side, type SideOptions } from './migration-rig.js';

/** Helpers of guests that have this RAM. */
export const sidesWith =
	(ram: readonly GpaRange[]) =>
	(name: string, role: 'idle' | 'empty', more: Partial<SideOptions> = {}): Side =>
		new Side({ name, role, ram, ...more });

/** The target is over with its session, and never runs. */
export function expectDead(target: Side): void {
	expect(target.phase).toBe('aborted');
	expect(target.canRun).toBe(false);
	expect(answer(() => target.run('run', new Uint8Array(96)))).toBe('phase');
}
