import { describe, expect, it } from 'vitest';
import { HelperGeometry } from '../src/geometry.js';
import { HelperCommand, HelperPhase, helperReport } from '../src/mailbox/abi.js';
import { SECRETS } from '../src/session/index.js';
import { CANARY, contains, type Link, migrate, pagesOf, pairOf, populate, RAM } from './hardened-couriers.js';
import { type Machine, OWNER_SECRET } from './hardened-rig.js';

/** The keys that a helper has in private memory. */
const secretsOf = (machine: Machine): Uint8Array => machine.read(HelperGeometry.state + SECRETS.offset, SECRETS.bytes);

/** All of a machine's memory as its host and its neighbours see it, and what went over the network. */
function visible({ source, target, seen }: Link): Uint8Array[] {
	return [source.sev.dram, target.sev.dram, ...seen];
}

/** Every 16 bytes of secrets that are not all the same. */
function pieces(secrets: Uint8Array): Uint8Array[] {
	const out: Uint8Array[] = [];
	for (let at = 0; at + 16 <= secrets.length; at += 16) {
		const piece = secrets.subarray(at, at + 16);
		if (new Set(piece).size > 4) out.push(piece);
	}
	return out;
}

/** What must not be seen: the guest's pages, the owner's secret, what is a key by now. */
function expectNothingVisible(link: Link, keys: readonly Uint8Array[]): void {
	const distinct = new Map([CANARY, OWNER_SECRET, ...keys].map((secret) => [`${secret}`, secret]));
	for (const bytes of visible(link)) {
		for (const secret of distinct.values()) expect(contains(bytes, secret)).toBe(false);
	}
}

const phaseOf = (host: Link['sourceHost']): number => helperReport.decode(host.control(HelperCommand.query)).phase;

/** A link in the middle of its second epoch. */
async function moving(helpers = 1): Promise<Link> {
	const link = pairOf({ helpers });
	populate(link.source, pagesOf(RAM));
	await link.helper.open(link.peer);
	link.move(pagesOf(RAM));
	link.helper.epoch(link.peer);
	link.move(pagesOf(RAM).slice(0, 70));
	return link;
}

describe('secrets of the hardened helper', () => {
	it('are not in the DRAM of either machine nor in anything that a host carries, from hello to running', async () => {
		const link = pairOf({ helpers: 3 });
		populate(link.source, pagesOf(RAM));
		const keys: Uint8Array[] = [];
		const { send } = link.peer;
		link.peer.send = (message) => {
			keys.push(...pieces(secretsOf(link.source)), ...pieces(secretsOf(link.target)));
			send(message);
		};
		await migrate(link);
		expect(keys.length).toBeGreaterThan(10);
		// The scan would find them: they are where they belong.
		expect(contains(link.target.read(RAM[0]?.start ?? 0, 4096), CANARY)).toBe(true);
		expectNothingVisible(link, keys);
		expect(pieces(secretsOf(link.source))).toEqual([]);
		expect(pieces(secretsOf(link.target))).toEqual([]);
	});

	it.each(['reset', 'cancel'] as const)('are wiped at the source by %s, and none is in a shared page', async (name) => {
		const link = await moving();
		const keys = [...pieces(secretsOf(link.source)), ...pieces(secretsOf(link.target))];
		expect(keys.length).toBeGreaterThan(4);
		link.sourceHost.control(HelperCommand[name]);
		expect(pieces(secretsOf(link.source))).toEqual([]);
		expect(phaseOf(link.sourceHost)).toBe(HelperPhase.idle);
		expectNothingVisible(link, keys);
	});

	it.each(['reset', 'abort'] as const)('are wiped at the target by %s, and none is in a shared page', async (name) => {
		const link = await moving();
		const keys = [...pieces(secretsOf(link.source)), ...pieces(secretsOf(link.target))];
		expect(link.targetHost.control(HelperCommand[name])).toHaveLength(96);
		expect(pieces(secretsOf(link.target))).toEqual([]);
		expect(phaseOf(link.targetHost)).toBe(HelperPhase.aborted);
		expectNothingVisible(link, keys);
	});

	it('are wiped at the target by a record that does not open', async () => {
		const link = await moving();
		const keys = pieces(secretsOf(link.target));
		const page = Uint32Array.of((RAM[0]?.start ?? 0) / 4096 + 100);
		link.helper.seal(0, page, 1, link.emit);
		link.helper.flush((block, at, header, bytes) => {
			link.opener.open(
				block,
				at,
				header,
				bytes.map((byte) => byte ^ 1),
			);
		});
		expect(() => link.opener.flush()).toThrow('migration helper 0, restore');
		expect(phaseOf(link.targetHost)).toBe(HelperPhase.aborted);
		expect(pieces(secretsOf(link.target))).toEqual([]);
		expectNothingVisible(link, keys);
	});

	it('are needed: without the owner’s there is no session', async () => {
		const link = pairOf({ secret: false });
		await expect(link.helper.open(link.peer)).rejects.toThrow(
			'migration helper 0, hello: expected success, got secret',
		);
	});
});
