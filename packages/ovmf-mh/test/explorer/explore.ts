import { HelperStatus, statusName } from '../../src/mailbox/abi.js';
import { keyOf, type Rules, type State, type Step, type Violation } from './world.js';

/** What an exploration came to. */
export interface Exploration {
	readonly states: number;
	readonly transitions: number;
	/** Steps of the longest shortest way. */
	readonly depth: number;
	/** Whether every reachable state was seen. */
	readonly isComplete: boolean;
	/** States in which a source is committed, and in which one is retired: a world without these proves little. */
	readonly committed: number;
	readonly handedOver: number;
	/** Commands that the real cores ran; the rest was looked up. */
	readonly commands: number;
	readonly milliseconds: number;
	readonly counterexample?: Counterexample;
}

interface Counterexample {
	readonly violation: Violation;
	/** One line a step, for {@link replay}. */
	readonly trace: readonly string[];
}

interface Reached {
	readonly parent: number;
	readonly step: Step;
}

/**
 * Breadth first over all that can happen, so that the first counterexample is a shortest one.
 *
 * @param most states; a world that has more is not explored to its end
 * @param ignored violations that are not looked for
 */
export function explore(rules: Rules, most: number, ignored: readonly Violation[] = []): Exploration {
	const began = performance.now();
	const seen = new Set<string>([keyOf(rules.start)]);
	const ways: (Reached | undefined)[] = [undefined];
	const tally = { transitions: 0, depth: 0, committed: 0, handedOver: 0 };
	let layer: { at: number; state: State }[] = [{ at: 0, state: rules.start }];
	const report = (isComplete: boolean, counterexample?: Counterexample): Exploration => ({
		states: ways.length,
		...tally,
		isComplete,
		commands: rules.machines.reduce((sum, { ran }) => sum + ran, 0),
		milliseconds: Math.round(performance.now() - began),
		...(counterexample && { counterexample }),
	});
	while (layer.length > 0) {
		const next: typeof layer = [];
		for (const { at, state } of layer) {
			for (const step of rules.steps(state)) {
				tally.transitions += 1;
				const { next: after, violations } = rules.apply(state, step);
				const key = keyOf(after);
				const isNew = !seen.has(key);
				const all = isNew ? [...violations, ...rules.check(after)] : violations;
				const found = all.find((violation) => !ignored.includes(violation));
				if (found === undefined && !isNew) continue;
				ways.push({ parent: at, step });
				if (found !== undefined) {
					return report(false, { violation: found, trace: traceTo(rules, ways, ways.length - 1) });
				}
				seen.add(key);
				if (rules.isCommitted(after)) tally.committed += 1;
				if (rules.isHandedOver(after)) tally.handedOver += 1;
				next.push({ at: ways.length - 1, state: after });
				if (ways.length >= most) return report(false);
			}
		}
		if (next.length > 0) tally.depth += 1;
		layer = next;
	}
	return report(true);
}

/** `3: B.accept(1)`: the third step gives what came out of the first to machine B's command. */
function traceTo(rules: Rules, ways: readonly (Reached | undefined)[], last: number): string[] {
	const steps: Step[] = [];
	for (let way = ways[last]; way !== undefined; way = ways[way.parent]) steps.unshift(way.step);
	const origin = new Map<number, number>();
	return steps.map(({ machine, outcome, message }, i) => {
		if (outcome.output >= 0 && !origin.has(outcome.output)) origin.set(outcome.output, i + 1);
		const input = message < 0 ? '' : `(${origin.get(message)})`;
		const result = outcome.status === HelperStatus.success ? '' : ` = ${statusName(outcome.status)}`;
		return `${i + 1}: ${rules.world.machines[machine]?.name}.${outcome.label}${input}${result}`;
	});
}

/** A line that is not possible where it stands. */
export class ReplayError extends Error {
	override readonly name = 'ReplayError';
}

/** Goes the way of a trace again, in a world of its own. The violation at its end, if there still is one. */
export function replay(
	rules: Rules,
	trace: readonly string[],
	ignored: readonly Violation[] = [],
): Violation | undefined {
	let state = rules.start;
	const outputs: number[] = [];
	for (const line of trace) {
		const [, name, label, input] = /^\d+: (\w+)\.([^( ]+)(?:\((\d+)\))?/.exec(line) ?? [];
		const message = input === undefined ? -1 : (outputs[Number(input) - 1] ?? -1);
		const step = [...rules.steps(state)].find(
			(s) => rules.world.machines[s.machine]?.name === name && s.outcome.label === label && s.message === message,
		);
		if (step === undefined) throw new ReplayError(`replay: no such step here: ${line}`);
		outputs.push(step.outcome.output);
		const { next, violations } = rules.apply(state, step);
		const found = [...violations, ...rules.check(next)].find((violation) => !ignored.includes(violation));
		if (found !== undefined) return found;
		state = next;
	}
	return undefined;
}
