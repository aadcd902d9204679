import { fc } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { createHarvestRig, type HarvestRig, type Op, VCPUS, type Way } from './harvest-rig.js';

/*
 * A guest on two vCPUs changes the status of its pages, writes to them, starts another kernel, is reset, and is harvested in
 * between any two blocks of its code. CVM_LONG=1 makes it many runs from a fresh seed; CVM_SEED repeats them.
 */
const isLong = process.env['CVM_LONG'] === '1';
const seed = Number(process.env['CVM_SEED'] ?? (isLong ? Date.now() % 2 ** 31 : 4));
const PAGES = 512;

type Step =
	| {
			readonly kind: 'order';
			readonly vcpu: number;
			readonly op: Op;
			readonly page: number;
			readonly pages: number;
			readonly byte: number;
	  }
	| { readonly kind: 'run'; readonly vcpu: number; readonly blocks: number }
	| { readonly kind: 'harvest' | 'kexec' | 'reset' | 'settle' };

const VCPU = fc.nat(VCPUS - 1);
const ORDER: fc.Arbitrary<Step> = fc.record({
	kind: fc.constant('order' as const),
	vcpu: VCPU,
	op: fc.constantFrom<Op>('share', 'unshare', 'write', 'write'),
	page: fc.nat(PAGES - 1),
	pages: fc.oneof(
		{ weight: 4, arbitrary: fc.integer({ min: 1, max: 20 }) },
		{ weight: 1, arbitrary: fc.constant(PAGES) },
	),
	byte: fc.nat(255),
});
const RUN: fc.Arbitrary<Step> = fc.record({
	kind: fc.constant('run' as const),
	vcpu: VCPU,
	blocks: fc.integer({ min: 1, max: 12 }),
});
const just = <K extends 'harvest' | 'kexec' | 'reset' | 'settle'>(kind: K): fc.Arbitrary<Step> => fc.constant({ kind });
const STEP = fc.oneof(
	{ weight: 12, arbitrary: ORDER },
	{ weight: 20, arbitrary: RUN },
	{ weight: 8, arbitrary: just('harvest') },
	{ weight: 3, arbitrary: just('settle') },
	{ weight: 1, arbitrary: just('kexec') },
	{ weight: 1, arbitrary: just('reset') },
);

/** Everything that must hold once the guest has done what it was told and was harvested. */
function check(rig: HarvestRig): void {
	rig.drain();
	rig.harvest();
	expect({ stale: rig.stalePage(), misjudged: rig.misjudgedPage(), missent: rig.missentPage() }).toEqual({
		stale: -1,
		misjudged: -1,
		missent: -1,
	});
	expect(rig.harvest()).toBe(0);
}

/** The boot CPU starts another kernel, while the other one is told nothing but to idle. */
function kexec(rig: HarvestRig): void {
	rig.drain();
	rig.order(0, 'kexec');
	// The other one notices when it is idle, and is gone from then on.
	for (let i = 0; i < 40 && !rig.isReady(0); i++) {
		if (rig.isReady(1)) rig.order(1, 'idle');
		rig.step(1, 3);
		rig.step(0, 3);
		if (i % 8 === 0) rig.harvest();
	}
	check(rig);
}

function perform(rig: HarvestRig, step: Step): void {
	switch (step.kind) {
		case 'order':
			if (!rig.isReady(step.vcpu)) rig.step(step.vcpu, 5);
			else rig.order(step.vcpu, step.op, step.page, Math.min(step.pages, PAGES - step.page), step.byte);
			break;
		case 'run':
			if (!rig.isReady(step.vcpu)) rig.step(step.vcpu, step.blocks);
			break;
		case 'harvest':
			rig.harvest();
			expect(rig.stalePage()).toBe(-1);
			break;
		case 'kexec':
			kexec(rig);
			break;
		case 'reset':
			rig.reset();
			rig.step(0, 40);
			rig.harvest();
			check(rig);
			break;
		case 'settle':
			check(rig);
			break;
	}
}

describe('whatever a guest does and whenever it is harvested', () => {
	it.each<['v12' | 'upstream', Way]>([
		['v12', 'GET'],
		['v12', 'ring'],
		['upstream', 'GET and CLEAR'],
		['upstream', 'ring'],
	])(
		'no page that changed is missed, and the list of shared pages is what the page tables say (%s, %s)',
		(abi, way) => {
			const rig = createHarvestRig(abi, way);
			const property = fc.property(fc.array(STEP, { minLength: 10, maxLength: 60 }), (steps) => {
				for (const step of steps) perform(rig, step);
				check(rig);
			});
			// One guest lives through all runs, so that a failure cannot be made smaller.
			fc.assert(property, { seed, numRuns: isLong ? 3000 : 15, endOnFailure: true });
		},
		isLong ? 1_200_000 : 60_000,
	);
});
