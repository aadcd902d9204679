import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { openMemoryController } from '@cvm/sev-hw/silicon';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { Vcpu, Vm } from '../src/index.js';
import { link, openVcpu } from '../src/vcpu/index.js';
import { VmWord } from '../src/vm/state.js';
import { openVcpuState, Register } from '../src/vm/vcpu-state.js';
import { contextOf } from '../src/vm/vm.js';
import { runningEsVm } from './es-rig.js';
import { bootHost, count, type Host, MIB, PAGE, runningVm } from './host.js';
import {
	addRam,
	esWithoutVmsa,
	guestCount,
	isEs,
	KINDS,
	pages,
	plainVm,
	sevOf,
	sevVm,
	threadOf,
} from './mirror-rig.js';

const EIO = -5;
const EBADF = -9;
const EBUSY = -16;
const EINVAL = -22;

describe.each(KINDS)('a chain of moves of a %s guest', (kind) => {
	const chain = () => {
		const host = bootHost();
		const source = sevVm(host, kind);
		const targets = [0, 1, 2].map(() => plainVm(host, 4)) as [Vm, Vm, Vm];
		return { host, source, targets };
	};

	it('T-7: goes to a VM that has no SEV', () => {
		const { source, targets } = chain();
		const { asid, handle } = sevOf(source);
		expect(targets[0].moveEncContextFrom(source)).toBe(0);
		expect(sevOf(targets[0])).toMatchObject({ active: true, es: isEs(kind), asid, handle });
	});

	it('T-8: goes on to the second', () => {
		const { source, targets } = chain();
		targets[0].moveEncContextFrom(source);
		expect(targets[1].moveEncContextFrom(targets[0])).toBe(0);
	});

	it('T-9: goes on to the third', () => {
		const { source, targets } = chain();
		targets[0].moveEncContextFrom(source);
		targets[1].moveEncContextFrom(targets[0]);
		expect(targets[2].moveEncContextFrom(targets[1])).toBe(0);
	});

	it('T-10: does not come back to a VM that was moved from', () => {
		const { source, targets } = chain();
		targets[0].moveEncContextFrom(source);
		expect(source.moveEncContextFrom(targets[0])).toBe(EIO);
		expect(sevOf(targets[0]).active).toBe(true);
	});

	it('T-11: leaves four VMs that are freed safely', () => {
		const { host, source, targets } = chain();
		expect(targets[0].moveEncContextFrom(source)).toBe(0);
		expect(targets[1].moveEncContextFrom(targets[0])).toBe(0);
		expect(targets[2].moveEncContextFrom(targets[1])).toBe(0);
		for (const vm of [source, targets[0], targets[1]]) vm.destroy();
		expect(guestCount(host)).toBe(1);
		targets[2].destroy();
		expect(guestCount(host)).toBe(0);
		expect([count(host, 'DEACTIVATE'), count(host, 'DECOMMISSION')]).toEqual([1, 1]);
	});
});

