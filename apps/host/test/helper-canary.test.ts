/** Secrets of a guest that its hardened helpers move show up nowhere; with the helper of 2021 the same search finds them. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { DISK_SECRET, type HelpedGuest, listenHelped, MIGRATION_SECRET, startHelped, startWaiting } from './helped.js';
import { Fleet, type TestHost } from './hosts.js';
import { Relay } from './relay.js';

const fleet = new Fleet();
let folder: string;
beforeEach(() => {
	folder = mkdtempSync(join(tmpdir(), 'cvm-helper-canary-'));
});
afterEach(async () => {
	await fleet.close();
	rmSync(folder, { recursive: true, force: true });
});

const ascii = (text: string): Buffer => Buffer.from(text, 'latin1');
const SECRETS = { disk: DISK_SECRET, migration: MIGRATION_SECRET };
type Places = Record<string, Uint8Array>;

/** Which secret stands where, even half of it, and however a text would carry it. */
function findings(places: Places): string[] {
	return Object.entries(places).flatMap(([place, bytes]) => {
		const haystack = Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength);
		return Object.entries(SECRETS)
			.filter(([, secret]) => {
				const halves = [secret.subarray(0, 16), secret.subarray(16, 32)].map((half) => Buffer.from(half));
				return halves
					.flatMap((half) => [half, ascii(half.toString('base64').slice(0, 20)), ascii(half.toString('hex'))])
					.some((needle) => haystack.includes(needle));
			})
			.map(([name]) => `${name} in ${place}`);
	});
}

/** An attempt that is cut, one that succeeds, and everything that anybody but the guest sees of them. */
async function live(guest: HelpedGuest): Promise<{ readonly places: Places; readonly memory: Uint8Array }> {
	const serial = (name: string) => ['-serial', `file:${join(folder, `${name}.log`)}`];
	const source = await startHelped(fleet, folder, 'source', guest, ...serial('source'));
	await source.call('cont');
	await source.reached(10);
	const target = await startWaiting(fleet, folder, 'target', guest, ...serial('target'));
	const places: Places = {};
	const errors: string[] = [];
	const attempt = async (name: string, cutAt?: number) => {
		const relay = await Relay.open(await listenHelped(target), {
			record: true,
			...(cutAt !== undefined && { cutAt }),
		});
		source.forgetEvents();
		target.forgetEvents();
		await source.call('migrate', { uri: relay.uri });
		if (cutAt === undefined) {
			await source.event((event) => event === 'STOP');
			places['DRAM of the source at stop-and-copy'] = Uint8Array.from(source.host.dram);
		}
		const { status, ...rest } = await source.migrationEnd();
		expect(status).toBe(cutAt === undefined ? 'completed' : 'failed');
		errors.push(JSON.stringify(rest));
		places[name] = Buffer.concat(relay.passed);
	};
	await attempt('the stream that was cut', 4 * 2 ** 20);
	await target.migration('failed');
	places['DRAM of the target that was cut off'] = Uint8Array.from(target.host.dram);
	await attempt('the stream');
	errors.push(await source.refusal('cont'), await target.refusal('x-migration-token'));
	await target.call('stop');
	places['DRAM of the source afterwards'] = source.host.dram;
	places['DRAM of the target'] = target.host.dram;
	for (const host of [source, target] satisfies TestHost[]) {
		places[`warnings of ${host.name}`] = ascii(host.warnings.join('\n'));
		places[`events of ${host.name}`] = ascii(JSON.stringify(host.events));
		places[`answers of ${host.name}`] = ascii(JSON.stringify(await host.call('query-migrate')));
		places[`serial log of ${host.name}`] = readFileSync(join(folder, `${host.name}.log`));
	}
	places['error texts'] = ascii(errors.join('\n'));
	const filename = join(folder, 'memory.bin');
	await target.call('x-guest-memsave', { block: 'pc.ram', filename });
	expect(places['the stream']?.length).toBeGreaterThan(4 * 2 ** 20);
	return { places, memory: readFileSync(filename) };
}

const guest: HelpedGuest = { workload: 'random', steps: 200_000, seed: 9 };

it.each([1, 3])('with %i hardened helpers they are in the guest and nowhere else', async (helpers) => {
	const { places, memory } = await live({ ...guest, helpers });
	expect(findings({ 'the guest': memory })).toEqual(['disk in the guest', 'migration in the guest']);
	expect(findings(places)).toEqual([]);
});

it('with the helper of 2021 they are in the stream', async () => {
	const { places } = await live({ ...guest, profile: 'rfc-2021', secret: MIGRATION_SECRET });
	const found = findings(places);
	expect(found).toContain('disk in the stream');
	expect(found).toContain('migration in the stream');
	expect(found.filter((line) => line.includes('DRAM of the target that'))).toEqual([]);
});
