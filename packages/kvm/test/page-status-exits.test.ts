import { describe, expect, it } from 'vitest';
import { SERIES } from '../src/abi/generation.js';
import { PAGE_STATUS_IOCTLS } from '../src/abi/page-status.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { bootHost, PAGE } from './host.js';
import { bits, call, enable, IN_KVM, made, program, ready } from './page-status-rig.js';
import type { VmRig } from './vm-rig.js';

describe('v10', () => {
	const list = (rig: VmRig, size = 4096) => rig.vm.pageStatus.getSharedList({ size });

	it('keeps a list, sorted and merged, split by pages that become private', () => {
		const rig = made('v10');
		ready(rig);
		for (const [page, pages, enc] of [
			[20, 4, 0],
			[2, 3, 0],
			[5, 2, 0],
			[21, 1, 1],
			[0xfee00, 1, 0],
		] as const) {
			expect(call(rig, page * PAGE, pages, enc)).toBe(0n);
		}
		expect(list(rig)).toEqual({
			ret: 0,
			entries: [
				{ gfnStart: 2, gfnEnd: 7 },
				{ gfnStart: 20, gfnEnd: 21 },
				{ gfnStart: 22, gfnEnd: 24 },
				{ gfnStart: 0xfee00, gfnEnd: 0xfee01 },
			],
		});
		expect([list(rig, 64).ret, list(rig, 63).ret, list(rig, 0).ret]).toEqual([0, -7, -22]);
	});

	it('hands it out once the guest has enabled live migration, which it may take back', () => {
		const rig = made('v10');
		expect(list(rig).ret).toBe(-22);
		ready(rig);
		expect(list(rig)).toEqual({ ret: 0, entries: [] });
		enable(rig, 0x4b564d08, 0n);
		expect(list(rig).ret).toBe(-22);
		expect(made('v10', false).vm.pageStatus.getSharedList({ size: 16 }).ret).toBe(-25);
		expect(made('v9').vm.pageStatus.getSharedList({ size: 16 }).ret).toBe(-25);
	});

	it('SET appends as it is, and clears without entries', () => {
		const rig = made('v10');
		ready(rig);
		call(rig, 8 * PAGE, 1, 0);
		const arriving = [
			{ gfnStart: 3, gfnEnd: 9 },
			{ gfnStart: 1, gfnEnd: 2 },
		];
		expect(rig.vm.pageStatus.setSharedList(arriving)).toBe(0);
		expect(list(rig).entries).toEqual([{ gfnStart: 8, gfnEnd: 9 }, ...arriving]);
		expect(rig.vm.pageStatus.setSharedList([])).toBe(0);
		expect(list(rig).entries).toEqual([]);
		rig.vm.pageStatus.setSharedList(arriving);
		expect(rig.vm.pageStatus.setSharedList(undefined)).toBe(0);
		expect(list(rig).entries).toEqual([]);
		expect(made('v9').vm.pageStatus.setSharedList(arriving)).toBe(-25);
	});

	it('does not let a list grow without end', () => {
		const rig = made('v10');
		const many = Array.from({ length: 4096 }, (_, i) => ({ gfnStart: 2 * i, gfnEnd: 2 * i + 1 }));
		expect(rig.vm.pageStatus.setSharedList(many)).toBe(0);
		expect(rig.vm.pageStatus.setSharedList([{ gfnStart: 9000, gfnEnd: 9001 }])).toBe(-12);
		expect(call(rig, 9000 * PAGE, 1, 0)).toBe(-12n);
		ready(rig);
		expect(list(rig, 1 << 20).entries).toHaveLength(4096);
	});
});

describe('v11', () => {
	const exit = (rig: VmRig) => [rig.reason(), ...[32, 40].map((at) => rig.view.getBigUint64(at, true))];

	it('exits with the frame, not the address, and the length in bytes', () => {
		const rig = made('v11');
		expect(call(rig, 0x5123, 3, 0)).toBeUndefined();
		expect(exit(rig)).toEqual([35, 5n, 0x3000n]);
		rig.setRegister('pendingKind', 0n);
		call(rig, 0xfee00000, 1, 7);
		expect(exit(rig)).toEqual([36, 0xfee00n, 0x1000n]);
	});

	it('gives the guest the answer of the VMM, and leaves exit reason 0 behind', () => {
		const rig = made('v11');
		call(rig, 0x5000, 1, 0);
		expect(rig.register('rax')).toBe(12n);
		rig.view.setBigUint64(RunOffset.dmaRet, 0xffffffffffffffean, true);
		rig.view.setUint8(RunOffset.immediateExit, 1);
		expect(rig.run()).toBe(-4);
		expect([rig.reason(), BigInt.asIntN(64, rig.register('rax'))]).toEqual([0, -22n]);
	});

	it('leaves KVM_RUN for no pages with nothing written: neither kvm_run nor a register', () => {
		const rig = made('v11');
		rig.view.setUint32(RunOffset.exitReason, 77, true);
		expect(call(rig, 0x5000, 0, 0)).toBeUndefined();
		expect([rig.reason(), rig.register('rax'), rig.register('pendingKind')]).toEqual([77, 12n, 0n]);
		expect(rig.register('rip')).toBe(BigInt(program.address('reset')));
	});

	it('refuses a guest without SEV and a range that wraps', () => {
		expect(call(made('v11', false), 0x5000, 1, 0)).toBe(-22n);
		expect(call(made('v11'), 0x5000, 0xffffffffffffffffn, 0)).toBe(-22n);
	});

	it('keeps nothing in KVM', () => {
		const { pageStatus } = made('v11').vm;
		expect(pageStatus.getBitmap({ startGfn: 0, numPages: 8, bitmap: bits() })).toBe(-25);
		expect(pageStatus.getSharedList({ size: 16 }).ret).toBe(-25);
	});
});

describe('v12', () => {
	it('exits with KVM_EXIT_HYPERCALL instead, enabled by KVM_SEV_INIT', () => {
		const rig = made('v12');
		expect(call(rig, 0x5000, 3, 0)).toBeUndefined();
		expect(rig.reason()).toBe(ExitReason.HYPERCALL);
		expect(call(made('v12', false), 0x5000, 3, 0)).toBe(-1000n);
	});
});

describe('createKvm', () => {
	it('takes the ABI from the posting and refuses another', () => {
		expect(bootHost({ series: 'v5' }).kvm.abi).toBe('v12');
		expect(bootHost({ series: 'upstream' }).kvm.abi).toBe('upstream');
		expect(bootHost({ abi: 'v12' }).kvm.kernel.series).toBe('v12');
		expect(() => bootHost({ series: 'v5', abi: 'upstream' })).toThrow('series: expected one of ABI upstream, got v5');
	});

	it.each(SERIES)('has the request numbers of %s', (series) => {
		const numbers = PAGE_STATUS_IOCTLS[series];
		expect(numbers === undefined).toBe(!IN_KVM.includes(series));
		const encoded = (nr: number) => (0x40000000 | (24 << 16) | (0xae << 8) | nr) >>> 0;
		if (numbers === undefined) return;
		expect((numbers.get & ~0xff) >>> 0).toBe(encoded(0));
		expect(numbers.set === undefined ? series : numbers.set - numbers.get).toBe(series === 'v1' ? 'v1' : 1);
	});
});
