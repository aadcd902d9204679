import { gpa, hva } from '@cvm/layout';
import { describe, expect, it, vi } from 'vitest';
import { type HostMapping, KvmError, MemFlag, type UserMemoryRegion, type Vcpu, type Vm } from '../src/index.js';
import {
	createIdentityStrategy,
	createLowWindowStrategy,
	createMirrorVm,
	createPcRamMap,
	createRegistrationStrategy,
	FIRST_WINDOW_SLOT,
	loadMirrorRegisters,
	mirrorRecord,
	parseSmp,
} from '../src/mirror/index.js';
import { openVmState } from '../src/vm/state.js';
import { contextOf } from '../src/vm/vm.js';
import { bootHost, MIB, PAGE } from './host.js';
import { DATA, dirtyWords, load, machine, mirrorOf, running, store } from './mirror-machine.js';
import { pages, sevOf } from './mirror-rig.js';

const W = 2 ** 42;

describe('the start of a machine with a mirror', () => {
	/** Calls of both VMs in their order, by name and VM. */
	function traced(smp: string) {
		const host = bootHost();
		const calls: string[] = [];
		const watch = (name: string, vm: Vm): Vm => {
			for (const method of [
				'copyEncContextFrom',
				'setUserMemoryRegion',
				'createVcpu',
				'memoryEncryptRegisterRegion',
			] as const) {
				const real = vm[method] as (...args: readonly never[]) => never;
				vi.spyOn(vm, method).mockImplementation((...args: readonly unknown[]) => {
					calls.push(`${name} ${method}`);
					return real(...(args as readonly never[]));
				});
			}
			return vm;
		};
		const main = watch('main', host.kvm.createVm());
		const { createVm } = host.kvm;
		const kvm = {
			...host.kvm,
			createVm: (options: Parameters<typeof createVm>[0]) => {
				calls.push('createVm');
				return watch('mirror', createVm(options));
			},
		};
		const ram = pages(host, 16);
		const strategy = createIdentityStrategy(createPcRamMap({ ramBytes: ram.bytes.length, hva: ram.hva }));
		const mirror = createMirrorVm({ kvm, main, topology: parseSmp(smp), strategy });
		main.sev.init();
		main.sev.launchStart({ policy: 0 });
		return { mirror, main, ram, calls };
	}
	const slotOf = (ram: HostMapping): UserMemoryRegion => ({
		slot: 2,
		flags: 0,
		guestPhysAddr: gpa(0),
		memorySize: ram.bytes.length,
		userspaceAddr: ram.hva,
	});

	it('makes its calls in the order of the branch, the main VM first', () => {
		const { mirror, main, ram, calls } = traced('2,mirrorvcpus=1');
		expect(mirror.shareContext()).toBe(0);
		expect(mirror.setUserMemoryRegion(slotOf(ram))).toBe(0);
		main.createVcpu(0, []);
		mirror.addVcpu(1, []);
		expect(calls).toEqual([
			'createVm',
			'mirror copyEncContextFrom',
			'main setUserMemoryRegion',
			'mirror setUserMemoryRegion',
			'main createVcpu',
			'mirror createVcpu',
		]);
		expect(main.setUserMemoryRegion).toHaveBeenCalledWith(slotOf(ram));
		expect(mirror.vm?.setUserMemoryRegion).toHaveBeenCalledWith(slotOf(ram));
	});

	it('without mirror vCPUs calls nothing for a mirror and succeeds', () => {
		const { mirror, ram, calls } = traced('2');
		expect(mirror.vm).toBeUndefined();
		expect([
			mirror.shareContext(),
			mirror.setUserMemoryRegion(slotOf(ram)),
			mirror.mapWindows(),
			mirror.unmapWindows(),
		]).toEqual([0, 0, 0, 0]);
		mirror.destroy();
		expect(calls).toEqual(['main setUserMemoryRegion']);
		expect(() => mirror.addVcpu(1, [])).toThrow(RangeError);
	});

	it('gives the mirror the type of the main VM', () => {
		const host = bootHost();
		const main = host.kvm.createVm({ type: 2 });
		const strategy = createIdentityStrategy(createPcRamMap({ ramBytes: PAGE, hva: pages(host, 1).hva }));
		const mirror = createMirrorVm({ kvm: host.kvm, main, topology: parseSmp('2,mirrorvcpus=1'), strategy });
		expect(main.sev.init2({}).ret).toBe(0);
		expect(main.sev.launchStart({ policy: 0 }).ret).toBe(0);
		expect(mirror.shareContext()).toBe(0);
		expect(contextOf(mirrorOf({ mirror })).type).toBe(2);
	});

	it('takes mirror vCPUs only, and has no interrupt controller for them', () => {
		const { mirror } = machine({ smp: '3,mirrorvcpus=1' });
		for (const index of [0, 1, 3]) expect(() => mirror.addVcpu(index, [])).toThrow(RangeError);
		expect(mirror.addVcpu(2, []).index).toBe(2);
		expect(contextOf(mirrorOf({ mirror })).hasIrqchip).toBe(false);
	});

	it('goes on without a shared context if the kernel knows no mirrors: a trap of the branch', () => {
		const host = bootHost({ release: '5.12' });
		const { mirror } = machine({ host });
		expect(sevOf(mirrorOf({ mirror })).active).toBe(false);
	});
});

