import { describe, expect, it } from 'vitest';
import { SwapFlags, swapMetadata } from '../src/abi/swap-metadata.js';
import { type Case, changed, expectRefusal, FORBIDDEN } from './refusal.js';
import {
	ASID,
	controllerOf,
	GuestState,
	guestIn,
	initialised,
	MIB,
	patternPage,
	provider,
	type Rig,
	type TestGuest,
} from './rig.js';

const PAGE = 4096;
/** Where pages go to, and come back to. */
const OUT = 0x300000n;
const BACK = 0x320000n;
const ENTRY = 0x310000n;

function setUp(state: GuestState = GuestState.RUNNING) {
	const rig = initialised();
	const guest = guestIn(rig, state);
	const sound = { handle: guest.handle, srcPaddr: guest.page, dstPaddr: OUT, mdataPaddr: ENTRY, softwareData: 0x1122n };
	return { rig, guest, sound };
}

/** A page that is out, and sound fields to bring it in. */
function swappedOut() {
	const { rig, guest, sound } = setUp();
	rig.must('SWAP_OUT', sound);
	return { rig, guest, sound: { handle: guest.handle, srcPaddr: OUT, dstPaddr: BACK, mdataPaddr: ENTRY } };
}

const plaintextAt = (rig: Rig, address: bigint, length = PAGE): Uint8Array => {
	const out = new Uint8Array(length);
	controllerOf(rig).read(ASID, Number(address), out);
	return out;
};

const contextOf = (rig: Rig, { handle }: TestGuest) => {
	const found = rig.platform.guests.get(handle);
	if (found === undefined) throw new Error('guest');
	return found;
};

function flip(rig: Rig, address: bigint): void {
	const at = Number(address);
	rig.machine.dram[at] = (rig.machine.dram[at] ?? 0) ^ 1;
}

/** As FORBIDDEN, but aligned: a page runs into nothing. */
const FORBIDDEN_PAGES = [
	['in ASEG', 0xa0000n],
	['at the end of ASEG', 0xbf000n],
	['behind DRAM', 0x400000n],
	['with an ASID bit set', OUT | (1n << 45n)],
	['with bit 52 set', OUT | (1n << 52n)],
] as const;

/** What both commands refuse. */
const COMMON: readonly Case[] = [
	['a handle that nobody has', { handle: 99 }, 'INVALID_GUEST'],
	['a page type that there is not', { flags: 1 << 1 }, 'INVALID_PARAM'],
	['another page type that there is not', { flags: 3 << 1 }, 'INVALID_PARAM'],
	['a save area', { flags: SwapFlags.typeVmsa }, 'UNSUPPORTED'],
	['flags without a meaning', { flags: 1 << 4 }, 'INVALID_PARAM'],
	['the highest flag', { flags: 0x80000000 }, 'INVALID_PARAM'],
	['a source that is not page-aligned', { srcPaddr: OUT + 16n }, 'INVALID_ADDRESS'],
	['a destination that is not page-aligned', { dstPaddr: OUT + 2048n }, 'INVALID_ADDRESS'],
	['a large page at the address of a small one', { flags: 1, dstPaddr: 0x200000n, srcPaddr: OUT }, 'INVALID_ADDRESS'],
	['flags before addresses', { flags: 1 << 4, srcPaddr: 1n }, 'INVALID_PARAM'],
	...FORBIDDEN.map(([where, address]): Case => [`an entry ${where}`, { mdataPaddr: address }, 'INVALID_ADDRESS']),
	...FORBIDDEN_PAGES.flatMap(([where, address]): Case[] => [
		[`a source ${where}`, { srcPaddr: address }, 'INVALID_ADDRESS'],
		[`a destination ${where}`, { dstPaddr: address }, 'INVALID_ADDRESS'],
	]),
];

