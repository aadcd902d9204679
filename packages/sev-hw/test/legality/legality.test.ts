import { spa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { COMMANDS, type CommandName, type CommandRule } from '../../src/abi/commands.js';
import { GuestState, PlatformState } from '../../src/abi/states.js';
import { Status } from '../../src/abi/status.js';
import { BUFFER_AT } from '../rig.js';
import { type Prepared, prepare } from './rigs.js';
import {
	expectedStatus,
	FLAWS,
	type Flaw,
	GUEST_STATES,
	type GuestStateName,
	isLegalGuest,
	isLegalPlatform,
	PLATFORM_STATES,
	type PlatformStateName,
	type Situation,
	SPEC,
} from './spec.js';

const NAMES = Object.keys(SPEC) as CommandName[];
const ruleOf = (name: CommandName): CommandRule => COMMANDS[name];

describe('the command table', () => {
	it('has the commands of the specification and no other', () => {
		expect(Object.keys(COMMANDS).sort()).toEqual([...NAMES].sort());
	});

	it.each(NAMES)('has the row of %s', (name) => {
		const row = SPEC[name];
		const rule = ruleOf(name);
		const ofGuest = rule.kind === 'guest';
		const nextName = (): string | undefined => {
			if (rule.next === undefined) return undefined;
			if (rule.kind === 'platform') return PLATFORM_STATES[rule.next];
			return rule.next === GuestState.UNINIT ? 'gone' : GUEST_STATES[rule.next];
		};
		expect({
			id: rule.id,
			bytes: rule.buffer?.size ?? 0,
			copyBack: rule.copyBack,
			platform: PLATFORM_STATES.filter((state) => rule.platform.includes(PlatformState[state])),
			creates: rule.kind === 'creating',
			guest: ofGuest ? GUEST_STATES.filter((state) => rule.guest.includes(GuestState[state])) : undefined,
			next: nextName(),
		}).toEqual({
			id: row.id,
			bytes: row.bytes,
			copyBack: row.copyBack,
			platform: PLATFORM_STATES.filter((state) => isLegalPlatform(row, state)),
			creates: row.creates ?? false,
			guest: row.guest === undefined ? undefined : GUEST_STATES.filter((state) => isLegalGuest(row, state)),
			next: row.next,
		});
	});
});

const numbered = (names: readonly string[], states: Readonly<Record<string, number>>) =>
	Object.fromEntries(names.map((name, i) => [name, i])) as typeof states;

it('states have the numbers of the specification', () => {
	expect(PlatformState).toEqual(numbered(PLATFORM_STATES, PlatformState));
	expect(GuestState).toEqual(numbered(GUEST_STATES, GuestState));
});

const BOOLEANS = [false, true] as const;

/** A guest exists only while the platform is WORKING; in the other states the handle is one that such a guest had. */
function situationsOf(platform: PlatformStateName, guest: GuestStateName): Situation[] {
	if (platform !== 'WORKING' || guest === 'UNINIT') return [{ platform, guest, bound: false, es: false }];
	return BOOLEANS.flatMap((bound) => BOOLEANS.map((es) => ({ platform, guest, bound, es })));
}

/** Refusals change nothing, so one rig serves them all; whatever changed one throws it away. */
const unchanged = new Map<string, { readonly prepared: Prepared; readonly snapshot: string; readonly dram: Buffer }>();

/** DRAM apart from the page where the rig lays its command buffers. */
function sameDram(before: Buffer, now: Uint8Array): boolean {
	const end = BUFFER_AT + 4096;
	return (
		before.subarray(0, BUFFER_AT).equals(now.subarray(0, BUFFER_AT)) && before.subarray(end).equals(now.subarray(end))
	);
}

function refusing(situation: Situation) {
	const key = JSON.stringify(situation);
	const known = unchanged.get(key);
	if (known !== undefined) return { key, ...known };
	const prepared = prepare(situation, NAMES);
	const { rig } = prepared;
	const made = { prepared, snapshot: rig.snapshot({ dram: false }), dram: Buffer.from(rig.machine.dram) };
	unchanged.set(key, made);
	return { key, ...made };
}

/** Names of what is not the same in two snapshots: their text is long. */
function differences(before: string, after: string): string[] {
	if (before === after) return [];
	const [old, now] = [before, after].map((text) => JSON.parse(text) as Record<string, unknown>);
	return Object.keys({ ...old, ...now }).filter((key) => JSON.stringify(old?.[key]) !== JSON.stringify(now?.[key]));
}

function expectRefused(name: CommandName, situation: Situation, flaw: Flaw | undefined, status: string): void {
	const { key, prepared, snapshot, dram } = refusing(situation);
	const { rig } = prepared;
	unchanged.delete(key);
	rig.machine.wbinvd();
	const fields = { ...prepared.sound(name), ...flaw?.change };
	const rule = ruleOf(name);
	const codec = COMMANDS[name] as { buffer?: { encode(v: object): Uint8Array; decode(d: Uint8Array): object } };
	const given = codec.buffer?.decode(codec.buffer.encode(fields)) ?? {};
	const answers = status === flaw?.status && rule.copyBack === 'query' ? flaw.answers : undefined;
	const answer = rig.command(name, fields);
	const where = { name, ...situation, change: flaw?.change };
	expect({ ...where, status: answer.status, out: answer.out }).toEqual({
		...where,
		status,
		out: { ...given, ...answers },
	});
	const changed = differences(snapshot, rig.snapshot({ dram: false }));
	if (!sameDram(dram, rig.machine.dram)) changed.push('dram');
	expect({ ...where, changed }).toEqual({ ...where, changed: [] });
	unchanged.set(key, { prepared, snapshot, dram });
}

function expectDone(name: CommandName, situation: Situation): void {
	const { rig, handle, sound } = prepare(situation, [name]);
	rig.machine.wbinvd();
	const { status, out } = rig.command(name, sound(name));
	const stateOf = (of: number) => {
		const answer = rig.command('GUEST_STATUS', { handle: of });
		return answer.status === 'SUCCESS' ? GUEST_STATES[Number(answer.out.state)] : 'UNINIT';
	};
	const { creates, next } = SPEC[name];
	const platform = PLATFORM_STATES[Number(rig.must('PLATFORM_STATUS').state)];
	const guest = stateOf(creates ? Number(out.handle) : handle);
	const gone = SPEC[name].guest !== undefined && next === 'gone';
	const ofPlatform = SPEC[name].guest === undefined && !creates;
	const expected = {
		status: 'SUCCESS',
		platform: creates ? 'WORKING' : gone ? 'INIT' : ofPlatform ? (next ?? situation.platform) : situation.platform,
		guest: gone || next === 'UNINIT' ? 'UNINIT' : ofPlatform ? standing(situation) : (next ?? situation.guest),
	};
	const where = { name, ...situation };
	expect({ where, status, platform, guest }).toEqual({ where, ...expected });
}

/** State of the guest before a command of the platform: none in the states that have none. */
const standing = ({ platform, guest }: Situation): GuestStateName => (platform === 'WORKING' ? guest : 'UNINIT');

describe.each(NAMES)('%s', (name) => {
	describe.each(PLATFORM_STATES)('with the platform in %s', (platform) => {
		it.each(GUEST_STATES)(
			'and a guest in %s answers as the specification says, and changes nothing when it refuses',
			(guest) => {
				for (const situation of situationsOf(platform, guest)) {
					for (const flaw of FLAWS[name] ?? []) {
						const status = expectedStatus(name, situation, flaw);
						expectRefused(name, situation, flaw, status);
					}
					const status = expectedStatus(name, situation);
					if (status === 'SUCCESS') expectDone(name, situation);
					else expectRefused(name, situation, undefined, status);
				}
			},
		);
	});
});

describe('ids that no command has', () => {
	const known: readonly number[] = NAMES.map((name) => SPEC[name].id);
	it('are answered with INVALID_COMMAND, whatever the address', () => {
		const { rig } = prepare({ platform: 'WORKING', guest: 'RUNNING', bound: true, es: false }, []);
		const before = rig.snapshot();
		for (let id = 0; id <= 0x0ff; id++) {
			if (!known.includes(id)) expect(rig.machine.psp.submit(id, spa(0xa0000))).toBe(Status.INVALID_COMMAND);
		}
		expect(rig.machine.psp.submit(0x10041, spa(0))).toBe(Status.INVALID_COMMAND);
		expect(rig.snapshot()).toEqual(before);
	});
});
