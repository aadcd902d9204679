import { describe, expect, it } from 'vitest';
import type { KvmAbi } from '../abi/generation.js';
import { ExitReason, RunOffset } from '../abi/run-page.js';
import { createGuestStatus } from './guest-status.js';
import { watchGuest } from './migration-msr.js';
import { createSharedPages } from './shared-pages.js';

const MSR = 0x4b564d08;

/** A VMM and a kvm_run page. */
function rig(o: { abi?: KvmAbi; exposed?: boolean; encrypted?: boolean; limit?: number } = {}) {
	const run = new Uint8Array(4096);
	const view = new DataView(run.buffer);
	const changes: [number, number, boolean][] = [];
	const status = createGuestStatus(
		{
			abi: o.abi ?? 'upstream',
			isExposed: o.exposed ?? true,
			isEncrypted: o.encrypted ?? true,
			onChange: (start, end, shared) => void changes.push([start, end, shared]),
		},
		createSharedPages(o.limit === undefined ? {} : { limit: o.limit }),
	);
	return {
		...{ run, view, status, changes },
		hypercall: (nr: number, ...args: readonly bigint[]) => {
			run.fill(0xee, 32, 120);
			view.setUint32(RunOffset.exitReason, ExitReason.HYPERCALL, true);
			view.setBigUint64(RunOffset.hypercallNr, BigInt(nr), true);
			for (const [i, arg] of args.entries()) view.setBigUint64(RunOffset.hypercallArgs + 8 * i, arg, true);
			expect(status.answer(run)).toBe(true);
			return Number(view.getBigInt64(RunOffset.hypercallRet, true));
		},
		/** The value, or "gp". */
		rdmsr: (index = MSR) => {
			view.setUint32(RunOffset.exitReason, ExitReason.X86_RDMSR, true);
			view.setUint32(RunOffset.msrIndex, index, true);
			expect(status.answer(run)).toBe(true);
			return run[RunOffset.msrError] === 0 ? view.getBigUint64(RunOffset.msrData, true) : 'gp';
		},
		wrmsr: (value: bigint, index = MSR) => {
			view.setUint32(RunOffset.exitReason, ExitReason.X86_WRMSR, true);
			view.setUint32(RunOffset.msrIndex, index, true);
			view.setBigUint64(RunOffset.msrData, value, true);
			expect(status.answer(run)).toBe(true);
			return run[RunOffset.msrError] === 0 ? 'done' : 'gp';
		},
	};
}
const range = (gfnStart: number, gfnEnd: number) => ({ gfnStart, gfnEnd });

describe('the VMM’s answer to hypercall 12', () => {
	it('v12 takes its argument for a truth value', () => {
		const { hypercall, status } = rig({ abi: 'v12' });
		expect(hypercall(12, 0x4000n, 4n, 0n)).toBe(0);
		hypercall(12, 0x5000n, 1n, 1n);
		hypercall(12, 0x6000n, 1n, 0x100n);
		expect(status.pages.ranges).toEqual([range(4, 5), range(7, 8)]);
	});

	it('upstream looks at bit 4 alone: 0x01 is "decrypted, 2 MiB"', () => {
		const { hypercall, status } = rig();
		hypercall(12, 0x200000n, 512n, 1n);
		hypercall(12, 0x201000n, 1n, 0x10n);
		hypercall(12, 0x202000n, 1n, 0xffffffffffffffefn);
		expect(status.pages.ranges).toEqual([range(0x200, 0x201), range(0x202, 0x400)]);
	});

	it('tells which pages to send again, private to private too', () => {
		const { hypercall, changes } = rig();
		hypercall(12, 0x4000n, 3n, 0n);
		hypercall(12, 0x5000n, 1n, 0x10n);
		hypercall(12, 0x9000n, 1n, 0x10n);
		expect(changes).toEqual([
			[4, 7, true],
			[5, 6, false],
			[9, 10, false],
		]);
	});

	it.each<[string, number, bigint, bigint, number]>([
		['another number', 11, 0n, 1n, -22],
		['frames that no address has', 12, 1n << 52n, 1n, -22],
		['a range that ends there', 12, 0n, (1n << 40n) + 1n, -22],
		['one range more than it keeps', 12, 0x100000n, 1n, -7],
	])('refuses %s and changes nothing', (_, nr, gpa, pages, errno) => {
		const { hypercall, status, changes } = rig({ limit: 1 });
		hypercall(12, 0n, 1n, 0n);
		expect(hypercall(nr, gpa, pages, 0n)).toBe(errno);
		expect([status.pages.ranges, changes.length]).toEqual([[range(0, 1)], 1]);
	});

	it('v11’s own exits name a frame and bytes', () => {
		const { run, view, status } = rig({ abi: 'v12' });
		const exit = (reason: number, gfn: bigint, length: bigint) => {
			view.setUint32(RunOffset.exitReason, reason, true);
			view.setBigUint64(RunOffset.dmaAddr, gfn, true);
			view.setBigUint64(RunOffset.dmaLen, length, true);
			view.setBigUint64(RunOffset.dmaRet, 99n, true);
			expect(status.answer(run)).toBe(true);
			return view.getBigInt64(RunOffset.dmaRet, true);
		};
		expect([exit(35, 8n, 0x4000n), exit(36, 9n, 0x1000n), exit(35, 1n << 40n, 0x1000n)]).toEqual([0n, 0n, -22n]);
		expect(status.pages.ranges).toEqual([range(8, 9), range(10, 12)]);
	});

	it.each([ExitReason.IO, ExitReason.SHUTDOWN, 99])('leaves exit %i to others', (reason) => {
		const { run, view, status } = rig();
		view.setUint32(RunOffset.exitReason, reason, true);
		const before = run.slice();
		expect([status.answer(run), run]).toEqual([false, before]);
	});
});

