import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type KvmAbi } from '@cvm/kvm';
import { ExitReason, IoDirection, MSR_KVM_MIGRATION_CONTROL, RunOffset } from '@cvm/kvm/abi';
import { bootParams, linuxKernel, MemoryMap } from '@cvm/kvm/guest';
import { type CodeFragment, link, openVcpu } from '@cvm/kvm/vcpu';
import { gpa } from '@cvm/layout';
import { buildFirmwareImage } from '@cvm/ovmf-mh';
import { type FirmwareOptions, ovmfFirmware } from '@cvm/ovmf-mh/firmware';
import { createFwCfgDevice, e820File } from '@cvm/ovmf-mh/host';
import { createSevMachine } from '@cvm/sev-hw';
import { describe, expect, it } from 'vitest';

const MIB = 1 << 20;
const RAM_BYTES = 40 * MIB;
const EXIT_PORT = 0xf4;
const text = (s: string) => Uint8Array.from(s, (c) => c.charCodeAt(0));

/** Ends the run: each vCPU says its index. */
const workload: CodeFragment = {
	name: 'ends',
	base: MemoryMap.workloadText,
	blocks: {
		'ends.start': (cpu) => {
			cpu.setReg('rax', cpu.reg('rsi'));
			return cpu.out(EXIT_PORT, 1, 'ends.again');
		},
		'ends.again': (cpu) => cpu.hlt('ends.again'),
	},
};

interface Options {
	readonly abi?: KvmAbi;
	readonly sev?: boolean;
	readonly migrationControl?: boolean;
	readonly firmware?: FirmwareOptions;
	readonly refuse?: number;
}

function boot({ abi = 'upstream', sev = true, migrationControl = true, firmware = {}, refuse = -1 }: Options = {}) {
	const machine = createSevMachine({
		dramBytes: RAM_BYTES + 4 * MIB,
		provider: nodeProvider,
		random: seededRandom('boot'),
		chipSeed: 'boot',
	});
	const kvm = createKvm({ machine, abi });
	const vm = kvm.createVm({ sev });
	const ok = (what: string, ret: number) => {
		if (ret !== 0) throw new Error(`${what}: expected 0, got ${ret}`);
	};
	const ram = kvm.memory.mmap(RAM_BYTES);
	const image = buildFirmwareImage();
	const flash = kvm.memory.mmap(image.length);
	flash.bytes.set(image);
	if (sev) ok('init', vm.sev.init().ret);
	const region = (slot: number, at: number, map: typeof ram) =>
		ok(
			'slot',
			vm.setUserMemoryRegion({
				slot,
				flags: 0,
				guestPhysAddr: gpa(at),
				memorySize: map.bytes.length,
				userspaceAddr: map.hva,
			}),
		);
	region(0, 0, ram);
	region(1, 2 ** 32 - image.length, flash);
	if (sev) {
		for (const map of [ram, flash])
			ok('pin', vm.memoryEncryptRegisterRegion({ addr: map.hva, size: map.bytes.length }));
		ok('start', vm.sev.launchStart({ policy: 0 }).ret);
		ok('data', vm.sev.launchUpdateData({ uaddr: flash.hva, len: image.length }).ret);
		ok('measure', vm.sev.launchMeasure().ret);
		ok('finish', vm.sev.launchFinish().ret);
	}
	if (abi === 'upstream') ok('cap', vm.enableCap(201, [1n << 12n]));
	ok('cap188', vm.enableCap(188, [4n]));
	ok(
		'filter',
		vm.setMsrFilter({
			flags: 0,
			ranges: [{ flags: 3, base: MSR_KVM_MIGRATION_CONTROL, nmsrs: 1, bitmap: new Uint8Array(8) }],
		}),
	);
	const cpuid = kvm.cpuid({ sev, migrationControl });
	const fwCfg = createFwCfgDevice({
		files: {
			'etc/e820': e820File([{ addr: 0, size: RAM_BYTES, type: 1 }]),
			'opt/cvm/workload': text('ends'),
			'opt/cvm/seed': text('42'),
			'opt/cvm/steps': text('1000'),
		},
		ramBytes: RAM_BYTES,
		bootCpus: 2,
	});
	const program = link(
		...ovmfFirmware({ abi, ...firmware }),
		...linuxKernel({ abi, workloads: { ends: { fragment: workload, start: 'ends.start' } } }),
	);
	const log: string[] = [];
	const run = (index: number) => {
		const vcpu = vm.createVcpu(index, cpuid);
		const thread = openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false });
		const view = new DataView(vcpu.run.buffer, vcpu.run.byteOffset);
		for (;;) {
			const ret = thread.run();
			const reason = view.getUint32(RunOffset.exitReason, true);
			if (ret !== 0 || reason === ExitReason.SHUTDOWN)
				throw new Error(
					`ret ${ret} exit ${reason}: ${thread.fault?.message} at 0x${vcpu.getRegs().rip.toString(16)} ${program.label(Number(vcpu.getRegs().rip))}`,
				);
			if (reason === ExitReason.HYPERCALL) {
				const [at = 0, pages, attributes] = [0, 8, 16].map((i) =>
					Number(view.getBigUint64(RunOffset.hypercallArgs + i, true)),
				);
				log.push(`share ${at.toString(16)} ${pages} ${attributes}`);
				view.setBigInt64(RunOffset.hypercallRet, at === refuse ? -22n : 0n, true);
			} else if (reason === ExitReason.X86_WRMSR) {
				log.push(`ready ${view.getBigUint64(RunOffset.msrData, true)}`);
				view.setUint8(RunOffset.msrError, 0);
			} else if (reason === ExitReason.IO) {
				const port = view.getUint16(RunOffset.ioPort, true);
				const size = view.getUint8(RunOffset.ioSize);
				const at = Number(view.getBigUint64(RunOffset.ioDataOffset, true));
				if (view.getUint8(RunOffset.ioDirection) === IoDirection.in) view.setUint8(at, fwCfg.ioRead(port, size));
				else if (port === EXIT_PORT) return view.getUint8(at);
				else
					fwCfg.ioWrite(
						port,
						size,
						size === 1 ? view.getUint8(at) : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true),
					);
			} else throw new Error(`exit ${reason}`);
		}
	};
	return { run, log, vm, ram, kvm };
}

