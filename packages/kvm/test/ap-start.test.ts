import { nodeProvider } from '@cvm/crypto/node';
import { gpa } from '@cvm/layout';
import { describe, expect, it } from 'vitest';
import { ExitCode } from '../src/abi/ghcb.js';
import { ExitReason, RunOffset } from '../src/abi/run-page.js';
import { loadEsVcpu, MpState, saveEsVcpu } from '../src/index.js';
import { type Block, link, openVcpu } from '../src/vcpu/index.js';
import { openVcpuState, Register, type RegisterName } from '../src/vm/vcpu-state.js';
import { contextOf } from '../src/vm/vm.js';
import { ApicEvent, loadApicEvents } from '../src/vm/words.js';
import { AP_START, createGhcbRig, EAGAIN, EINTR, EINVAL, event, GHCB, type GhcbRig, resultOf } from './ghcb-rig.js';
import { bootHost, MIB } from './host.js';

const INIT = 0x4500n;
const SIPI = 0x4600n;
const to = (vcpu: number, command: bigint): bigint => (BigInt(vcpu) << 32n) | command;

describe('KVM_CREATE_IRQCHIP', () => {
	it('once, and before the vCPUs', () => {
		const { kvm } = bootHost();
		const vm = kvm.createVm();
		expect([vm.createIrqchip(), vm.createIrqchip()]).toEqual([0, -17]);
		const late = kvm.createVm();
		late.createVcpu(0, []);
		expect(late.createIrqchip()).toBe(EINVAL);
		vm.destroy();
		expect(vm.createIrqchip()).toBe(-9);
	});
	it('vCPUs but the first wait for INIT; without it all are runnable', () => {
		const { kvm } = bootHost();
		const vm = kvm.createVm();
		vm.createIrqchip();
		expect([0, 1, 2].map((i) => vm.createVcpu(i, []).mpState)).toEqual([
			MpState.runnable,
			MpState.uninitialized,
			MpState.uninitialized,
		]);
		const without = kvm.createVm();
		expect([0, 1].map((i) => without.createVcpu(i, []).mpState)).toEqual([MpState.runnable, MpState.runnable]);
	});
});

/** A guest without SEV whose block `reset` writes ICR, and whose second vCPU starts at page 3. */
function plainGuest(commands: readonly bigint[], o: { irqchip?: boolean } = {}) {
	const host = bootHost();
	const vm = host.kvm.createVm();
	if (o.irqchip !== false) vm.createIrqchip();
	const ram = host.kvm.memory.mmap(MIB);
	vm.setUserMemoryRegion({ slot: 0, flags: 0, guestPhysAddr: gpa(0), memorySize: MIB, userspaceAddr: ram.hva });
	const blocks: Record<string, Block> = {
		end: (cpu) => cpu.out(0xf4, 1, 'end'),
		start: (cpu) => cpu.out(0x80, 1, 'start'),
	};
	for (const [i, command] of commands.entries()) {
		blocks[i === 0 ? 'reset' : `icr${i}`] = (cpu) => {
			cpu.setNum('rcx', 0x830);
			cpu.setReg('rax', command & 0xffffffffn);
			cpu.setReg('rdx', command >> 32n);
			return cpu.wrmsr(i + 1 < commands.length ? `icr${i + 1}` : 'end');
		};
	}
	const program = link({ name: 'test', base: 0x10000, at: { reset: 0xfffffff0, start: 0x3000 }, blocks });
	const vcpus = [0, 1, 2].map((i) => vm.createVcpu(i, []));
	const threads = vcpus.map((vcpu) => {
		let blocks = 0;
		const afterBlock = (): void => {
			if (++blocks > 1000) vcpu.kick();
		};
		return openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false, afterBlock });
	});
	const run = (vcpu: number): number => threads[vcpu]?.run() ?? 1;
	const reg = (vcpu: number, name: RegisterName): bigint =>
		openVcpuState(vcpus[vcpu]?.share() ?? expect.fail()).registers[Register[name]] ?? 0n;
	const port = (vcpu: number): number =>
		new DataView(vcpus[vcpu]?.run.buffer ?? expect.fail(), vcpus[vcpu]?.run.byteOffset).getUint16(
			RunOffset.ioPort,
			true,
		);
	return { vcpus, threads, run, reg, port };
}