describe('the migration MSR', () => {
	it('P-12: reads 0 before it is written, takes 1, refuses 2 with #GP', () => {
		const { rdmsr, wrmsr, status } = rig();
		expect([rdmsr(), status.msr.blocker]).toEqual([0n, expect.stringContaining('has not said')]);
		expect([wrmsr(1n), rdmsr(), status.msr.blocker]).toEqual(['done', 1n, undefined]);
		expect([wrmsr(2n), wrmsr(1n << 63n), rdmsr()]).toEqual(['gp', 'gp', 1n]);
	});

	it('P-12: travels with the guest, A→B→C: the guest never says it again', () => {
		const [a, b, c] = [rig(), rig(), rig()];
		a.wrmsr(1n);
		b.status.msr.load(BigInt(a.status.msr.value));
		expect([b.rdmsr(), b.status.msr.blocker]).toEqual([1n, undefined]);
		c.status.msr.load(BigInt(b.status.msr.value));
		expect([c.rdmsr(), c.status.msr.blocker]).toEqual([1n, undefined]);
		expect(() => c.status.msr.load(2n)).toThrow('migration MSR: expected 0 or 1, got 2');
	});

	it('P-12: is 0 after a reset, which blocks migration, and the list is empty', () => {
		const { rdmsr, wrmsr, hypercall, status } = rig();
		wrmsr(1n);
		hypercall(12, 0n, 1n, 0n);
		status.reset();
		expect([rdmsr(), status.msr.blocker === undefined, status.pages.ranges]).toEqual([0n, false, []]);
	});

	it('can be taken back by the guest', () => {
		const { wrmsr, status } = rig();
		wrmsr(1n);
		wrmsr(0n);
		expect([status.msr.value, status.msr.blocker === undefined]).toEqual([0, false]);
	});

	it('begins at 1 for a guest whose memory is not encrypted', () => {
		const { rdmsr, status } = rig({ encrypted: false });
		expect([rdmsr(), status.msr.blocker]).toEqual([1n, undefined]);
		status.msr.load(0n);
		status.reset();
		expect(status.msr.value).toBe(1);
	});

	it('is #GP if its feature is not in CPUID, and so is every other MSR', () => {
		const hidden = rig({ exposed: false });
		expect([hidden.rdmsr(), hidden.wrmsr(1n), hidden.status.msr.value]).toEqual(['gp', 'gp', 0]);
		const { rdmsr, wrmsr } = rig();
		expect([rdmsr(MSR + 1), wrmsr(1n, MSR - 1)]).toEqual(['gp', 'gp']);
	});
});

describe('watching a guest', () => {
	const vm = (failing?: string) => {
		const calls: string[] = [];
		const call = (name: string) => {
			calls.push(name);
			return name === failing ? -22 : 0;
		};
		return {
			calls,
			enableCap: (cap: number, [mask]: readonly bigint[]) => call(`cap ${cap} ${mask}`),
			setMsrFilter: ({ flags, ranges }: { flags: number; ranges: readonly object[] }) =>
				call(`filter ${flags} ${JSON.stringify(ranges)}`),
		};
	};
	const FILTER = `filter 0 [{"flags":3,"nmsrs":1,"base":${MSR},"bitmap":${JSON.stringify(new Uint8Array(8))}}]`;

	it('enables exits and filters one MSR, for reads and writes', () => {
		const upstream = vm();
		expect([watchGuest(upstream, 'upstream'), upstream.calls]).toEqual([
			undefined,
			['cap 201 4096', 'cap 188 4', FILTER],
		]);
		const old = vm();
		expect([watchGuest(old, 'v12'), old.calls]).toEqual([undefined, ['cap 188 4', FILTER]]);
	});

	it.each([
		['cap 201 4096', 'KVM_CAP_EXIT_HYPERCALL'],
		['cap 188 4', 'KVM_CAP_X86_USER_SPACE_MSR'],
		[FILTER, 'KVM_X86_SET_MSR_FILTER'],
	])('says which ioctl failed: %s', (failing, call) => {
		expect(watchGuest(vm(failing), 'upstream')).toEqual({ call, ret: -22 });
	});
});
