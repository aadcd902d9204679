import { describe, expect, it } from 'vitest';
import { type Exploration, explore, replay } from './explore.js';
import { LARGE_WORLDS, rulesOf, WORLDS } from './worlds.js';

/*
 * Everything that hosts and network can do to real helper cores, in small worlds. `pnpm --filter @cvm/ovmf-mh explore` goes through
 * larger ones as well, and prints how far it came. A counterexample is printed as a trace for `replay`.
 */

const isLong = process.env['CVM_LONG'] === '1';
const MOST = isLong ? 20_000_000 : 2_000_000;
const worlds = isLong ? [...WORLDS, ...LARGE_WORLDS] : WORLDS;

const lineOf = (name: string, e: Exploration): string =>
	[
		`${name}: ${e.states} states${e.isComplete ? '' : ' and more'}, ${e.transitions} transitions, depth ${e.depth},`,
		`${e.committed} committed, ${e.handedOver} handed over, ${e.commands} commands run, ${e.milliseconds} ms`,
	].join(' ');

describe('in every state that hosts and network can bring about', () => {
	for (const world of worlds) {
		it(`${world.name}: one copy at most, never stale, never none`, { timeout: 3_600_000 }, () => {
			const found = explore(rulesOf(world), MOST);
			const line = lineOf(world.name, found);
			if (isLong) console.log(line);
			const { violation, trace = [] } = found.counterexample ?? {};
			expect(violation, `\n${trace.join('\n')}\n${line}`).toBeUndefined();
			expect(found.isComplete, line).toBe(true);
			expect(found.handedOver, 'migrations that came through').toBeGreaterThan(0);
		});
	}
});

describe('a migration without trouble', () => {
	const trace = [
		...['1: A.hello', '2: B.accept(1)', '3: A.confirm(2)', '4: B.establish(3)', '5: A.save/0[0]', '6: B.restore(5)'],
		...['7: A.write[0]', '8: A.epoch', '9: B.nextEpoch(8)', '10: A.freeze', '11: A.save/0[0]', '12: B.restore(11)'],
		...['13: A.digest/0', '14: A.manifest', '15: B.verify(14)', '16: B.digest/0', '17: B.verify(14)'],
		...['18: A.start(17)', '19: B.run(18)', '20: A.retire(19)'],
	];

	it('is one of the ways through the first world', () => {
		const rules = rulesOf(WORLDS[0] ?? expect.unreachable('a first world'));
		expect(replay(rules, trace)).toBeUndefined();
	});
});
