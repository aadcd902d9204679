/** A helper whose word on START its host never hears: the host asks before anybody runs the guest again. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { type HelpedGuest, listenHelped, migrateHelped, startHelped, startWaiting } from './helped.js';
import { Fleet, type TestHost } from './hosts.js';

const fleet = new Fleet();
let folder: string;
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-helper-hangs-'));
});
afterEach(async () => {
	vi.restoreAllMocks();
	await fleet.close();
	rmSync(folder, { recursive: true, force: true });
});

const guest: HelpedGuest = { workload: 'random', steps: 200_000, seed: 8 };
const [START, QUERY] = [0x1c, 0x22];
/** Words of the mailbox. */
const Word = { nr: 0, go: 6, sequence: 8 } as const;

/** Changes START as its host posts it to a helper; the answer to it is for another command, then. */
function spoilStart(isTaken: boolean): void {
	const { store } = Atomics;
	vi.spyOn(Atomics, 'store').mockImplementation(((words: Int32Array, index: number, value: number) => {
		// A mailbox's page; only a source posts it.
		const isStart = words.length === 1024 && index === Word.go && words[Word.nr] === START;
		if (isStart) {
			words[Word.sequence] = (words[Word.sequence] ?? 0) ^ 0x40000000;
			if (!isTaken) words[Word.nr] = QUERY;
		}
		return store(words, index, value);
	}) as typeof Atomics.store);
}

async function stage(): Promise<{ source: TestHost; target: TestHost }> {
	const source = await startHelped(fleet, folder, 'source', guest);
	await source.call('cont');
	await source.reached(1);
	const target = await startWaiting(fleet, folder, 'target', guest);
	return { source, target };
}

it('a START that was carried out: nobody runs the guest, and the target’s proof brings it back', async () => {
	const { source, target } = await stage();
	spoilStart(true);
	const uri = await listenHelped(target);
	await source.call('migrate', { uri });
	const info = await source.migrationEnd();
	expect(info).toMatchObject({ status: 'failed', 'error-desc': expect.stringMatching(/^[^\n]+$/) });
	expect(info['error-desc']).toMatch(/start: expected a result in time, got none; the guest was handed over/);
	expect(info['error-desc']).toMatch(/unless x-migration-revive gets the x-migration-token of its target$/);
	expect([await source.state(), source.running]).toEqual(['postmigrate', false]);
	expect(await source.refusal('cont')).toMatch(/handed over/);
	await target.migration('failed');
	const { token } = await target.call('x-migration-token');
	await source.call('x-migration-revive', { token });
	vi.restoreAllMocks();
	expect(await source.state()).toBe('running');
	await source.reached(((await source.steps())[0] ?? 0) + 1);
	target.forgetEvents();
	expect(await migrateHelped(source, target)).toMatchObject({ status: 'completed' });
});

it('a START that the helper never got: the host finds that out, and the guest goes on', async () => {
	const { source, target } = await stage();
	spoilStart(false);
	await source.call('migrate', { uri: await listenHelped(target) });
	expect((await source.migrationEnd()).status).toBe('failed');
	vi.restoreAllMocks();
	expect(await source.state()).toBe('running');
	await target.migration('failed');
	target.forgetEvents();
	expect(await migrateHelped(source, target)).toMatchObject({ status: 'completed' });
	expect(await source.refusal('x-migration-revive', { token: 'AAAA' })).toMatch(/^migration helper 0, revive/);
});

it('machines with other numbers of helpers: more at the target move it, fewer are refused in one line', async () => {
	const { source, target } = await stage();
	const few = await startWaiting(fleet, folder, 'few', guest);
	const more = await startHelped(fleet, folder, 'more', { ...guest, helpers: 2 });
	await more.call('cont');
	await more.reached(1);
	const info = await migrateHelped(more, few);
	expect(info['error-desc']).toBe(
		'migration helper, hello: expected a target with at least 2 helpers, as this machine has, got one with 1',
	);
	expect([await more.state(), await few.state()]).toEqual(['running', 'running']);
	await target.call('quit');
	const many = await startWaiting(fleet, folder, 'many', { ...guest, helpers: 3 });
	expect(await migrateHelped(source, many)).toMatchObject({ status: 'completed' });
	await many.reached(((await many.steps())[0] ?? 0) + 1);
});
