import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { createKernel } from '../kernel.js';
import { createSharedPages } from '../vmm/shared-pages.js';
import { createPageStatusBuffer, openPageStatus } from './in-kvm.js';

const FRAMES = 256;
const change = fc.record({ gfn: fc.nat(FRAMES - 1), pages: fc.nat(100), isEncrypted: fc.boolean() });

describe.each(['v4', 'v9', 'v10'] as const)('page status in the kernel of %s', (series) => {
	const kernel = createKernel('v12', undefined, series);

	test.prop([fc.array(change, { maxLength: 40 })], { numRuns: 60 })(
		'equals what a VMM would keep that saw the same hypercalls',
		(changes) => {
			const buffer = createPageStatusBuffer(kernel);
			if (buffer === undefined) throw new Error('rig: expected a buffer');
			// Two threads' views of the same memory, by turns.
			const views = [openPageStatus(kernel, buffer), openPageStatus(kernel, buffer)];
			views[0]?.bitmap?.grow(FRAMES + 100);
			const model = createSharedPages();
			for (const [i, { gfn, pages, isEncrypted }] of changes.entries()) {
				expect(views[i % 2]?.record(BigInt(gfn) << 12n, BigInt(pages), isEncrypted, () => true)).toBe(0);
				model.set(gfn, pages, !isEncrypted);
			}
			const { bitmap, list } = views[0] ?? {};
			if (list !== undefined) {
				expect(list.entries).toEqual(model.ranges);
				return;
			}
			for (let gfn = 0; gfn < FRAMES + 100; gfn++) expect(bitmap?.isShared(gfn)).toBe(model.has(gfn));
		},
	);

	const word = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
	test.prop([word, word, fc.boolean()], { numRuns: 200 })('takes any arguments', (gpa, pages, isEncrypted) => {
		const buffer = createPageStatusBuffer(kernel);
		if (buffer === undefined) throw new Error('rig: expected a buffer');
		expect([0, -12, -22]).toContain(openPageStatus(kernel, buffer).record(gpa, pages, isEncrypted, () => false));
	});
});