describe('INIT-SIPI-SIPI in a guest without protected registers', () => {
	it('starts the AP at the page that the vector names; KVM_RUN says −EAGAIN first', () => {
		const guest = plainGuest([to(1, INIT), to(1, SIPI | 3n), to(1, SIPI | 3n)]);
		expect([guest.run(1), guest.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.uninitialized]);
		expect(guest.run(0)).toBe(0);
		expect([guest.run(1), guest.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.runnable]);
		expect([guest.run(1), guest.port(1)]).toEqual([0, 0x80]);
		expect([guest.reg(1, 'csBase'), guest.reg(1, 'rip')]).toEqual([0x3000n, 0n]);
		expect(guest.vcpus[2]?.mpState).toBe(MpState.uninitialized);
	});
	it('INIT alone makes it wait for the SIPI', () => {
		const guest = plainGuest([to(1, INIT)]);
		guest.run(0);
		expect([guest.run(1), guest.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.initReceived]);
		expect([guest.run(1), guest.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.initReceived]);
		if (guest.vcpus[1] !== undefined) guest.vcpus[1].mpState = MpState.sipiReceived;
		expect([guest.run(1), guest.vcpus[1]?.mpState]).toEqual([0, MpState.runnable]);
	});
	it('a SIPI without INIT is lost', () => {
		const guest = plainGuest([to(1, SIPI | 3n)]);
		guest.run(0);
		expect([guest.run(1), guest.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.uninitialized]);
	});
	it('an INIT that is taken back does nothing', () => {
		const guest = plainGuest([to(1, 0x8500n), to(1, SIPI | 3n)]);
		guest.run(0);
		expect([guest.run(1), guest.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.uninitialized]);
	});
	it('the shorthand for all but the sender starts all but the sender', () => {
		const guest = plainGuest([0xc4500n, to(0xffffffff, SIPI | 3n)]);
		expect(guest.run(0)).toBe(0);
		for (const vcpu of [1, 2]) {
			expect(guest.run(vcpu)).toBe(EAGAIN);
			expect([guest.run(vcpu), guest.port(vcpu)]).toEqual([0, 0x80]);
		}
	});
	it('KVM_RUN of a vCPU that waits is −EINTR under immediate_exit', () => {
		const guest = plainGuest([to(1, INIT)]);
		if (guest.vcpus[1] !== undefined) guest.vcpus[1].run[RunOffset.immediateExit] = 1;
		expect(guest.run(1)).toBe(EINTR);
	});
	it('KVM_GET_MP_STATE lets what waits take effect: the VMM reads the registers after it', () => {
		const guest = plainGuest([to(1, INIT), to(1, SIPI | 3n), to(2, INIT)]);
		guest.run(0);
		const [, started, reset] = guest.vcpus;
		started?.setRegs({ rbx: 5n });
		expect([started?.mpState, started?.getMpState()]).toEqual([MpState.uninitialized, MpState.runnable]);
		expect([started?.getSregs().cs.base, started?.getRegs()]).toMatchObject([0x3000n, { rip: 0n, rbx: 0n }]);
		expect([reset?.mpState, reset?.getMpState()]).toEqual([MpState.uninitialized, MpState.initReceived]);
		expect([guest.run(1), guest.port(1)]).toEqual([0, 0x80]);
	});
	it('without an irqchip ICR is an MSR that KVM does not know', () => {
		const guest = plainGuest([to(1, INIT)], { irqchip: false });
		expect([guest.run(0), guest.threads[0]?.fault?.code]).toEqual([0, 'gp']);
	});
	it('an INIT for the boot vCPU itself brings it back to the reset vector', () => {
		// The block at the reset vector sends it, so it is run again and again, and `end` never.
		const guest = plainGuest([to(0, INIT)]);
		expect([guest.run(0), guest.vcpus[0]?.mpState]).toEqual([EINTR, MpState.runnable]);
	});
});

/** An AP of a SEV-ES guest after its first start, in VMGEXIT for ever; `wake` sends INIT and SIPI through the GHCB of vCPU 0. */
function startedAp(
	o: { typed?: boolean; blocks?: Readonly<Record<string, Block>> } = {},
): GhcbRig & { send(command: bigint): void } {
	const rig = createGhcbRig({ vcpus: 2, irqchip: true, ...o });
	const send = (command: bigint): void => {
		const fields = { ...event(ExitCode.MSR, 1n), rcx: 0x830n, rax: to(1, command) & 0xffffffffn, rdx: 1n };
		expect(rig.exchange(fields)).toBe(EINTR);
		expect(resultOf(rig.get())).toEqual([0n, 0n]);
	};
	return { ...rig, send };
}