describe('SWAP_OUT', () => {
	it.each([...COMMON, ['SWAP_IN’s flag', { flags: SwapFlags.inPlace }, 'INVALID_PARAM'] as Case])(
		'refuses %s',
		(_, change, status) => {
			const { rig, sound } = setUp();
			expectRefusal(rig, 'SWAP_OUT', changed(rig, sound, change), status);
		},
	);
	it('refuses a guest without ASID, before it looks at the flags', () => {
		const { rig, guest, sound } = setUp();
		rig.must('DEACTIVATE', { handle: guest.handle });
		expectRefusal(rig, 'SWAP_OUT', { ...sound, flags: 1 << 4 }, 'INACTIVE');
	});
	it('refuses to use a counter twice', () => {
		const { rig, guest, sound } = setUp();
		contextOf(rig, guest).swapIv = 2n ** 64n - 2n;
		rig.must('SWAP_OUT', sound);
		expect(swapMetadata.decode(rig.at(ENTRY, 64)).iv).toEqual(Uint8Array.of(0xfe, ...new Uint8Array(7).fill(0xff)));
		expectRefusal(rig, 'SWAP_OUT', sound, 'AEAD_OFLOW');
	});
	it('seals the page with AES-256-GCM under the offline key, the entry being authenticated', () => {
		const { rig, guest, sound } = setUp();
		rig.must('SWAP_OUT', sound);
		rig.must('SWAP_OUT', sound);
		const entry = rig.at(ENTRY, 64);
		const { authTag, iv, flags, softwareData, zero } = swapMetadata.decode(entry);
		expect({ iv, flags, softwareData, zero }).toEqual({
			iv: Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0),
			flags: 0,
			softwareData: 0x1122n,
			zero: new Uint8Array(28),
		});
		entry.fill(0, 0x10, 0x20);
		const sealed = new Uint8Array([...rig.at(OUT, PAGE), ...authTag]);
		expect(provider.gcmOpen(contextOf(rig, guest).oek, iv, entry, sealed)).toEqual(patternPage());
	});
	it('leaves the guest page as it was, and never encrypts it in the same way', () => {
		const { rig, guest, sound } = setUp();
		const before = rig.at(guest.page, PAGE);
		rig.must('SWAP_OUT', sound);
		const first = rig.at(OUT, PAGE);
		rig.must('SWAP_OUT', sound);
		expect(rig.at(OUT, PAGE)).not.toEqual(first);
		expect(rig.at(guest.page, PAGE)).toEqual(before);
	});
});