describe('moves between three VMs in any order', () => {
	/** Ioctls of one process do not overlap in this model, so a seeded order stands for the threads of the kernel's test. */
	it('T-12: end, 10,000 for each VM, itself among the sources, and leave VMs that can be freed', () => {
		const host = bootHost();
		const vms = [0, 1, 2].map(() => sevVm(host, 'sev', 1)) as [Vm, Vm, Vm];
		const seen = new Set<number>();
		let seed = 12;
		for (let step = 0; step < 30_000; step++) {
			seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
			const to = vms[(seed >>> 16) % 3];
			const from = vms[step % 3];
			if (to === undefined || from === undefined) throw new Error('index');
			seen.add(to.moveEncContextFrom(from));
		}
		expect([...seen]).toEqual([EINVAL]);
		for (const vm of vms) vm.destroy();
		expect(guestCount(host)).toBe(0);
	});

	const vm = fc.integer({ min: 0, max: 4 });
	test.prop([fc.array(fc.tuple(vm, vm), { maxLength: 40 })], { numRuns: 40 })(
		'T-12: keep each context in exactly one VM, and what was moved from stays dead',
		(moves) => {
			const host = bootHost();
			const vms = [sevVm(host, 'sev', 0), sevVm(host, 'sev', 0), ...[0, 1, 2].map(() => plainVm(host, 0))];
			const held: (number | 'dead' | 'none')[] = [...vms.map((v) => sevOf(v).asid || ('none' as const))];
			for (const [to, from] of moves) {
				const [target, source] = [vms[to], vms[from]];
				if (target === undefined || source === undefined) throw new Error('index');
				const legal = to !== from && held[to] === 'none' && typeof held[from] === 'number';
				const expected = held[to] === 'dead' ? EIO : legal ? 0 : EINVAL;
				expect(target.moveEncContextFrom(source)).toBe(expected);
				if (expected === 0) [held[to], held[from]] = [held[from] ?? 'none', 'dead'];
			}
			expect(vms.map((v) => (sevOf(v).dead ? 'dead' : sevOf(v).asid || 'none'))).toEqual(held);
			for (const v of vms) v.destroy();
			expect(guestCount(host)).toBe(0);
		},
	);

	it('is EBUSY while another copy or move has one of the two, the destination first', () => {
		const host = bootHost();
		const [to, from] = [plainVm(host, 0), sevVm(host)];
		for (const vm of [to, from]) {
			sevOf(vm).migrating = true;
			expect(to.moveEncContextFrom(from)).toBe(EBUSY);
			expect(to.copyEncContextFrom(from)).toBe(EBUSY);
			sevOf(vm).migrating = false;
		}
		expect([sevOf(to), sevOf(from)].map(({ migrating }) => migrating)).toEqual([false, false]);
		expect(to.moveEncContextFrom(from)).toBe(0);
	});
});

describe('a move is refused', () => {
	it('T-13: if the source is no SEV guest', () => {
		const host = bootHost();
		expect(plainVm(host, 0).moveEncContextFrom(plainVm(host, 4))).toBe(EINVAL);
	});

	it('T-14: to a SEV guest, from a SEV-ES guest', () => {
		const host = bootHost();
		expect(sevVm(host, 'sev').moveEncContextFrom(sevVm(host, 'sev-es'))).toBe(EINVAL);
	});

	it('T-15: to a SEV-ES guest, from a SEV guest', () => {
		const host = bootHost();
		expect(sevVm(host, 'sev-es').moveEncContextFrom(sevVm(host, 'sev'))).toBe(EINVAL);
	});

	it('T-16: from a SEV-ES guest, if the numbers of vCPUs differ', () => {
		const host = bootHost();
		const source = sevVm(host, 'sev-es');
		expect(plainVm(host, 0).moveEncContextFrom(source)).toBe(EINVAL);
		expect(sevOf(source)).toMatchObject({ active: true, dead: false });
	});

	it('T-17: from a SEV-ES guest whose registers are not encrypted', () => {
		const host = bootHost();
		expect(plainVm(host, 0).moveEncContextFrom(esWithoutVmsa(host))).toBe(EINVAL);
		// With equal numbers the reason is the state alone.
		expect(plainVm(host, 1).moveEncContextFrom(esWithoutVmsa(host))).toBe(EINVAL);
	});

	it('to a VM of another type, since 6.10', () => {
		for (const [release, expected] of [
			['6.1', 0],
			['6.10', EINVAL],
		] as const) {
			const host = bootHost({ release });
			const [to, from] = [plainVm(host, 0), sevVm(host)];
			Object.assign(contextOf(from), { type: 2 });
			expect(to.moveEncContextFrom(from)).toBe(expected);
		}
	});

	it('from a VM that is closed, or of another host: that is no descriptor', () => {
		const host = bootHost();
		const closed = sevVm(host);
		closed.destroy();
		expect(plainVm(host, 0).moveEncContextFrom(closed)).toBe(EBADF);
		expect(plainVm(host, 0).moveEncContextFrom(sevVm(bootHost()))).toBe(EBADF);
	});

	it.each(['5.12', '5.13', '5.15'] as const)('by Linux %s, which does not know it', (release) => {
		const host = bootHost({ release });
		expect(plainVm(host, 0).moveEncContextFrom(sevVm(host))).toBe(EINVAL);
	});

	it('while a vCPU of either VM is in KVM_RUN: Linux would wait for it', () => {
		const host = bootHost();
		const [to, from] = [plainVm(host, 1), sevVm(host)];
		for (const vm of [to, from]) {
			const { words } = contextOf(vm);
			Atomics.store(words, VmWord.running, 1);
			expect(to.moveEncContextFrom(from)).toBe(-4);
			Atomics.store(words, VmWord.running, 0);
		}
		expect(to.moveEncContextFrom(from)).toBe(0);
	});
});

