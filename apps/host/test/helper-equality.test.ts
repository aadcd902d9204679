/** A guest that its hardened helpers moved while it worked ends exactly as one that never moved. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GuestDigest } from '../src/index.js';
import { type HelpedGuest, migrateHelped, startHelped, startWaiting } from './helped.js';
import { Fleet } from './hosts.js';

const fleet = new Fleet();
let folder: string;
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-helper-'));
});
afterEach(async () => {
	await fleet.close();
	rmSync(folder, { recursive: true, force: true });
});

const STEPS = { ab: 15_000, random: 30_000, 'shared-io': 160 } as const;

async function reference(guest: HelpedGuest): Promise<GuestDigest> {
	const host = await startHelped(fleet, folder, 'reference', { ...guest, ticks: 'off' });
	await host.call('cont');
	const digest = await host.finalDigest(guest.steps);
	await host.host.close();
	return digest;
}

async function moved(guest: HelpedGuest, hops: number): Promise<GuestDigest> {
	let at = await startHelped(fleet, folder, 'host-0', guest);
	// All before the guest begins, which would be at its end by the time that a slow machine has them.
	const targets: Awaited<ReturnType<typeof startWaiting>>[] = [];
	for (let hop = 1; hop <= hops; hop++) {
		targets.push(await startWaiting(fleet, folder, `host-${hop}`, { ...guest, ticks: hop === hops ? 'off' : 'on' }));
	}
	await at.call('cont');
	for (const next of targets) {
		const before = Math.max(...(await at.steps()));
		expect(before, 'the guest is at work').toBeLessThan(guest.steps - 1);
		await at.reached(before + 1);
		expect(await migrateHelped(at, next)).toMatchObject({ status: 'completed' });
		expect([await at.state(), at.running, await next.state()]).toEqual(['postmigrate', false, 'running']);
		expect(await at.refusal('cont')).toMatch(/handed over/);
		at = next;
	}
	return at.finalDigest(guest.steps);
}

describe('sealed by the helpers', () => {
	it.each([
		['ab', 1, 1],
		['random', 2, 1],
		['shared-io', 3, 1],
		['random', 4, 3],
		['shared-io', 5, 3],
		['random', 8, 8],
	] as const)('%s, seed %i, %i helpers: equals the guest that never moved', async (workload, seed, helpers) => {
		const guest: HelpedGuest = { workload, seed, helpers, steps: STEPS[workload] };
		const never = await reference(guest);
		expect(await moved(guest, 1)).toEqual(never);
		expect(never['migration-msr']).toBe(1);
		expect(never['shared-regions'].length).toBeGreaterThan(0);
	});

	it('in the records of March 2021, which say nothing of what is shared', async () => {
		const guest: HelpedGuest = { workload: 'shared-io', steps: 120, seed: 7, dialect: 'mh-v1' };
		const never = await reference(guest);
		expect(await moved(guest, 2)).toEqual(never);
	});

	it('from A to B to C: the helper of a target is that of a source', async () => {
		const guest: HelpedGuest = { workload: 'random', steps: 40_000, seed: 6 };
		const never = await reference(guest);
		expect(await moved(guest, 2)).toEqual(never);
	});
});
