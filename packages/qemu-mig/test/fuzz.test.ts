import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { createDice, damaged } from './fuzz/damage.js';
import type { Seed } from './fuzz/seeds.js';
import { fuzzSeeds } from './fuzz/seeds.js';
import { TARGETS } from './fuzz/targets.js';

/*
 * Damaged streams against everything that reads them: 5,000 from a fixed seed, or with CVM_LONG=1 200,000 from a fresh one,
 * or from CVM_SEED. A failure names the seed of its piece: CVM_SEED='…' alone runs that again.
 */

const PIECE = 5000;
const PIECES = 40;
const isLong = process.env['CVM_LONG'] === '1';
const start = process.env['CVM_SEED'] ?? (isLong ? `long ${Date.now().toString(36)}` : 'streams');
const pieces = isLong ? Array.from({ length: PIECES }, (_, i) => `${start}/${i}`) : [start];

/** Bytes a case may allocate, or the whole may hold at its end. */
const MEMORY = 64 * 2 ** 20;

const TYPED: ReadonlySet<string> = new Set([
	'StreamError',
	'CodecError',
	'ImageError',
	'ReturnPathError',
	'DescriptionError',
	'DeviceStateError',
]);

/** A typed error has a name of ours and a code, and says it in one line. */
const isTyped = (error: unknown): boolean =>
	error instanceof Error && TYPED.has(error.name) && 'code' in error && !error.message.includes('\n');

const describeError = (error: unknown): string =>
	error instanceof Error ? (error.stack ?? String(error)) : String(error);

const held = (): number => {
	const { arrayBuffers, heapUsed } = process.memoryUsage();
	return arrayBuffers + heapUsed;
};

setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');

/** Two thirds of the cases go to readers of whole streams. */
const WEIGHTED = [...Object.keys(TARGETS), 'reader', 'relay', 'image', 'verify', 'load'];

interface Tally {
	readonly read: Map<string, number>;
	readonly refused: Map<string, number>;
	readonly names: Set<string>;
}

/** Runs one case. @returns what is wrong, or undefined */
async function runCase(seeds: readonly Seed[], name: string, tally: Tally): Promise<string | undefined> {
	const dice = createDice(name);
	const seed = dice.oneOf(seeds);
	const other = dice.oneOf(seeds).inputs[0] ?? new Uint8Array(1);
	const victim = dice.below(seed.inputs.length);
	let how = '';
	const inputs = seed.inputs.map((data, i) => {
		if (i !== victim) return data;
		const bad = damaged(dice, data, i === 0 ? seed.marks : [0, 64], other);
		how = bad.how;
		return bad.data;
	});
	const target = dice.oneOf(WEIGHTED);
	const context = `${name}: ${target} of '${seed.name}', input ${victim}, ${how}`;
	const before = held();
	let error: unknown;
	try {
		await TARGETS[target]?.({ seed, inputs, dice });
	} catch (thrown) {
		error = thrown;
	}
	const grown = held() - before;
	if (grown > MEMORY) return `${context}: took ${grown} bytes`;
	const counts = error === undefined ? tally.read : tally.refused;
	counts.set(target, (counts.get(target) ?? 0) + 1);
	if (error === undefined) return undefined;
	if (!isTyped(error)) return `${context}: ${describeError(error)}`;
	tally.names.add((error as Error).name);
	return undefined;
}

const tally: Tally = { read: new Map(), refused: new Map(), names: new Set() };

it.each(pieces)(
	`${PIECE} damaged streams of seed %s are read or refused with a typed error`,
	{ timeout: 900_000 },
	async (piece) => {
		const seeds = await fuzzSeeds();
		const wrong: string[] = [];
		collect();
		const before = held();
		for (let i = 0; i < PIECE && wrong.length < 20; i++) {
			const found = await runCase(seeds, `${piece}#${i}`, tally);
			if (found !== undefined) wrong.push(found);
		}
		expect(wrong).toEqual([]);
		collect();
		expect(held() - before).toBeLessThan(MEMORY);
	},
);

it('met damage that nothing notices and damage that nothing survives, everywhere', () => {
	const targets = Object.keys(TARGETS);
	expect(targets.filter((name) => name !== 'description' && !tally.read.has(name))).toEqual([]);
	// These two report faults and throw nothing.
	expect(targets.filter((name) => !['verify', 'salvage'].includes(name) && !tally.refused.has(name))).toEqual([]);
	expect([...tally.names].sort()).toEqual([...TYPED].sort());
});