describe('after a move', () => {
	const moved = (host: Host) => {
		const { vm: source, ram } = runningVm(host);
		const vcpu = source.createVcpu(0, []);
		const target = plainVm(host, 1);
		expect(target.moveEncContextFrom(source)).toBe(0);
		return { source, target, ram, vcpu };
	};

	it('the firmware noticed nothing, and the destination has no /dev/sev descriptor', () => {
		const host = bootHost();
		const { vm: source } = runningVm(host);
		const before = host.commands.length;
		const target = plainVm(host, 0);
		target.moveEncContextFrom(source);
		expect(host.commands).toHaveLength(before);
		expect(target.sev.guestStatus()).toMatchObject({ ret: EBADF, error: 0 });
	});

	it('the destination works with the same key, and keeps its own slots', () => {
		const host = bootHost();
		const { target, ram } = moved(host);
		const { words } = contextOf(target);
		expect(Atomics.load(words, VmWord.sevActive)).toBe(1);
		expect(Atomics.load(words, VmWord.asid)).toBe(sevOf(target).asid);
		addRam(target, 7, MIB, ram);
	});

	it('registered regions belong to the destination', () => {
		const host = bootHost();
		const { target, source, ram } = moved(host);
		const region = { addr: ram.hva, size: ram.bytes.length };
		expect(sevOf(source).regions).toEqual([]);
		expect(target.memoryEncryptUnregisterRegion(region)).toBe(0);
		expect(target.memoryEncryptUnregisterRegion(region)).toBe(EINVAL);
	});

	it('every ioctl of the source is EIO', () => {
		const host = bootHost();
		const { source, ram } = moved(host);
		const region = { addr: ram.hva, size: PAGE };
		const slot = { slot: 3, flags: 0, guestPhysAddr: gpa(MIB), memorySize: PAGE, userspaceAddr: ram.hva };
		expect([
			source.enableCap(201, [0n]),
			source.checkExtension(10),
			source.setMsrFilter({ flags: 0, ranges: [] }),
			source.setUserMemoryRegion(slot),
			source.getDirtyLog(0, new Uint32Array(2)),
			source.memoryEncryptRegisterRegion(region),
			source.memoryEncryptUnregisterRegion(region),
			source.copyEncContextFrom(plainVm(host, 0)),
			source.sev.init().ret,
			source.sev.launchStart({ policy: 0 }).ret,
			source.sev.guestStatus().ret,
			source.sev.sendFinish().ret,
			source.sev.dbgDecrypt({ src: ram.hva, dst: ram.hva, len: 16 }).ret,
			source.sev.sendUpdateDataBatch([], 0, ram.bytes, { headerAt: 0, payloadAt: 0, stride: 0 }).ret,
		]).toEqual(Array.from({ length: 14 }, () => EIO));
		expect(sevOf(source).active).toBe(false);
		expect(() => source.createVcpu(1, [])).toThrow(expect.objectContaining({ code: 'vm-gone' }));
	});

	it('KVM_RUN on a vCPU of the source is EIO', () => {
		const host = bootHost();
		const { vcpu } = moved(host);
		expect(threadOf(vcpu, { reset: (cpu) => cpu.ud2() }).run()).toBe(EIO);
	});

	it('registers of a vCPU of the source are EIO', () => {
		const host = bootHost();
		const { vcpu } = moved(host);
		expect(vcpu.setRegs({ rax: 1n })).toBe(EIO);
		expect(vcpu.setSregs({ cr3: 1n })).toBe(EIO);
		expect(vcpu.setMsr(0xc0000080, 0n)).toBe(EIO);
		for (const read of [() => vcpu.getRegs(), () => vcpu.getSregs(), () => vcpu.getMsr(0xc0000080)]) {
			expect(read).toThrow(expect.objectContaining({ code: 'vm-gone' }));
		}
	});

	it('nothing of the source but its slots is left to free, and the ASID is free when the destination goes', () => {
		const host = bootHost();
		const { source, target, ram } = moved(host);
		source.destroy();
		host.kvm.memory.munmap(ram);
		expect(count(host, 'DECOMMISSION')).toBe(0);
		target.destroy();
		expect([count(host, 'DECOMMISSION'), guestCount(host)]).toEqual([1, 0]);
		expect(ram.bytes.every((b) => b === 0)).toBe(true);
	});

	it('a SEV-ES vCPU has its save area, its GHCB and its reset hold at the destination', () => {
		const host = bootHost();
		const [source, target] = [sevVm(host, 'sev-es', 2), plainVm(host, 2)];
		const from = [...contextOf(source).vcpus.values()];
		const areas = from.map(({ saveArea }) => saveArea);
		for (const [i, { vcpu }] of from.entries()) {
			openVcpuState(vcpu.share()).registers[Register.ghcbMsr] = BigInt(0x1000 * (i + 1));
			openVcpuState(vcpu.share()).registers[Register.apResetHold] = BigInt(i);
		}
		expect(target.moveEncContextFrom(source)).toBe(0);
		const to = [...contextOf(target).vcpus.values()];
		expect(to.map(({ saveArea }) => saveArea)).toEqual(areas);
		expect(areas.every((area) => area !== undefined)).toBe(true);
		expect(to.map(({ guestStateProtected }) => guestStateProtected)).toEqual([true, true]);
		expect(from.map(({ saveArea, guestStateProtected }) => saveArea ?? guestStateProtected)).toEqual([false, false]);
		const held = to.map(({ vcpu }) => openVcpuState(vcpu.share()).registers);
		expect(held.map((r) => [r[Register.ghcbMsr], r[Register.apResetHold]])).toEqual([
			[0x1000n, 0n],
			[0x2000n, 1n],
		]);
	});

	it('pairs SEV-ES vCPUs in the order of their creation, whatever their ids', () => {
		const host = bootHost();
		const source = sevVm(host, 'sev-es', 1);
		const target = host.kvm.createVm();
		target.createVcpu(5, []);
		expect(target.moveEncContextFrom(source)).toBe(0);
		expect(contextOf(target).vcpus.get(5)?.guestStateProtected).toBe(true);
	});

	it('pinned memory of a closed source comes back when the destination goes', () => {
		const host = bootHost();
		const free = host.kvm.memory.freeBytes;
		const source = sevVm(host);
		const ram = pages(host, 4);
		source.memoryEncryptRegisterRegion({ addr: ram.hva, size: 4 * PAGE });
		const target = plainVm(host, 0);
		target.moveEncContextFrom(source);
		source.destroy();
		host.kvm.memory.munmap(ram);
		expect(host.kvm.memory.freeBytes).toBe(free - 4 * PAGE);
		target.destroy();
		expect(host.kvm.memory.freeBytes).toBe(free);
	});
});

