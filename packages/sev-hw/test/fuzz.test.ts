import { seededRandom } from '@cvm/crypto';
import { spa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { COMMANDS, type CommandName, type CommandRule } from '../src/abi/commands.js';
import { GuestState } from '../src/abi/states.js';
import { statusName } from '../src/abi/status.js';
import {
	BUFFER_AT,
	certificatesOf,
	createRig,
	initialised,
	MIB,
	type Rig,
	receiveStartFields,
	sendStartFields,
} from './rig.js';

const COMMAND_COUNT = 10_000;
const NAMES = Object.keys(COMMANDS) as CommandName[];
/** Rare, or no guest would ever get far. */
const RARE: readonly CommandName[] = ['SHUTDOWN', 'INIT', 'PDH_GEN', 'DECOMMISSION', 'DEACTIVATE', 'SEND_FINISH'];

/** Numbers from a seed. */
function dice(seed: string) {
	const random = seededRandom(seed);
	const below = (n: number) => new DataView(random.bytes(4).buffer).getUint32(0) % n;
	return { random, below, oneOf: <T>(list: readonly T[]): T => list[below(list.length)] as T };
}

type Dice = ReturnType<typeof dice>;

/** Fields that are sound more often than not; the rest is noise. */
function fieldsFor(name: CommandName, d: Dice, sound: ReturnType<typeof soundFields>) {
	const address = () =>
		d.oneOf([0x180000n, 0x181000n, 0x182010n, 0x183000n, 0x184000n, 0x184008n, 0xa0000n, 0x200000n, 1n << 63n]);
	const length = () => d.oneOf([16, 16, 16, 64, 4096, 52, 48, 2084, 6252, 0, 0x4010]);
	const handle = d.below(5);
	const base = {
		handle,
		policy: d.oneOf([0, 0, 0, 1, 2, 8, 4, 0x100]),
		asid: d.oneOf([100, 101, 102, 103, 104, 0, 5, 600]),
		length: length(),
		paddr: address(),
		idPaddr: address(),
		idLen: length(),
		srcPaddr: address(),
		dstPaddr: address(),
		hdrPaddr: 0x190000n + BigInt(64 * d.below(16)),
		hdrLen: d.oneOf([52, 52, 52, 51, 60]),
		guestPaddr: address(),
		guestLen: 16,
		transPaddr: 0x1a0000n + BigInt(64 * d.below(16)),
		transLen: d.oneOf([16, 16, 16, 32]),
		pdhPaddr: address(),
		pdhLen: length(),
		certsPaddr: address(),
		certsLen: length(),
		flags: d.oneOf([0, 0, 0, 1, 2]),
		tmrPaddr: 0x100000n,
		tmrLength: 0x100000,
	};
	const pick = (fields: object) => {
		const rule = COMMANDS[name];
		const known = 'buffer' in rule ? Object.keys(rule.buffer.fields) : [];
		return Object.fromEntries(Object.entries(fields).filter(([key]) => known.includes(key)));
	};
	if (name === 'SEND_START' && d.below(4) > 0) return { ...sound.send, handle };
	if (name === 'RECEIVE_START' && d.below(4) > 0) return { ...sound.receive, handle: d.below(8) === 0 ? handle : 0 };
	if (name === 'LAUNCH_START') return { policy: base.policy, handle: d.below(8) === 0 ? handle : 0 };
	if (name === 'PDH_CERT_EXPORT' && d.below(2) > 0)
		return { pdhPaddr: 0x1b0000n, pdhLen: 2084, certsPaddr: 0x1b1000n, certsLen: 6252 };
	return pick(base);
}

function soundFields(rig: Rig) {
	return { send: sendStartFields(rig, 1, certificatesOf(rig)), receive: receiveStartFields(rig, 0) };
}

const statesOf = (rig: Rig) =>
	new Map([...rig.platform.guests.values()].map((g) => [g.handle, rig.platform.guests.stateOf(g.handle)]));

/** Whether the table lets a command take one guest from one state to another. */
function isLegal(rule: CommandRule, from: GuestState, to: GuestState): boolean {
	if (rule.id === COMMANDS.SHUTDOWN.id) return to === GuestState.UNINIT;
	if (rule.kind === 'creating') return from === GuestState.UNINIT && to === rule.next;
	return rule.kind === 'guest' && rule.next === to && rule.guest.includes(from);
}

function secretsOf({ platform }: Rig): Uint8Array[] {
	const { identity } = platform;
	const keys = [identity?.oca, identity?.pek, identity?.pdh, identity?.cek].map((k) => k?.privateKey);
	for (const { vek, channel } of platform.guests.values()) {
		keys.push(vek);
		// Without an owner these are zero, and no secret.
		if (channel.tek.some((b) => b !== 0)) keys.push(channel.tek, channel.tik, channel.masterSecret);
	}
	return keys.filter((k) => k !== undefined);
}

describe('random commands', () => {
	it('throw nothing, end in no illegal state, and let no key into DRAM', () => {
		const d = dice('fuzz');
		const rig = initialised({ dramBytes: 2 * MIB });
		const sound = soundFields(rig);
		const succeeded = new Set<CommandName>();
		for (let i = 0; i < COMMAND_COUNT; i++) {
			let name = d.oneOf(NAMES);
			if (RARE.includes(name) && d.below(name === 'SHUTDOWN' ? 40 : 6) > 0)
				name = d.oneOf(NAMES.filter((n) => !RARE.includes(n)));
			if (d.below(20) === 0) rig.machine.wbinvd();
			const before = statesOf(rig);
			const { status } = rig.command(name, fieldsFor(name, d, sound));
			const after = statesOf(rig);
			expect(status).not.toMatch(/^0x/);
			if (status === 'SUCCESS') succeeded.add(name);
			for (const handle of new Set([...before.keys(), ...after.keys()])) {
				const [from, to] = [before.get(handle) ?? GuestState.UNINIT, after.get(handle) ?? GuestState.UNINIT];
				if (from !== to)
					expect([status, isLegal(COMMANDS[name], from, to), name, from, to]).toEqual([
						'SUCCESS',
						true,
						name,
						from,
						to,
					]);
			}
			expect(rig.platform.state).toBe(rig.platform.identity === undefined ? 0 : after.size > 0 ? 2 : 1);
			if (i % 250 === 0) {
				const dram = Buffer.from(rig.machine.dram);
				for (const secret of secretsOf(rig)) expect(dram.includes(Buffer.from(secret))).toBe(false);
			}
		}
		// Without LAUNCH_SECRET and RECEIVE_UPDATE_DATA, which no dice can make a MAC for.
		const reachable = NAMES.filter((name) => name !== 'LAUNCH_SECRET' && name !== 'RECEIVE_UPDATE_DATA');
		expect(reachable.filter((name) => !succeeded.has(name))).toEqual([]);
	});

	it('with random bytes for buffers leave no plaintext in them and throw nothing', () => {
		const d = dice('noise');
		const rig = initialised({ dramBytes: 2 * MIB });
		rig.must('LAUNCH_START');
		rig.must('ACTIVATE', { handle: 1, asid: 100 });
		const page = new Uint8Array(4096).fill(0x5a);
		rig.machine.dram.set(page, 0x180000);
		rig.must('LAUNCH_UPDATE_DATA', { handle: 1, paddr: 0x180000n, length: 4096 });
		for (let i = 0; i < 3000; i++) {
			const rule = COMMANDS[d.oneOf(NAMES.filter((name) => name !== 'SHUTDOWN'))];
			const bytes = d.random.bytes(72);
			if (d.below(2) > 0) bytes.set([1 + d.below(2), 0, 0, 0]);
			rig.machine.dram.set(bytes, BUFFER_AT);
			expect(statusName(rig.machine.psp.submit(rule.id, spa(BUFFER_AT)))).not.toMatch(/^0x/);
			expect(Buffer.from(rig.at(BUFFER_AT, 72)).includes(Buffer.from(page.subarray(0, 8)))).toBe(false);
		}
	});

	it('are the same on two machines with one seed', () => {
		const run = () => {
			const rig = createRig({ dramBytes: 2 * MIB });
			rig.must('INIT');
			rig.machine.wbinvd();
			rig.must('DF_FLUSH');
			const d = dice('twins');
			const sound = { send: {}, receive: receiveStartFields(rig, 0) } as unknown as ReturnType<typeof soundFields>;
			const statuses: string[] = [];
			for (let i = 0; i < 500; i++) {
				const name = d.oneOf(NAMES.filter((n) => n !== 'SHUTDOWN'));
				// Signatures of node:crypto are randomised, so new certificates would differ.
				if (name !== 'PDH_GEN' && name !== 'PDH_CERT_EXPORT')
					statuses.push(rig.command(name, fieldsFor(name, d, sound)).status);
			}
			return { statuses, dram: Buffer.from(rig.machine.dram).toString('base64') };
		};
		expect(run()).toEqual(run());
	});
});
