import { gpa, hva } from '@cvm/layout';
import type { UserMemoryRegion } from '../memory/memslots.js';
import { mirrorError } from './error.js';
import { FOUR_GIB, type RamMap } from './ram-map.js';

/** The ways to lay out a mirror's address space that were discussed on the QEMU list, August 2021. */
export type MirrorStrategyName = 'identity' | 'lowWindow' | 'registration' | 'pspCopy';

/** A range of the mirror's guest-physical space that the strategy itself asks for. */
export interface MirrorWindow {
	readonly guestPhysAddr: UserMemoryRegion['guestPhysAddr'];
	readonly memorySize: number;
	readonly userspaceAddr: UserMemoryRegion['userspaceAddr'];
}

/** How a mirror's physical address space is laid out, and by which addresses VMM and migration handler speak of a page. */
export interface MirrorStrategy {
	readonly name: MirrorStrategyName;
	/** Whether the mirror gets the same slot as the main VM. */
	copies(region: UserMemoryRegion): boolean;
	/** Slots besides the copied ones, as they should be now: one per piece of contiguous memory. */
	windows(): readonly MirrorWindow[];
	/** The address in the mirror by which the handler finds a byte of RAM, or −1: it cannot. */
	addressOf(ramAddr: number): number;
	/** The inverse, −1 for an address that stands for no RAM. */
	ramAddrOf(address: number): number;
}

/** PROJECT: distance of the shared alias in the handler's virtual address space, 1 TiB. */
export const SHARED_ALIAS_OFFSET = 2 ** 40;

/**
 * The prototype's way: the mirror has the main VM's slots, and addresses are guest-physical. The handler's page tables have every
 * page private at its own address, and the same pages shared {@link SHARED_ALIAS_OFFSET} higher: see `identityPageTables`. Memory
 * that is not mapped into the guest, such as a SEV-ES save area, cannot be moved: −1.
 */
export const createIdentityStrategy = (map: RamMap): MirrorStrategy => ({
	name: 'identity',
	copies: () => true,
	windows: () => [],
	addressOf: map.toGpa,
	ramAddrOf: map.toRam,
});

/** The space for guest-physical addresses. */
export interface PhysicalLimits {
	/** MAXPHYADDR: 48 by default. */
	readonly bits?: number;
	/** Bits that memory encryption takes away (CPUID Fn8000_001F EBX 11:6): 5 by default. */
	readonly reduction?: number;
	/** Where the window of RAM addresses begins. 2^(bits − reduction − 1) by default, 2^42. */
	readonly window?: number;
}

/** First address of the window, and the end of the space. */
export interface ResolvedLimits {
	readonly window: number;
	readonly limit: number;
}

/** @throws MirrorError `window` unless it is at or above 4 GiB, page-aligned, and all of RAM fits into it */
export function resolveLimits(map: RamMap, { bits = 48, reduction = 5, window }: PhysicalLimits): ResolvedLimits {
	const limit = 2 ** (bits - reduction);
	const start = window ?? limit / 2;
	if (!Number.isSafeInteger(start) || start < FOUR_GIB || start % 4096 !== 0) {
		throw mirrorError('window', 'window of RAM addresses', 'whole pages from 4 GiB on', `0x${start.toString(16)}`);
	}
	if (start + map.size > limit) {
		const end = `0x${(start + map.size).toString(16)}`;
		throw mirrorError('window', 'window of RAM addresses', `an end up to 2^${bits - reduction}`, end);
	}
	return { window: start, limit };
}

/** One window per RAM block, at its RAM address. */
export const ramWindows = (map: RamMap, window: number): MirrorWindow[] =>
	map.blocks.map(({ offset, size, hva: at }) => ({
		guestPhysAddr: gpa(window + offset),
		memorySize: size,
		userspaceAddr: at,
	}));

/** Addresses `window + ramAddr`: RAM that is unmapped has one as well. */
export const windowAddresses = (map: RamMap, window: number): Pick<MirrorStrategy, 'addressOf' | 'ramAddrOf'> => ({
	addressOf: (ramAddr) => (map.toHva(ramAddr) < 0 ? -1 : window + ramAddr),
	ramAddrOf: (address) => (address >= window && map.toHva(address - window) >= 0 ? address - window : -1),
});

/**
 * Option 1: the low 4 GiB as in the main VM, so that firmware's code, data and page tables work as they are; all RAM once more at
 * `window + ramAddr`. Main slots that reach above 4 GiB are not copied. Blocks added later need `resolveLimits` to hold: the
 * windows are checked again whenever they are asked for.
 *
 * @throws MirrorError `window`, also from `windows()`
 */
export function createLowWindowStrategy(map: RamMap, limits: PhysicalLimits = {}): MirrorStrategy {
	const { window } = resolveLimits(map, limits);
	return {
		name: 'lowWindow',
		copies: ({ guestPhysAddr, memorySize }) => guestPhysAddr + memorySize <= FOUR_GIB,
		windows: () => ramWindows(map, resolveLimits(map, limits).window),
		...windowAddresses(map, window),
	};
}

/**
 * Option 3, a mirror with code and data of its own that the firmware copies: it cannot be done. RAM is readable with the main
 * VM's key only, so the mirror shares its context; a mirror may neither send nor receive (−EINVAL), and the context itself cannot
 * send to itself: it is in one state at a time, and SEND_FINISH ends the guest.
 *
 * @throws MirrorError `psp-copy`, always
 */
export function createPspCopyStrategy(): never {
	throw mirrorError(
		'psp-copy',
		'strategy pspCopy',
		'a context of which the firmware can make a copy',
		'a mirror, which may not send or receive, of a guest that cannot be sending and receiving at once',
	);
}

/** A window over bytes of RAM that lie in one block. */
export const windowOver = (map: RamMap, address: number, ramAddr: number, length: number): MirrorWindow => ({
	guestPhysAddr: gpa(address),
	memorySize: length,
	userspaceAddr: hva(map.toHva(ramAddr)),
});
