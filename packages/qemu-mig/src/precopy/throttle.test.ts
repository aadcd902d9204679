import { describe, expect, it } from 'vitest';
import { connect, TWO_BLOCKS } from '../../test/migration.js';
import { createFakeClock, createFakeSource } from '../testing.js';
import type { PrecopyParameters } from './parameters.js';
import { PrecopyStatistics } from './statistics.js';
import { AutoConverge } from './throttle.js';

/** A throttle whose VM notes what it is told, and a way to end periods. */
function prepared(parameters: Partial<PrecopyParameters> = {}) {
	const told: number[] = [];
	const statistics = new PrecopyStatistics(() => 0);
	const vm = { stop: async () => {}, devices: () => [], throttle: (percent: number) => void told.push(percent) };
	const throttle = new AutoConverge(vm, { maxBandwidth: 0, downtimeLimit: 300, ...parameters }, statistics);
	const period = (dirty: number, sent: number): number => {
		statistics.precopyBytes += sent;
		throttle.periodEnded(dirty);
		return statistics.throttlePercentage;
	};
	return { told, statistics, throttle, period };
}

describe('auto-converge', () => {
	it('throttles at every second period in which more than half of what was sent became dirty', () => {
		const { period, told } = prepared();
		expect([period(501, 1000), period(501, 1000), period(501, 1000), period(501, 1000)]).toEqual([0, 20, 20, 30]);
		expect(told).toEqual([20, 30]);
	});

	it('keeps its count over a period in which little became dirty, as QEMU does, and counts half as little', () => {
		const { period } = prepared();
		expect([period(501, 1000), period(500, 1000), period(501, 1000)]).toEqual([0, 0, 20]);
	});

	it('goes by its parameters, and not beyond max-cpu-throttle', () => {
		const parameters = { throttleTriggerThreshold: 100, cpuThrottleInitial: 60, cpuThrottleIncrement: 25 };
		const { period } = prepared({ ...parameters, maxCpuThrottle: 80 });
		const twice = (dirty: number) => [period(dirty, 1000), period(dirty, 1000)].at(-1);
		expect([twice(1000), twice(1001), twice(1001), twice(1001)]).toEqual([0, 60, 80, 80]);
	});

	it('takes smaller steps with tailslow where less is enough', () => {
		// At 20 % the guest has 80: it should have 80 * 500/520 = 76.
		const { period } = prepared({ cpuThrottleTailslow: true });
		for (const dirty of [520, 520, 520]) period(dirty, 1000);
		expect(period(520, 1000)).toBe(24);
		period(5000, 1000);
		expect(period(5000, 1000)).toBe(34);
	});

	it('is shown while it lasts and lifted at the end', async () => {
		const told: number[] = [];
		const shown: unknown[] = [];
		const source = createFakeSource({ blocks: TWO_BLOCKS });
		for (const bytes of source.memory) bytes.fill(1);
		const clock = createFakeClock();
		const { precopy, log } = connect({
			source,
			clock,
			// 20 pages in a period of 100 ms; 10 of them fit into the downtime.
			parameters: { maxBandwidth: 20 * 4104 * 10, downtimeLimit: 50 },
			capabilities: { autoConverge: true },
			vm: {
				stop: async () => void log.push('stop'),
				devices: () => [],
				throttle: (percent) => {
					told.push(percent);
					shown.push(precopy.statistics.info()['cpu-throttle-percentage']);
				},
			},
		});
		clock.onIdle = () => {
			if (log.includes('stop') || precopy.statistics.throttlePercentage >= 40) return;
			for (let page = 0; page < 100; page++) source.write(0, page * 4096, Uint8Array.of(clock.sleeps.length, 7));
		};
		expect(await precopy.run()).toEqual({ status: 'completed' });
		expect(told).toEqual([20, 30, 40, 0]);
		expect(shown).toEqual([20, 30, 40, undefined]);
	});

	it('needs a VM that can be throttled', () => {
		expect(() => connect({ capabilities: { autoConverge: true } })).toThrow(
			new RangeError('auto-converge: expected a VM with throttle, got none'),
		);
	});
});
