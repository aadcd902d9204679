import { expect } from 'vitest';
import { COMMANDS, type CommandName } from '../src/abi/commands.js';
import type { Rig } from './rig.js';

type Fields = Parameters<Rig['command']>[1] & object;

/**
 * Expects a command to be refused with a status, to change nothing, and to leave its buffer as it was, apart from
 * `answers`: what a length query fills in.
 */
export function expectRefusal(rig: Rig, name: CommandName, fields: Fields, status: string, answers: Fields = {}): void {
	const rule = COMMANDS[name];
	const codec = 'buffer' in rule ? rule.buffer : undefined;
	const given = codec === undefined ? {} : codec.decode(codec.encode(fields));
	const before = rig.snapshot();
	const answer = rig.command(name, fields);
	expect(answer.status).toBe(status);
	expect(answer.out).toEqual({ ...given, ...answers });
	expect(rig.snapshot()).toEqual(before);
}

/** A command, what is wrong with it, and the status that says so. */
export type Case = readonly [what: string, change: Fields | ((rig: Rig) => Fields), status: string];

/** Fields of a sound command with a change. */
export const changed = (rig: Rig, sound: Fields, change: Case[1]): Fields => ({
	...sound,
	...(typeof change === 'function' ? change(rig) : change),
});

/** Addresses that the firmware touches for nobody, in a machine of 4 MiB and C-bit 51 without a TMR. */
export const FORBIDDEN: readonly (readonly [string, bigint])[] = [
	['in ASEG', 0xa0000n],
	['running into ASEG', 0x9fff0n],
	['at the end of ASEG', 0xbfff0n],
	['behind DRAM', 0x400000n],
	['running out of DRAM', 0x3ffff0n],
	['with an ASID bit set', 0x200000n | (1n << 45n)],
	['with bit 52 set', 0x200000n | (1n << 52n)],
	['with all bits set', 0xfffffffffffffff0n],
];
