/** A guest that moved while it worked ends exactly as one that never moved: memory, registers, page status, consent. */
import { afterEach, describe, expect, it } from 'vitest';
import type { GuestDigest } from '../src/index.js';
import { Fleet } from './hosts.js';
import { type Guest, migrate, startSource, startTarget } from './migration.js';

const fleet = new Fleet();
afterEach(() => fleet.close());

/** So many steps that a guest whose timer ticks works for longer than a migration takes. */
const STEPS = { ab: 30_000, random: 60_000, 'shared-io': 240 } as const;
const WORKLOADS = ['ab', 'random', 'shared-io'] as const;
const SEEDS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

/** Work done before the migration begins: another moment for each seed. */
const warmUp = ({ steps, seed = 1 }: Guest): number => Math.max(1, Math.floor((steps * (seed % 5)) / 50));

/** The same guest on a host that it never leaves, as fast as it can. */
async function reference(guest: Guest): Promise<GuestDigest> {
	const host = await startSource(fleet, 'reference', { ...guest, ticks: 'off' });
	await host.call('cont');
	return host.finalDigest(guest.steps);
}

/** Moves the guest over `hops` migrations, in each of which it was seen to be at work. */
async function moved(guest: Guest, hops: number): Promise<GuestDigest> {
	let at = await startSource(fleet, 'host-0', guest);
	await at.call('cont');
	for (let hop = 1; hop <= hops; hop++) {
		const last = hop === hops;
		const next = await startTarget(fleet, `host-${hop}`, { ...guest, ticks: last ? 'off' : 'on' });
		const before = Math.max(...(await at.steps()));
		expect(before, 'the guest is at work').toBeLessThan(guest.steps - 1);
		await at.reached(Math.max(warmUp(guest), before + 1));
		const { status, ram } = await migrate(at, next);
		expect(status).toBe('completed');
		const sent = (ram?.normal ?? 0) + (ram?.duplicate ?? 0);
		expect(sent, 'pages, some of them again').toBeGreaterThan((ram?.total ?? 0) / 4096);
		const left = await at.steps();
		expect(Math.min(...left), 'the guest had begun').toBeGreaterThan(0);
		expect(Math.max(...left), 'the guest was still at work').toBeLessThan(guest.steps);
		expect([await at.state(), at.running]).toEqual(['postmigrate', false]);
		at = next;
	}
	return at.finalDigest(guest.steps);
}

async function expectEqual(guest: Guest, hops = 1): Promise<void> {
	const [never, once] = await Promise.all([reference(guest), moved(guest, hops)]);
	expect(once).toEqual(never);
	expect(never.blocks.map((b) => b.idstr)).toEqual(['pc.ram', 'pc.bios']);
	expect(never['migration-msr']).toBe(guest.policy === undefined ? 0 : 1);
	if (guest.policy !== undefined) expect(never['shared-regions'].length).toBeGreaterThan(0);
}

describe.each(WORKLOADS)('%s', (workload) => {
	it.each(SEEDS)('sealed by the firmware, seed %i: equals the guest that never moved', async (seed) => {
		await expectEqual({ workload, steps: STEPS[workload], seed, policy: 0 });
	});

	it('plain, with a commit: equals the guest that never moved', async () => {
		// Without page status to report, sharing costs next to nothing.
		const steps = workload === 'shared-io' ? 4000 : STEPS[workload];
		await expectEqual({ workload, steps, seed: 11 });
	});
});

it('moves on: a guest that went from A to B goes from B to C', async () => {
	await expectEqual({ workload: 'random', steps: STEPS.random, seed: 12, policy: 0 }, 2);
});

it('tells seeds apart: what is compared depends on what the guest did', async () => {
	const guest = { workload: 'random', steps: 500, policy: 0 } as const;
	const [a, b] = [await reference({ ...guest, seed: 1 }), await reference({ ...guest, seed: 2 })];
	expect(a.blocks[0]).not.toEqual(b.blocks[0]);
	expect(a.blocks[1]).toEqual(b.blocks[1]);
});
