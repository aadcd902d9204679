import { gpa, hva } from '@cvm/layout';
import { Status } from '@cvm/sev-hw/abi';
import { describe, expect, it } from 'vitest';
import { SERIES, type Series } from '../src/abi/generation.js';
import { liveMigrationFeature } from '../src/abi/page-status.js';
import { bootHost, certificatesOf, PAGE } from './host.js';
import { BITMAPS, bits, call, enable, IN_KVM, made, PAGES, ready, shared } from './page-status-rig.js';

describe.each(IN_KVM)('hypercall 12 of posting %s', (series) => {
	it('is −EINVAL without SEV, and needs no enabling with it', () => {
		expect(call(made(series, false), 0x1000, 1, 0)).toBe(-22n);
		expect(call(made(series), 0x1000, 1, 0)).toBe(0n);
	});

	it('takes no pages as nothing, rounds an address down, refuses a wrap, and asks for CPL 0', () => {
		const rig = made(series);
		expect([call(rig, 0x1234, 0, 0), call(rig, 0x1234, 1, 0)]).toEqual([0n, 0n]);
		expect(call(rig, 0x1000, ~0n & 0xffffffffffffffffn, 0)).toBe(-22n);
		rig.setRegister('cpl', 3n);
		rig.at('reset');
		rig.setRegister('rax', 12n);
		rig.run();
		expect(BigInt.asIntN(64, rig.register('rax'))).toBe(-1n);
	});
});

describe.each(BITMAPS)('the bitmap of posting %s', (series) => {
	it('holds what the guest said last; all else is encrypted', () => {
		const rig = made(series);
		ready(rig);
		call(rig, 4 * PAGE, 40, 0);
		call(rig, 6 * PAGE, 36, 5);
		expect(shared(rig)).toEqual([4, 5, 42, 43]);
	});

	it('belongs to SEV guests: −ENOTTY', () => {
		const { pageStatus } = made(series, false).vm;
		const start = series === 'v1' ? { slot: 0 } : { startGfn: 0 };
		expect(pageStatus.getBitmap({ ...start, numPages: 8, bitmap: bits() })).toBe(-25);
		expect(pageStatus.setBitmap({ startGfn: 0, numPages: 8, bitmap: bits() })).toBe(-25);
		expect(pageStatus.reset()).toBe(-25);
	});

	it('is −EFAULT into a buffer that is too short, −ENOMEM for more than KVM allocates', () => {
		const rig = made(series);
		ready(rig);
		const start = series === 'v1' ? { slot: 0 } : { startGfn: 0 };
		expect(rig.vm.pageStatus.getBitmap({ ...start, numPages: 65, bitmap: new Uint8Array(8) })).toBe(-14);
		expect(rig.vm.pageStatus.getBitmap({ ...start, numPages: 2 ** 40, bitmap: new Uint8Array(8) })).toBe(-12);
		if (series !== 'v1') {
			expect(rig.vm.pageStatus.setBitmap({ startGfn: 0, numPages: 65, bitmap: new Uint8Array(8) })).toBe(-14);
			expect(rig.vm.pageStatus.setBitmap({ startGfn: 2 ** 40, numPages: 1, bitmap: bits() })).toBe(-12);
		}
	});
});