describe('AP start of a SEV-ES guest', () => {
	it('the first SIPI starts the measured state, whatever its vector', () => {
		const rig = startedAp();
		expect([rig.run(1), rig.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.uninitialized]);
		rig.send(INIT);
		rig.send(SIPI | 0x9fn);
		expect([rig.run(1), rig.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.runnable]);
		rig.setHost64('ghcbMsr', 0x002n, 1);
		expect(rig.run(1)).toBe(EINTR);
		expect([rig.host64('ghcbMsr', 1) & 0xfffn, rig.host64('sipiSeen', 1)]).toEqual([1n, 1n]);
	});
	const start = (rig: ReturnType<typeof startedAp>): void => {
		rig.send(INIT);
		rig.send(SIPI);
		expect(rig.run(1)).toBe(EAGAIN);
	};
	it('a reset hold by the GHCB page ends with SW_EXITINFO2 = 1', () => {
		const loop: Block = (cpu) => cpu.jump('ap_loop');
		const rig = startedAp({ blocks: { ap: (cpu) => cpu.vmgexit('ap_loop'), ap_loop: loop } });
		start(rig);
		rig.setHost64('ghcbMsr', BigInt(GHCB + 0x1000), 1);
		rig.put(event(ExitCode.AP_RESET_HOLD));
		const page = rig.ram.bytes.subarray(GHCB, GHCB + 4096);
		const second = rig.ram.bytes.subarray(GHCB + 4096, GHCB + 8192);
		second.set(page);
		const info2 = () => new DataView(second.buffer, second.byteOffset).getBigUint64(0x3a0, true);
		// The kick of the rig comes before the wait.
		expect([rig.run(1), rig.vcpus[1]?.mpState, info2()]).toEqual([EINTR, MpState.apResetHold, 0n]);
		expect([rig.run(1), rig.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.apResetHold]);
		rig.send(INIT);
		expect([rig.run(1), rig.vcpus[1]?.mpState, info2()]).toEqual([EAGAIN, MpState.initReceived, 0n]);
		rig.send(SIPI | 0x55n);
		const ret = rig.run(1);
		expect([ret, rig.vcpus[1]?.mpState, info2(), rig.host64('apResetHold', 1)]).toEqual([
			EINTR,
			MpState.runnable,
			1n,
			0n,
		]);
	});
	it('a reset hold by the MSR ends with a result of 1', () => {
		const rig = startedAp();
		start(rig);
		rig.setHost64('ghcbMsr', 0xabc006n, 1);
		expect([rig.run(1), rig.vcpus[1]?.mpState, rig.host64('ghcbMsr', 1)]).toEqual([EINTR, MpState.apResetHold, 7n]);
		expect(rig.host64('apResetHold', 1)).toBe(2n);
		rig.send(INIT);
		rig.send(SIPI);
		const before = rig.host64('ghcbMsr', 1);
		expect(rig.run(1)).toBe(EINTR);
		// The block after it is VMGEXIT again, which leaves the response as it is.
		expect([before, rig.host64('ghcbMsr', 1)]).toEqual([7n, 0x1007n]);
	});
	it('a reset hold that came with a migration ends by the first SIPI on the new host', () => {
		const rig = startedAp({ blocks: { ap: (cpu) => cpu.jump('ap') } });
		rig.setHost64('ghcbMsr', 7n, 1);
		rig.setHost64('apResetHold', 2n, 1);
		if (rig.vcpus[1] !== undefined) rig.vcpus[1].mpState = MpState.apResetHold;
		rig.send(INIT);
		rig.send(SIPI);
		expect([rig.run(1), rig.host64('ghcbMsr', 1)]).toEqual([EINTR, 0x1007n]);
	});
	it.each([
		['INIT and SIPI', [INIT, SIPI], MpState.sipiReceived],
		['INIT', [INIT], MpState.initReceived],
	] as const)('KVM_GET_MP_STATE says that %s wait for an AP, and the record carries them', (_, commands, state) => {
		const loop: Block = (cpu) => cpu.jump('ap_loop');
		const from = startedAp({ blocks: { ap_loop: loop } });
		for (const command of commands) from.send(command);
		expect([from.vcpus[1]?.mpState, from.vcpus[1]?.getMpState()]).toEqual([MpState.uninitialized, state]);
		const target = startedAp({ blocks: { ap: loop, ap_loop: loop } });
		loadEsVcpu(target.vm, 1, saveEsVcpu(from.vm, 1));
		expect(target.run(1)).toBe(EAGAIN);
		if (state === MpState.initReceived) target.send(SIPI);
		expect([target.run(1), target.vcpus[1]?.mpState]).toEqual([EINTR, MpState.runnable]);

		// A record without them takes back what waits.
		target.send(INIT);
		loadEsVcpu(target.vm, 1, saveEsVcpu(startedAp().vm, 1));
		expect([target.run(1), target.vcpus[1]?.mpState]).toEqual([EAGAIN, MpState.uninitialized]);
	});
	it('the state alone carries a SIPI too: KVM_SET_MP_STATE of what KVM_GET_MP_STATE said', () => {
		const from = startedAp();
		from.send(INIT);
		from.send(SIPI);
		const target = startedAp({ blocks: { ap: (cpu) => cpu.jump('ap') } });
		const state = from.vcpus[1]?.getMpState() ?? -1;
		expect(target.vcpus[1]?.setMpState(state)).toBe(0);
		expect([target.run(1), target.vcpus[1]?.mpState]).toEqual([EINTR, MpState.runnable]);
	});
	it('stay where they wait when the encryption context moves: the APIC does not', () => {
		const from = startedAp();
		from.send(INIT);
		from.send(SIPI);
		const record = saveEsVcpu(from.vm, 1);
		const target = from.host.kvm.createVm();
		expect(target.createIrqchip()).toBe(0);
		for (const i of [0, 1]) target.createVcpu(i, []);
		expect(target.moveEncContextFrom(from.vm)).toBe(0);
		const pending = () => loadApicEvents(contextOf(target).words, 1);
		expect(pending()).toBe(0);
		loadEsVcpu(target, 1, record);
		expect(pending()).toBe(ApicEvent.init | ApicEvent.sipi);
	});
	it('a vCPU that is woken otherwise gets no result', () => {
		const rig = startedAp();
		start(rig);
		rig.setHost64('ghcbMsr', 0x006n, 1);
		rig.run(1);
		if (rig.vcpus[1] !== undefined) rig.vcpus[1].mpState = MpState.runnable;
		expect([rig.run(1), rig.host64('ghcbMsr', 1)]).toEqual([EINTR, 7n]);
	});
	it.each([
		['the GHCB page', BigInt(GHCB)],
		['the MSR', 0x006n],
	])('without an irqchip a reset hold by %s is KVM_EXIT_AP_RESET_HOLD', (_, msr) => {
		const rig = createGhcbRig();
		rig.put(event(ExitCode.AP_RESET_HOLD));
		rig.setHost64('ghcbMsr', msr);
		expect([rig.run(), rig.exitReason()]).toEqual([0, ExitReason.AP_RESET_HOLD]);
		expect(rig.finish()).toBe(EINTR);
		if (msr === 6n) expect(rig.host64('ghcbMsr')).toBe(7n);
		else expect(resultOf(rig.get())).toEqual([0n, 0n]);
	});
	it('the host does not see where the AP runs', () => {
		const rig = startedAp();
		start(rig);
		rig.setHost64('ghcbMsr', 0x002n, 1);
		rig.run(1);
		expect([rig.host64('rip', 1), rig.host64('csBase', 1)]).toEqual([0n, 0n]);
	});
});

