import { PAGE_SIZE } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import type { PageRoute, Quirk, RoutedPage, RouteRules } from './index.js';
import { routePage, skipsHelperPage } from './index.js';

const GIB = 2 ** 30;

describe('pages of the mailbox', () => {
	/** A second block of RAM, shown at 4 GiB, and the first, at 0. */
	const second = (blockOffset: number) => ({ blockOffset, gpa: 4 * GIB + blockOffset });
	const first = (gpa: number) => ({ blockOffset: gpa, gpa });

	it.each<[Quirk, boolean]>([
		['asPosted', true],
		['fixed', false],
	])('K22: the same offset in a second RAM block is dropped only when the offset is tested (%s)', (quirk, lost) => {
		expect(skipsHelperPage(second(0x820000), quirk)).toBe(lost);
		expect(skipsHelperPage(second(0x821000), quirk)).toBe(lost);
		// A block that begins elsewhere, so that the mailbox has another offset in it.
		expect(skipsHelperPage({ blockOffset: 0x20000, gpa: 0x820000 }, quirk)).toBe(!lost);
		expect(skipsHelperPage(first(0x820000), quirk)).toBe(true);
		expect(skipsHelperPage(first(0x81f000), quirk)).toBe(false);
	});

	it.each<[Quirk, boolean]>([
		['asPosted', false],
		['fixed', true],
	])('K5: the third reserved page is dropped only by a VMM that knows of it (%s)', (extent, skipped) => {
		for (const address of ['asPosted', 'fixed'] as const) {
			expect(skipsHelperPage(first(0x821000), address, extent)).toBe(true);
			expect(skipsHelperPage(first(0x822000), address, extent)).toBe(skipped);
			expect(skipsHelperPage(first(0x823000), address, extent)).toBe(false);
		}
	});
});

describe('the way of a page', () => {
	const at = (address: number, o: Partial<RoutedPage> = {}): RoutedPage => ({
		region: 'pc.ram',
		kind: 'ram',
		regionAddress: 0,
		blockOffset: address,
		gpa: address,
		...o,
	});
	const shared = [{ gfnStart: 0x100, gfnEnd: 0x110 }];
	const rules = (mode: RouteRules['mode'], quirk: Quirk = 'asPosted'): RouteRules => ({
		mode,
		skip: quirk,
		frame: quirk,
	});
	const flash = { kind: 'romd', regionAddress: 0xffc00000 } as const;

	it.each<[string, RoutedPage, PageRoute, PageRoute]>([
		['of the mailbox', at(0x821000), 'sealed', 'dropped'],
		['of ROM', at(0, { region: 'pc.rom', kind: 'rom', regionAddress: 0xc0000 }), 'plain', 'plain'],
		['of ROM at the offset of the mailbox', at(0x820000, { region: 'pc.bios', kind: 'rom' }), 'plain', 'dropped'],
		['of a ROM device', at(0x1000, { region: 'other', kind: 'romd' }), 'sealed', 'plain'],
		['of no RAM', at(0x1000, { region: 'other', kind: 'io' }), 'sealed', 'plain'],
		['of the code flash', at(0x1000, { ...flash, region: 'system.flash0' }), 'sealed', 'plain'],
		['of the variable store', at(0x1000, { ...flash, region: 'system.flash1' }), 'plain', 'plain'],
		['of the frame buffer', at(0x1000, { region: 'vga.vram', regionAddress: 0xfd000000 }), 'sealed', 'plain'],
		['before a shared region', at(0xff000), 'sealed', 'sealed'],
		['first of a shared region', at(0x100000), 'plain', 'plain'],
		['last of a shared region', at(0x10f000), 'plain', 'plain'],
		['behind a shared region', at(0x110000), 'sealed', 'sealed'],
	])('%s is chosen in the order of the series', (_name, page, psp, helper) => {
		expect(routePage(page, shared, rules('psp'))).toBe(psp);
		expect(routePage(page, shared, rules('helper'))).toBe(helper);
	});

	it.each<[Quirk, PageRoute, PageRoute]>([
		['asPosted', 'sealed', 'plain'],
		['fixed', 'plain', 'sealed'],
	])(
		'K22: pages of a second piece of RAM have the status of their own frame only when translated (%s)',
		(quirk, a, b) => {
			const high = at(3 * GIB, { gpa: 4 * GIB });
			const own = [{ gfnStart: (4 * GIB) / PAGE_SIZE, gfnEnd: (4 * GIB) / PAGE_SIZE + 1 }];
			const others = [{ gfnStart: (3 * GIB) / PAGE_SIZE, gfnEnd: (3 * GIB) / PAGE_SIZE + 1 }];
			expect(routePage(high, own, rules('helper', quirk))).toBe(a);
			expect(routePage(high, others, rules('helper', quirk))).toBe(b);
		},
	);

	it('of the flash is forced before its status is asked', () => {
		const page = at(0x1000, { kind: 'ram', region: 'system.flash0' });
		const everything = [{ gfnStart: 0, gfnEnd: 2 ** 32 }];
		expect(routePage(page, everything, rules('psp'))).toBe('sealed');
		expect(routePage({ ...page, region: 'vga.vram' }, everything, rules('helper'))).toBe('plain');
	});
});