describe('the registers of a mirror vCPU', () => {
	const loaded = (level: 'runtime' | 'reset' | 'full', fails?: keyof Vcpu) => {
		const { handler } = running();
		const order: string[] = [];
		for (const method of ['setSregs', 'setRegs', 'setXsave', 'setXcrs', 'setDebugRegs'] as const) {
			const real = handler[method] as (argument: never) => number;
			vi.spyOn(handler, method).mockImplementation((argument: unknown) => {
				order.push(method);
				return method === fails ? -22 : real(argument as never);
			});
		}
		const ret = loadMirrorRegisters(
			handler,
			{
				sregs: { cr3: 0x5000n },
				regs: { rip: 0x1234n },
				xsave: handler.getXsave(),
				xcrs: [{ xcr: 0, value: 1n }],
				debugRegs: {},
				setTscKhz: () => order.push('tsc'),
			},
			level,
		);
		return { ret, order, handler };
	};

	it('are loaded in the order of the branch, the TSC only when everything is', () => {
		const { ret, order, handler } = loaded('full');
		expect(ret).toBe(0);
		expect(order).toEqual(['setSregs', 'tsc', 'setRegs', 'setXsave', 'setXcrs', 'setDebugRegs']);
		expect([handler.getSregs().cr3, handler.getRegs().rip]).toEqual([0x5000n, 0x1234n]);
		for (const level of ['runtime', 'reset'] as const) expect(loaded(level).order).not.toContain('tsc');
	});

	it('end at the first that is refused', () => {
		expect(loaded('runtime', 'setXsave')).toMatchObject({ ret: -22, order: ['setSregs', 'setRegs', 'setXsave'] });
		expect(loaded('full', 'setSregs')).toMatchObject({ ret: -22, order: ['setSregs'] });
	});
});

describe('slots of both VMs', () => {
	it('are added, re-flagged and deleted together', () => {
		const { mirror, main, slot } = machine();
		const logging = { ...slot, flags: MemFlag.logDirtyPages };
		expect(mirror.setUserMemoryRegion(logging)).toBe(0);
		expect([dirtyWords(main), dirtyWords(mirrorOf({ mirror }))]).toEqual([
			[0, 0],
			[0, 0],
		]);
		expect(mirror.setUserMemoryRegion({ ...slot, memorySize: 0 })).toBe(0);
		expect([main, mirrorOf({ mirror })].map((vm) => vm.getDirtyLog(0, new Uint32Array(2)))).toEqual([-2, -2]);
		expect(mirror.setUserMemoryRegion(slot)).toBe(0);
	});

	it('leave the mirror as it was if the main VM refuses', () => {
		const { mirror, slot, handler } = running();
		expect(mirror.setUserMemoryRegion({ ...slot, userspaceAddr: hva(slot.userspaceAddr + PAGE) })).toBe(-22);
		expect(mirror.setUserMemoryRegion({ ...slot, slot: FIRST_WINDOW_SLOT })).toBe(-22);
		store(handler, 0);
	});

	/** What the mirror's KVM answers to calls that make or change slots, from now on. */
	const refuses = (vm: Vm, answer: () => number, matches: (region: UserMemoryRegion) => boolean = () => true) => {
		const real = vm.setUserMemoryRegion;
		vi.spyOn(vm, 'setUserMemoryRegion').mockImplementation((region) => (matches(region) ? answer() : real(region)));
	};
	const ENOMEM = () => -12;
	const stuck = (): number => {
		throw new KvmError('vcpu-stuck', 'memslots', 'every vCPU to reach the end of its block', 'none');
	};
	/** Whether a VM has a slot at an address. */
	const has = (vm: Vm, at: number): boolean => openVmState(contextOf(vm).handle).translate(at) >= 0;

	it('are as before in both VMs if the mirror refuses a new one', () => {
		const { mirror, main, slot, host } = machine();
		const more: UserMemoryRegion = { ...slot, slot: 1, guestPhysAddr: gpa(MIB), userspaceAddr: pages(host, 16).hva };
		refuses(mirrorOf({ mirror }), ENOMEM);
		expect(mirror.setUserMemoryRegion(more)).toBe(-12);
		expect([has(main, MIB), has(main, 0), has(mirrorOf({ mirror }), 0)]).toEqual([false, true, true]);
		vi.restoreAllMocks();
		expect(mirror.setUserMemoryRegion(more)).toBe(0);
	});

	it('are as before in both VMs if the mirror refuses other flags, a move, or its deletion', () => {
		const { mirror, main, slot } = machine();
		refuses(mirrorOf({ mirror }), ENOMEM);
		expect(mirror.setUserMemoryRegion({ ...slot, flags: MemFlag.logDirtyPages })).toBe(-12);
		expect(main.getDirtyLog(0, new Uint32Array(2))).toBe(-2);
		expect(mirror.setUserMemoryRegion({ ...slot, guestPhysAddr: gpa(MIB) })).toBe(-12);
		vi.restoreAllMocks();
		refuses(mirrorOf({ mirror }), stuck);
		expect(() => mirror.setUserMemoryRegion({ ...slot, memorySize: 0 })).toThrow(KvmError);
		expect([has(main, 0), has(main, MIB), has(mirrorOf({ mirror }), 0)]).toEqual([true, false, true]);
		vi.restoreAllMocks();
		expect(mirror.setUserMemoryRegion({ ...slot, memorySize: 0 })).toBe(0);
		expect([has(main, 0), has(mirrorOf({ mirror }), 0)]).toEqual([false, false]);
	});

	it('are as before in both VMs if the mirror refuses a slot that became READONLY', () => {
		const { mirror, main, slot } = machine();
		refuses(mirrorOf({ mirror }), ENOMEM, ({ flags }) => flags === MemFlag.readonly);
		expect(mirror.setUserMemoryRegion({ ...slot, flags: MemFlag.readonly })).toBe(-12);
		for (const vm of [main, mirrorOf({ mirror })]) {
			expect(openVmState(contextOf(vm).handle).isWritable(0)).toBe(true);
		}
		vi.restoreAllMocks();
		expect(mirror.setUserMemoryRegion({ ...slot, flags: MemFlag.readonly })).toBe(0);
	});

	it('follow a slot that moves out of what the strategy copies', () => {
		const { mirror, main, slot, host } = machine({ strategy: createLowWindowStrategy });
		const more = pages(host, 1);
		const high: UserMemoryRegion = {
			...slot,
			slot: 1,
			guestPhysAddr: gpa(MIB),
			memorySize: PAGE,
			userspaceAddr: more.hva,
		};
		expect(mirror.setUserMemoryRegion(high)).toBe(0);
		expect(mirror.setUserMemoryRegion({ ...high, guestPhysAddr: gpa(2 ** 33) })).toBe(0);
		const gone = { ...high, memorySize: 0 };
		expect(mirrorOf({ mirror }).setUserMemoryRegion(gone)).toBe(-22);
		expect(main.setUserMemoryRegion(gone)).toBe(0);
	});
});