describe('a thread that may wait', () => {
	const waiting = (prepare: (rig: GhcbRig) => void): GhcbRig => {
		const rig = createGhcbRig({ vcpus: 2, irqchip: true });
		prepare(rig);
		return rig;
	};
	const thread = (rig: GhcbRig) =>
		openVcpu(rig.vcpus[1]?.share() ?? expect.fail(), {
			provider: nodeProvider,
			program: link({
				name: 'test',
				base: 0x10000,
				at: { ap: AP_START },
				blocks: { ap: (cpu) => cpu.vmgexit('ap_loop'), ap_loop: (cpu) => cpu.jump('ap_loop') },
			}),
			afterBlock: () => rig.vcpus[1]?.kick(),
		});
	it('leaves the wait for INIT with −EINTR when it is kicked', () => {
		const rig = waiting((r) => r.vcpus[1]?.kick());
		expect(thread(rig).run()).toBe(EINTR);
		expect(rig.vcpus[1]?.mpState).toBe(MpState.uninitialized);
	});
	it('leaves a reset hold with −EINTR when it is kicked, and goes on waiting afterwards', () => {
		const rig = waiting((r) => {
			for (const command of [INIT, SIPI])
				r.exchange({ ...event(ExitCode.MSR, 1n), rcx: 0x830n, rax: command, rdx: 1n });
		});
		const ap = thread(rig);
		expect(ap.run()).toBe(EAGAIN);
		rig.setHost64('ghcbMsr', 6n, 1);
		expect([ap.run(), rig.vcpus[1]?.mpState]).toEqual([EINTR, MpState.apResetHold]);
		rig.vcpus[1]?.kick();
		expect([ap.run(), rig.vcpus[1]?.mpState]).toEqual([EINTR, MpState.apResetHold]);
	});
});
