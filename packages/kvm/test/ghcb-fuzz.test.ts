import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { ExitCode, GHCB_BUFFER, ghcb } from '../src/abi/ghcb.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { createGhcbRig, EAGAIN, EINTR, EINVAL, GHCB, type GhcbRig } from './ghcb-rig.js';

const LONG = process.env['CVM_LONG'] === '1';
const PAGE = 4096;
/** Cases of each property: together 20,000, and many more with CVM_LONG=1. */
const CASES = LONG ? 100_000 : 5_000;
/** Parts of an exit that are finished; 64 KiB of MMIO have 8192. */
const MAX_PARTS = 4;

const rigs = new Map<string, GhcbRig>();
const rigOf = (release: '5.15' | '6.10'): GhcbRig => {
	const rig = rigs.get(release) ?? createGhcbRig({ release, ramBytes: 0x30000 });
	rigs.set(release, rig);
	return rig;
};

const KNOWN: readonly number[] = Object.values(ExitCode);
const code = fc.oneof(
	{ weight: 6, arbitrary: fc.constantFrom(...KNOWN).map(BigInt) },
	{ weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
);
const u64 = fc.oneof(
	fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
	fc.bigInt({ min: 0n, max: 0x20n }),
	fc.bigInt({ min: BigInt(GHCB) + 0x7f0n, max: BigInt(GHCB) + 0x1010n }),
	fc.bigInt({ min: 0n, max: 0x32000n }),
	fc.constantFrom(2n ** 64n - 1n, 2n ** 63n, 0x8000_0000n, 0x10000n, 0x10001n, 0x3f80014n, 0x3f80015n, 0x3f80075n),
);
/** GHCBs that come as far as their event, or are refused on the way there. */
const contents = fc.record({
	noise: fc.uint8Array({ minLength: 64, maxLength: 64 }),
	valid: fc.oneof(fc.constant(new Uint8Array(16).fill(0xff)), fc.uint8Array({ minLength: 16, maxLength: 16 })),
	usage: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat() }),
	code,
	info1: u64,
	info2: u64,
	scratch: u64,
	rax: u64,
	rcx: u64,
});

const NO_EXIT = 99;
/** Every documented way out of KVM_RUN. */
const RESULTS: readonly number[] = [0, EINTR, EINVAL, EAGAIN];
const EXITS: readonly number[] = [
	...[ExitReason.IO, ExitReason.HYPERCALL, ExitReason.MMIO, ExitReason.INTERNAL_ERROR, ExitReason.SYSTEM_EVENT],
	...[ExitReason.X86_RDMSR, ExitReason.X86_WRMSR, ExitReason.AP_RESET_HOLD],
];

/** Bytes that may have changed: the GHCB, and the scratch area that was asked for. */
function expectUnchanged(before: Uint8Array, after: Uint8Array, scratch: bigint, length: bigint): void {
	const from = scratch < BigInt(before.length) ? Number(scratch) : before.length;
	const to = Math.min(before.length, from + Number(length > 0x10000n ? 0n : length));
	const page = [GHCB, GHCB + PAGE] as const;
	const [first, second] = from < GHCB ? [[from, to] as const, page] : [page, [from, to] as const];
	let at = 0;
	for (const [start, end] of [first, second, [before.length, before.length] as const]) {
		if (start > at && Buffer.compare(before.subarray(at, start), after.subarray(at, start)) !== 0) {
			expect(`a change between 0x${at.toString(16)} and 0x${start.toString(16)}`).toBe('none');
		}
		at = Math.max(at, end);
	}
}

type Contents = typeof contents extends fc.Arbitrary<infer T> ? T : never;

function fill(rig: GhcbRig, c: Contents): void {
	const page = rig.ram.bytes.subarray(GHCB, GHCB + PAGE);
	for (let at = 0; at < PAGE; at += c.noise.length) page.set(c.noise, at);
	ghcb.patch(page, {
		swExitCode: c.code,
		swExitInfo1: c.info1,
		swExitInfo2: c.info2,
		swScratch: c.scratch,
		rax: c.rax,
		rcx: c.rcx,
		validBitmap: c.valid,
		usage: c.usage,
	});
}

/** Runs one VMGEXIT and finishes what came of it; the rest of a long exit is dropped. */
function exchange(rig: GhcbRig): number {
	rig.view().setUint32(RunOffset.exitReason, NO_EXIT, true);
	let ret = rig.run();
	expect(RESULTS).toContain(ret);
	if (ret === 0) expect(EXITS).toContain(rig.exitReason());
	for (let parts = 0; ret === 0 && parts < MAX_PARTS; parts++) ret = rig.finish();
	if (ret !== 0) return ret;
	rig.setHost64('pendingKind', 0n);
	return rig.finish();
}

describe.each(['6.10', '5.15'] as const)('VMGEXIT in Linux %s', (release) => {
	test.prop([contents], { numRuns: CASES, endOnFailure: true })(
		'answers any GHCB, with nothing changed outside of it and the scratch area',
		(c) => {
			const rig = rigOf(release);
			rig.setHost64('ghcbMsr', BigInt(GHCB));
			fill(rig, c);
			const before = rig.ram.bytes.slice();
			const ret = exchange(rig);
			expect(ret === EINTR || ret === EINVAL).toBe(true);
			const isString = Number(c.code) === ExitCode.IOIO;
			const size = (c.info1 >> 4n) & 7n;
			expectUnchanged(before, rig.ram.bytes, c.scratch, isString ? c.info2 * size : c.info2);
			if (release === '5.15' && ret === EINVAL && rig.exitReason() === ExitReason.INTERNAL_ERROR) {
				const end = GHCB + GHCB_BUFFER.begin;
				expect(Buffer.compare(rig.ram.bytes.subarray(GHCB, end), before.subarray(GHCB, end))).toBe(0);
			}
			if (release === '6.10' && ret === EINTR) expect([0n, 1n, 2n]).toContain(rig.get().swExitInfo1);
		},
	);
	const message = fc.oneof(
		fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
		fc
			.tuple(
				fc.bigInt({ min: 0n, max: 2n ** 52n - 1n }),
				fc.constantFrom(1, 2, 4, 5, 6, 7, 0x10, 0x12, 0x14, 0x80, 0x100),
			)
			.map(([data, info]) => (data << 12n) | BigInt(info)),
	);
	test.prop([message], { numRuns: CASES, endOnFailure: true })('answers any value of the GHCB MSR', (value) => {
		const rig = rigOf(release);
		const before = Buffer.from(rig.ram.bytes);
		rig.setHost64('ghcbMsr', value);
		exchange(rig);
		const isOwnPage = value === BigInt(GHCB);
		if (!isOwnPage && (value & 0xfffn) !== 0n) expect(Buffer.compare(before, rig.ram.bytes)).toBe(0);
		expect(rig.host64('ghcbMsr')).toBeLessThan(2n ** 64n);
	});
});