describe('v1', () => {
	it('records page status in a bitmap that GET finds by memory slot', () => {
		const rig = made('v1');
		const more = rig.host.kvm.memory.mmap(16 * PAGE);
		const region = { slot: 3, flags: 0, guestPhysAddr: gpa(0x100000), memorySize: 16 * PAGE, userspaceAddr: more.hva };
		rig.vm.setUserMemoryRegion(region);
		call(rig, 0x102000, 1, 0);
		const bitmap = new Uint8Array(8);
		expect(rig.vm.pageStatus.getBitmap({ slot: 3, numPages: 16, bitmap })).toBe(0);
		expect(bitmap[0]).toBe(0xfb);
		expect(rig.vm.pageStatus.getBitmap({ slot: 4, numPages: 16, bitmap })).toBe(-22);
		expect(rig.vm.pageStatus.getBitmap({ startGfn: 0x100, numPages: 16, bitmap })).toBe(-22);
	});

	it('has no SET, and does not limit the session blob', () => {
		const rig = made('v1');
		expect(rig.vm.pageStatus.setBitmap({ startGfn: 0, numPages: 8, bitmap: bits() })).toBe(-25);
		const target = certificatesOf(bootHost({ seed: 'target' }));
		const start = (series: Series, sessionLen: number) => {
			const { vm } = series === 'v1' ? rig : made(series);
			const { ret, error } = vm.sev.sendStart({ ...target, sessionLen });
			return [ret, error];
		};
		// The firmware has the last word: it wants another length, as it says to 0x4000 too.
		expect(start('v1', 0x4001)).toEqual([-5, Status.INVALID_LENGTH]);
		expect(start('v1', 0x4000)).toEqual([-5, Status.INVALID_LENGTH]);
		expect(start('v2', 0x4001)).toEqual([-22, 0]);
		expect(start('v1', (4 << 20) + 1)).toEqual([-12, 0]);
	});

	it.each(['v1', 'v3'] as const)('as %s refuses addresses without RAM: MMIO', (series) => {
		const rig = made(series);
		expect(call(rig, 0xfee00000, 1, 0)).toBe(-22n);
		expect(call(rig, (PAGES - 1) * PAGE, 2, 0)).toBe(-22n);
	});
});