const RAM_REPORTS = ['share 0 2048 16', `share 1000000 ${(RAM_BYTES - 0x1000000) / 4096} 16`];
const FIRMWARE_REPORTS = ['share 809000 2 0', 'share ffc00000 132 0'];
const BSS = 'share 1200000 512 0';

describe('the firmware on a vCPU of KVM, with the Linux guest', () => {
	it('upstream: reports its own pages first, and the kernel then says that it is ready', () => {
		const machine = boot();
		expect(machine.run(0)).toBe(0);
		expect(machine.log).toEqual([...FIRMWARE_REPORTS, ...RAM_REPORTS, BSS, 'ready 1']);
		expect(machine.run(1)).toBe(1);
		const copy = machine.kvm.memory.mmap(4096);
		const { ret } = machine.vm.sev.dbgDecrypt({
			src: (machine.ram.hva + MemoryMap.bootParams) as typeof machine.ram.hva,
			dst: copy.hva,
			len: 4096,
		});
		expect(ret).toBe(0);
		expect(bootParams.decodePrefix(copy.bytes)).toMatchObject({ seed: 42n, stepLimit: 1000n, cpus: 2 });
		expect(machine.ram.bytes.subarray(0x809000, 0x80b000).every((b) => b === 0)).toBe(true);
	});

	it('v12: the same, without the reports of RAM', () => {
		const machine = boot({ abi: 'v12' });
		expect(machine.run(0)).toBe(0);
		expect(machine.log).toEqual([...FIRMWARE_REPORTS, BSS, 'ready 1']);
	});

	it.each(['absent', 'zero'] as const)(
		'with the variable %s the kernel does not say that it is ready',
		(setVariable) => {
			const machine = boot({ firmware: { setVariable } });
			machine.run(0);
			expect(machine.log).toEqual([...FIRMWARE_REPORTS, ...RAM_REPORTS, BSS]);
		},
	);

	it('as posted, for bit 17, it reports nothing on a v12 host, and the kernel is not ready', () => {
		const machine = boot({ abi: 'v12', firmware: { abi: 'upstream' } });
		machine.run(0);
		expect(machine.log).toEqual([BSS]);
	});

	it('whose report was refused keeps the kernel from saying that it is ready', () => {
		const machine = boot({ refuse: 0xffc00000 });
		machine.run(0);
		expect(machine.log).toEqual([...FIRMWARE_REPORTS, ...RAM_REPORTS, BSS]);
	});

	it('outside SEV reports nothing', () => {
		const machine = boot({ sev: false });
		machine.run(0);
		expect(machine.log).toEqual([]);
	});
});