describe('SWAP_IN', () => {
	it.each(COMMON)('refuses %s', (_, change, status) => {
		const { rig, sound } = swappedOut();
		expectRefusal(rig, 'SWAP_IN', changed(rig, sound, change), status);
	});
	it('refuses a guest without ASID, before it looks at the flags', () => {
		const { rig, sound } = swappedOut();
		rig.must('DEACTIVATE', { handle: sound.handle });
		expectRefusal(rig, 'SWAP_IN', { ...sound, flags: 1 << 4 }, 'INACTIVE');
	});
	it.each([
		['the software data', 0x00],
		['the counter', 0x08],
		['the tag', 0x1f],
		['what is zero', 0x20],
	])('refuses an entry with a change in %s', (_, at) => {
		const { rig, sound } = swappedOut();
		flip(rig, ENTRY + BigInt(at));
		expectRefusal(rig, 'SWAP_IN', sound, 'BAD_MEASUREMENT');
	});
	it('refuses an entry for a page of another size than the command’s', () => {
		const { rig, sound } = swappedOut();
		flip(rig, ENTRY + 0x3cn);
		expectRefusal(rig, 'SWAP_IN', sound, 'INVALID_PARAM');
	});
	it.each([0, 4095])('refuses a page whose byte %d was changed', (at) => {
		const { rig, sound } = swappedOut();
		flip(rig, OUT + BigInt(at));
		expectRefusal(rig, 'SWAP_IN', sound, 'BAD_MEASUREMENT');
	});
	it('refuses a page with the entry of another', () => {
		const { rig, guest, sound } = swappedOut();
		rig.must('SWAP_OUT', {
			handle: guest.handle,
			srcPaddr: guest.page,
			dstPaddr: OUT + 4096n,
			mdataPaddr: ENTRY + 64n,
		});
		expectRefusal(rig, 'SWAP_IN', { ...sound, mdataPaddr: ENTRY + 64n }, 'BAD_MEASUREMENT');
		expectRefusal(rig, 'SWAP_IN', { ...sound, srcPaddr: OUT + 4096n }, 'BAD_MEASUREMENT');
	});
	it('refuses the page of another guest, even one that shares the memory key', () => {
		const { rig, sound } = swappedOut();
		const { handle = 0 } = rig.must('LAUNCH_START', { handle: sound.handle });
		rig.must('ACTIVATE', { handle, asid: ASID + 1 });
		expectRefusal(rig, 'SWAP_IN', { ...sound, handle }, 'BAD_MEASUREMENT');
	});
	it('brings the page back to any address', () => {
		const { rig, sound } = swappedOut();
		rig.must('SWAP_IN', sound);
		expect(plaintextAt(rig, BACK)).toEqual(patternPage());
		expect(rig.at(BACK, PAGE)).not.toEqual(patternPage());
	});
	it('brings pages back in any order, and old ones again: it remembers none', () => {
		const { rig, guest, sound } = swappedOut();
		controllerOf(rig).write(ASID, Number(guest.page), new Uint8Array(PAGE).fill(9));
		rig.must('SWAP_OUT', {
			handle: guest.handle,
			srcPaddr: guest.page,
			dstPaddr: OUT + 4096n,
			mdataPaddr: ENTRY + 64n,
		});
		rig.must('SWAP_IN', { ...sound, srcPaddr: OUT + 4096n, mdataPaddr: ENTRY + 64n });
		expect(plaintextAt(rig, BACK)).toEqual(new Uint8Array(PAGE).fill(9));
		rig.must('SWAP_IN', sound);
		expect(plaintextAt(rig, BACK)).toEqual(patternPage());
	});
	it('decrypts a page where it stands if it is asked to, and then needs no destination', () => {
		const { rig, sound } = swappedOut();
		rig.must('SWAP_IN', { ...sound, flags: SwapFlags.inPlace, dstPaddr: 1n });
		expect(plaintextAt(rig, OUT)).toEqual(patternPage());
	});
	it('brings a page of 2 MiB back', () => {
		const rig = initialised({ dramBytes: 8 * MIB });
		const { handle } = guestIn(rig, GuestState.RUNNING);
		const large = Uint8Array.from({ length: 2 * MIB }, (_, i) => (i >> 12) ^ i);
		controllerOf(rig).write(ASID, 2 * MIB, large);
		const out = { handle, flags: SwapFlags.largePage, srcPaddr: 0x200000n, dstPaddr: 0x400000n, mdataPaddr: 0x180000n };
		rig.must('SWAP_OUT', out);
		rig.must('SWAP_IN', { ...out, srcPaddr: 0x400000n, dstPaddr: 0x600000n });
		expect(Buffer.compare(plaintextAt(rig, 0x600000n, 2 * MIB), large)).toBe(0);
	});
});

describe('the offline key', () => {
	it('is drawn after the memory key, for each guest', () => {
		const rig = initialised();
		const [vek, oek, other] = [new Uint8Array(16).fill(1), new Uint8Array(32).fill(2), new Uint8Array(32).fill(3)];
		rig.random.script.push(vek, oek, other);
		const { handle = 0 } = rig.must('LAUNCH_START');
		expect(rig.platform.guests.get(handle)).toMatchObject({ vek, oek, swapIv: 0n });
		const { handle: sharing = 0 } = rig.must('LAUNCH_START', { handle });
		expect(rig.platform.guests.get(sharing)).toMatchObject({ vek, oek: other });
	});
	it.each(['DECOMMISSION', 'SHUTDOWN'] as const)('is wiped by %s', (name) => {
		const { rig, guest } = setUp();
		const { vek, oek, launchDigest } = contextOf(rig, guest);
		expect(oek).not.toEqual(new Uint8Array(32));
		rig.must('DEACTIVATE', { handle: guest.handle });
		rig.must(name, { handle: guest.handle });
		expect([vek, oek, launchDigest]).toEqual([new Uint8Array(16), new Uint8Array(32), new Uint8Array(32)]);
	});
});