describe('v2', () => {
	it('has SET, to take the source’s bitmap to the target; it only clears bits', () => {
		const [source, target] = [made('v2'), made('v2')];
		call(source, 3 * PAGE, 2, 0);
		call(target, 9 * PAGE, 1, 0);
		const bitmap = new Uint8Array(16);
		source.vm.pageStatus.getBitmap({ startGfn: 0, numPages: 128, bitmap });
		expect(target.vm.pageStatus.setBitmap({ startGfn: 0, numPages: 128, bitmap })).toBe(0);
		expect(shared(target)).toEqual([3, 4, 9]);
	});

	it('GET goes by guest frame', () => {
		const rig = made('v2');
		call(rig, 40 * PAGE, 1, 0);
		const bitmap = new Uint8Array(8);
		expect(rig.vm.pageStatus.getBitmap({ startGfn: 38, numPages: 8, bitmap })).toBe(0);
		expect([...bitmap]).toEqual([0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
		expect(rig.vm.pageStatus.getBitmap({ slot: 0, numPages: 8, bitmap })).toBe(-22);
	});

	it('SET looks for clear bits from bit `startGfn` of the caller’s bitmap on: the trap that v7 mended', () => {
		const rig = made('v2');
		expect(rig.vm.pageStatus.setBitmap({ startGfn: 16, numPages: 64, bitmap: bits(3, 20) })).toBe(0);
		expect(shared(rig)).toEqual([36]);
	});
});

describe('v3', () => {
	it('marks everything encrypted when the boot vCPU is reset', () => {
		const reset = (series: Series, vcpu: number) => {
			const rig = made(series);
			call(rig, PAGE, 2, 0);
			rig.vm.pageStatus.onVcpuReset(vcpu);
			return shared(rig);
		};
		expect([reset('v3', 0), reset('v3', 1), reset('v2', 0), reset('v4', 0)]).toEqual([[], [1, 2], [1, 2], [1, 2]]);
	});
});

describe('v4', () => {
	it.each(['v4', 'v5', 'v6'] as const)('to v6 have RESET, which the VMM calls on a reboot: %s', (series) => {
		const rig = made(series);
		call(rig, PAGE, 2, 0);
		expect(rig.vm.pageStatus.reset()).toBe(0);
		expect(shared(rig)).toEqual([]);
	});

	it.each(['v3', 'v7', 'v8', 'v9', 'v10', 'v11', 'v12', 'upstream'] as const)('RESET is not in %s', (series) => {
		expect(made(series).vm.pageStatus.reset()).toBe(-25);
	});

	it('takes MMIO ranges: no slot at all; the bitmap grows to them', () => {
		const rig = made('v4');
		expect(call(rig, 0xfee00000, 1, 0)).toBe(0n);
		const bitmap = new Uint8Array(8);
		rig.vm.pageStatus.getBitmap({ startGfn: 0xfee00, numPages: 2, bitmap });
		expect(bitmap[0]).toBe(0xfe);
	});

	it('cannot hold more than its host has room for: −ENOMEM', () => {
		expect(call(made('v4'), 2 ** 40, 1, 0)).toBe(-12n);
	});

	it('GET writes whole u64s, with ones behind the last page', () => {
		const rig = made('v4');
		call(rig, PAGE, 1, 0);
		const bitmap = new Uint8Array(10);
		rig.vm.pageStatus.getBitmap({ startGfn: 0, numPages: 3, bitmap });
		expect([...bitmap]).toEqual([0xfd, ...Array(7).fill(0xff), 0, 0]);
	});
});

describe('v5', () => {
	it('GET writes exactly so many bits and keeps the rest of the last byte', () => {
		const rig = made('v5');
		call(rig, PAGE, 10, 0);
		const bitmap = Uint8Array.of(0, 0b10101010, 0x77);
		expect(rig.vm.pageStatus.getBitmap({ startGfn: 0, numPages: 11, bitmap })).toBe(0);
		expect([...bitmap]).toEqual([0b00000001, 0b10101000, 0x77]);
	});

	it.each(SERIES.slice(0, -1))('puts its feature bit and its MSR where %s has them', (series) => {
		const feature = liveMigrationFeature(series);
		const expected =
			IN_KVM.indexOf(series) < 4 && IN_KVM.includes(series)
				? undefined
				: [
						BITMAPS.slice(4, 8).includes(series) ? 14 : 16,
						BITMAPS.slice(4, 8).includes(series) ? 0x4b564d06 : 0x4b564d08,
						IN_KVM.includes(series),
					];
		expect(feature && [feature.bit, feature.msr, feature.inKvm]).toEqual(expected);
		const leaf = (sev: boolean) =>
			made(series, sev)
				.vcpu.getCpuid()
				.find((e) => e.function === 0x40000001)?.eax;
		expect(leaf(true)).toBe(feature === undefined ? 0 : 1 << feature.bit);
		expect(leaf(false)).toBe(0);
	});

	it('keeps the MSR in KVM: it cannot be read, a guest without SEV may write it in vain', () => {
		const rig = made('v5');
		expect(rig.vcpu.setMsr(0x4b564d06, 1n)).toBe(0);
		expect(rig.vcpu.getMsr(0x4b564d06)).toBeUndefined();
		expect(made('v5', false).vcpu.setMsr(0x4b564d06, 1n)).toBe(0);
		expect(made('v4').vcpu.setMsr(0x4b564d08, 1n)).toBe(-22);
		expect(made('v11').vcpu.setMsr(0x4b564d08, 1n)).toBe(-22);
	});

	it('GET does not yet ask for it', () => {
		expect(shared(made('v5'))).toEqual([]);
	});

	it('kexec: the kernel encrypts its own pages again by hypercalls, the firmware’s stay', () => {
		const rig = made('v5');
		call(rig, 2 * PAGE, 3, 0);
		call(rig, 40 * PAGE, 1, 0);
		expect(call(rig, 0, 32, 1)).toBe(0n);
		expect(shared(rig)).toEqual([40]);
	});
});

describe('v7', () => {
	it.each(['v7', 'v8', 'v9'] as const)('to v9 refuse GET until the guest has enabled live migration: %s', (series) => {
		const rig = made(series);
		const request = { startGfn: 0, numPages: 8, bitmap: new Uint8Array(1) };
		expect(rig.vm.pageStatus.getBitmap(request)).toBe(-22);
		enable(rig, liveMigrationFeature(series)?.msr ?? 0, 2n);
		expect(rig.vm.pageStatus.getBitmap(request)).toBe(-22);
		ready(rig);
		expect(rig.vm.pageStatus.getBitmap(request)).toBe(0);
		// It cannot be taken back before v10.
		enable(rig, liveMigrationFeature(series)?.msr ?? 0, 0n);
		expect(rig.vm.pageStatus.getBitmap(request)).toBe(0);
	});

	it('SET sets the whole range, zeros and ones, from the word of `startGfn` on', () => {
		const rig = made('v7');
		ready(rig);
		call(rig, PAGE, 40, 0);
		expect(rig.vm.pageStatus.setBitmap({ startGfn: 3, numPages: 64, bitmap: bits(0, 7) })).toBe(0);
		expect(shared(rig)).toEqual([0, 7]);
	});

	it('SET without a bitmap resets: there is no RESET any more', () => {
		const rig = made('v7');
		ready(rig);
		call(rig, PAGE, 40, 0);
		expect(rig.vm.pageStatus.setBitmap({ startGfn: 0, numPages: 2 ** 32 - 1, bitmap: undefined })).toBe(0);
		expect(shared(rig)).toEqual([]);
		expect(made('v6').vm.pageStatus.setBitmap({ startGfn: 0, numPages: 8, bitmap: undefined })).toBe(-14);
	});

	it('has a bitmap as large as its slots: what ends beyond is ignored without an error', () => {
		const rig = made('v7');
		ready(rig);
		expect(call(rig, (PAGES - 1) * PAGE, 2, 0)).toBe(0n);
		expect(call(rig, 0xfee00000, 1, 0)).toBe(0n);
		expect(shared(rig)).toEqual([]);
		expect(call(rig, (PAGES - 1) * PAGE, 1, 0)).toBe(0n);
		expect(shared(rig)).toEqual([PAGES - 1]);
		const more = rig.host.kvm.memory.mmap(4 * PAGE);
		const region = { slot: 1, guestPhysAddr: gpa(100 * PAGE), memorySize: 4 * PAGE, userspaceAddr: more.hva };
		rig.vm.setUserMemoryRegion({ ...region, flags: 0 });
		call(rig, 100 * PAGE, 4, 0);
		expect(shared(rig)).toEqual([PAGES - 1, 100, 101, 102, 103]);
		// A slot that goes does not make it smaller.
		rig.vm.setUserMemoryRegion({ ...region, flags: 0, memorySize: 0 });
		expect(shared(rig)).toEqual([PAGES - 1, 100, 101, 102, 103]);
	});
});

describe('v8', () => {
	/** A → B → C: whether C's VMM can ask for B's bitmap although its guest never enabled anything there. */
	const hop = (series: Series, by: 'set' | 'msr') => {
		const a = made(series);
		ready(a);
		call(a, PAGE, 1, 0);
		const b = made(series);
		const bitmap = new Uint8Array(16);
		expect(a.vm.pageStatus.getBitmap({ startGfn: 0, numPages: 128, bitmap })).toBe(0);
		expect(b.vm.pageStatus.setBitmap({ startGfn: 0, numPages: 128, bitmap })).toBe(0);
		if (by === 'msr') expect(b.vcpu.setMsr(liveMigrationFeature(series)?.msr ?? 0, 1n)).toBe(0);
		return b.vm.pageStatus.getBitmap({ startGfn: 0, numPages: 128, bitmap: new Uint8Array(16) });
	};

	it('enables an incoming guest implicitly, for A→B→C; v7 does not, and v9 leaves it to KVM_SET_MSRS', () => {
		expect([hop('v7', 'set'), hop('v8', 'set'), hop('v9', 'set'), hop('v9', 'msr')]).toEqual([-22, 0, -22, 0]);
	});
});

describe('v9', () => {
	it.each([
		['v8', false],
		['v9', true],
		['v10', true],
		['v11', false],
		['v12', false],
	] as const)('copies shared pages plainly in DBG_DECRYPT: %s %s', (series, bypasses) => {
		const rig = made(series);
		const { ram, host, vm } = rig;
		ready(rig);
		if (IN_KVM.includes(series)) expect(call(rig, 2 * PAGE, 2, 0)).toBe(0n);
		ram.bytes.fill(0x5a, 2 * PAGE, 4 * PAGE);
		const out = host.kvm.memory.mmap(PAGE);
		const before = host.commands.length;
		expect(vm.sev.dbgDecrypt({ src: hva(ram.hva + 3 * PAGE), dst: out.hva, len: 64 })).toMatchObject({ ret: 0 });
		expect(out.bytes.subarray(0, 64).every((byte) => byte === 0x5a)).toBe(bypasses);
		expect(host.commands.length - before).toBe(bypasses ? 0 : 1);
		expect(vm.sev.dbgDecrypt({ src: hva(ram.hva + 5 * PAGE), dst: out.hva, len: 64 })).toMatchObject({ ret: 0 });
		expect(host.commands.length - before).toBe(bypasses ? 1 : 2);
		// Mapped memory that no slot has.
		expect(vm.sev.dbgDecrypt({ src: out.hva, dst: out.hva, len: 64 }).ret).toBe(bypasses ? -22 : 0);
	});
});
