import type { UserMemoryRegion, Vm } from '@cvm/kvm';
import { createSharedPages } from '@cvm/kvm/vmm';
import { type Gpa, gpa, hva, PAGE_SIZE, spa } from '@cvm/layout';
import { HelperGeometry, helperRanges, mailboxOf } from '@cvm/ovmf-mh/host';
import type { PageHelper, PageHelperTarget } from '@cvm/qemu-mig';
import { describe, expect, it } from 'vitest';
import { type GuestPages, isHelperMemory, type MappedBlock, pageSink, pageSource } from './pages.js';

const RAM_PAGES = 0x1000;
const READONLY = 2;

function block(idstr: string, at: Gpa, pages: number, flags: number, slot: number): MappedBlock {
	const bytes = new Uint8Array(pages * PAGE_SIZE).fill(0xaa);
	return { idstr, usedLength: bytes.length, gpa: at, slot, flags, mapping: { bytes, hva: hva(0), spa: spa(0) } };
}

/** 16 MiB of RAM, 16 pages of ROM and 16 of video memory. */
function guest() {
	const blocks = [
		block('pc.ram', gpa(0), RAM_PAGES, 0, 0),
		block('pc.bios', gpa(2 ** 32 - 16 * PAGE_SIZE), 16, READONLY, 1),
		block('vga.vram', gpa(0xfd000000), 16, 0, 2),
	];
	const regions: UserMemoryRegion[] = [];
	const shared = createSharedPages();
	const pages: GuestPages = {
		vm: {} as Vm,
		blocks,
		shared,
		touched: blocks.map((b) => new Uint32Array(b.usedLength / PAGE_SIZE / 32 + 1)),
		confidential: true,
		allocate: (bytes) => new Uint8Array(bytes),
		setRegion: (region) => {
			regions.push(region);
			return 0;
		},
	};
	return { pages, shared, regions, bytes: (index: number) => blocks[index]?.mapping.bytes ?? new Uint8Array() };
}

const helper: PageHelper = { seal: () => undefined };
const target: PageHelperTarget = { open: () => undefined };
const frame = (at: number) => at / PAGE_SIZE;

describe('a source with a helper', () => {
	it('gives it private RAM; ROM, video memory and shared pages go as they are', () => {
		const { pages, shared } = guest();
		shared.set(3, 2, true);
		const source = pageSource(pages, { helper });
		expect([2, 3, 4, 5].map((page) => source.isPrivate(0, page))).toEqual([true, false, false, true]);
		expect(source.isPrivate(1, 0)).toBe(false);
		expect(source.isPrivate(2, 0)).toBe(false);
		expect(pageSource(pages).isPrivate(1, 0), 'to the firmware ROM is private like the rest').toBe(true);
		expect(pageSource(pages).isPrivate(2, 0), 'and video memory').toBe(true);
	});

	it('leaves out what it is told to, by address and by offset', () => {
		const asked: (readonly [number, number])[] = [];
		const omits = (at: number, offset: number) => {
			asked.push([at, offset]);
			return offset === PAGE_SIZE;
		};
		const source = pageSource(guest().pages, { helper, omits });
		expect([source.omits?.(0, 1), source.omits?.(0, 2), source.omits?.(1, 1)]).toEqual([true, false, true]);
		expect(asked.at(-1)).toEqual([2 ** 32 - 15 * PAGE_SIZE, PAGE_SIZE]);
		expect(pageSource(guest().pages).omits).toBeUndefined();
	});

	it('logs writes in all VMs that have the slot', () => {
		const { pages, regions } = guest();
		const source = pageSource(pages, { helper });
		source.startDirtyLog();
		expect(regions.map(({ slot, flags }) => [slot, flags])).toEqual([
			[0, 1],
			[1, 3],
			[2, 1],
		]);
		source.stopDirtyLog();
		expect(regions.slice(3).map(({ flags }) => flags)).toEqual([0, READONLY, 0]);
	});
});

describe('a target', () => {
	const page = new Uint8Array(PAGE_SIZE).fill(0x55);

	it('with a helper keeps its ROM and what is the helper’s own', () => {
		const { pages, bytes } = guest();
		const sink = pageSink(pages, { helper: target });
		sink.plainPage(1, 2, page);
		sink.zeroPage(1, 3, 0);
		for (const own of [mailboxOf(0), HelperGeometry.state, HelperGeometry.windows]) {
			sink.plainPage(0, frame(own), page);
			sink.zeroPage(0, frame(own), 0);
		}
		expect([...bytes(0), ...bytes(1)].every((byte) => byte === 0xaa)).toBe(true);
		sink.plainPage(0, 7, page);
		sink.zeroPage(0, 8, 0);
		expect([bytes(0)[7 * PAGE_SIZE], bytes(0)[8 * PAGE_SIZE], bytes(0)[9 * PAGE_SIZE]]).toEqual([0x55, 0, 0xaa]);
	});

	it('without takes everything', () => {
		const { pages, bytes } = guest();
		const sink = pageSink(pages);
		sink.plainPage(1, 2, page);
		sink.zeroPage(0, frame(mailboxOf(0)), 0);
		expect([bytes(1)[2 * PAGE_SIZE], bytes(0)[mailboxOf(0)]]).toEqual([0x55, 0]);
	});
});

it('the helper’s own is all of its ranges and nothing else', () => {
	for (const { start, end } of helperRanges()) {
		expect([start, end - PAGE_SIZE].map(isHelperMemory)).toEqual([true, true]);
	}
	expect([0, mailboxOf(0) - PAGE_SIZE, HelperGeometry.windowsEnd].map(isHelperMemory)).toEqual([false, false, false]);
});