describe('a SEV-ES guest that runs', () => {
	it('goes on at the destination with its registers and its memory', () => {
		const host = bootHost();
		const { vm: source, ram, vcpus } = runningEsVm(host, { vcpus: 1 });
		const vcpu = vcpus[0];
		if (vcpu === undefined) throw new Error('no vCPU');
		/** Counts in R8 and, from there, in memory; stops after so many blocks. */
		const count = (on: Vcpu, blocks: number): void => {
			let left = blocks;
			const program = link({
				name: 'count',
				base: 0x10000,
				at: { reset: 0xfffffff0 },
				blocks: {
					reset: (cpu) => {
						cpu.setReg('r8', 0n);
						return cpu.jump('loop');
					},
					loop: (cpu) => {
						cpu.setReg('r8', cpu.reg('r8') + 1n);
						cpu.storeU64(0x1000, cpu.reg('r8'));
						return cpu.jump('loop');
					},
				},
			});
			const afterBlock = (): void => {
				left--;
				if (left === 0) on.kick();
			};
			expect(openVcpu(on.share(), { provider: nodeProvider, program, ticks: false, afterBlock }).run()).toBe(-4);
		};
		count(vcpu, 4);
		const target = host.kvm.createVm();
		addRam(target, 0, 0, ram);
		const next = target.createVcpu(0, []);
		expect(target.moveEncContextFrom(source)).toBe(0);
		count(next, 2);
		const plain = new Uint8Array(8);
		openMemoryController(host.machine.silicon, nodeProvider).read(sevOf(target).asid, ram.spa + 0x1000, plain);
		expect([...plain]).toEqual([5, 0, 0, 0, 0, 0, 0, 0]);
		expect(threadOf(vcpu, {}).run()).toBe(EIO);
	});
});