describe('windows', () => {
	const areas = (mainGpa: number, mirrorGpa: number) =>
		mirrorRecord.encode({ mainGpa: BigInt(mainGpa), length: BigInt(PAGE), mirrorGpa: BigInt(mirrorGpa) });

	it('show RAM that the guest does not see', () => {
		const { host, map, mirror, handler, main } = running({ strategy: createLowWindowStrategy });
		const area = pages(host, 1);
		const block = map.addBlock('save area', PAGE, area.hva);
		expect(mirror.mapWindows()).toBe(0);
		const at = mirror.strategy.addressOf(block.offset);
		expect(at).toBe(W + block.offset);
		store(handler, at);
		const copy = pages(host, 1);
		main.sev.dbgDecrypt({ src: area.hva, dst: copy.hva, len: PAGE });
		expect(copy.bytes.subarray(0, DATA.length)).toEqual(DATA);
	});

	it('come and go with a registration', () => {
		const made = machine({ strategy: createRegistrationStrategy });
		const { mirror } = made;
		const strategy = mirror.strategy as ReturnType<typeof createRegistrationStrategy>;
		const handler = mirror.addVcpu(1, []);
		const guest = made.main.createVcpu(0, []);
		store(guest, 3 * PAGE);
		expect(strategy.writeMsr(true, areas(3 * PAGE, 2 ** 41))).toEqual({ kind: 'taken' });
		expect(mirror.mapWindows()).toBe(0);
		expect(load(handler, 2 ** 41)).toEqual(DATA);
		expect(load(handler, W + 3 * PAGE)).toEqual(DATA);
		strategy.writeMsr(false, new Uint8Array(0));
		expect(mirror.mapWindows()).toBe(0);
		expect(mirrorOf(made).setUserMemoryRegion({ ...made.slot, slot: 1, guestPhysAddr: gpa(2 ** 41) })).toBe(0);
		expect(mirror.unmapWindows()).toBe(0);
		expect(mirrorOf(made).setUserMemoryRegion({ ...made.slot, slot: 2, guestPhysAddr: gpa(W) })).toBe(0);
	});

	it('are as before if KVM refuses one', () => {
		const made = running({ strategy: createRegistrationStrategy });
		const { mirror, slot, guest, handler } = made;
		const strategy = mirror.strategy as ReturnType<typeof createRegistrationStrategy>;
		store(guest, 0);
		strategy.writeMsr(true, areas(0, 2 ** 40));
		mirror.mapWindows();
		strategy.writeMsr(false, new Uint8Array(0));
		strategy.writeMsr(true, areas(PAGE, 2 ** 41));
		expect(mirrorOf(made).setUserMemoryRegion({ ...slot, slot: 5, guestPhysAddr: gpa(2 ** 41) })).toBe(0);
		expect(mirror.mapWindows()).toBe(-17);
		expect(load(handler, 2 ** 40)).toEqual(DATA);
	});
});
