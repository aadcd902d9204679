import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type KvmAbi, resetVcpu } from '@cvm/kvm';
import { ExitReason, IoDirection, MSR_KVM_MIGRATION_CONTROL, RunOffset } from '@cvm/kvm/abi';
import { KernelOffset, linuxKernel, MemoryMap } from '@cvm/kvm/guest';
import { type CodeFragment, link, openVcpu } from '@cvm/kvm/vcpu';
import { gpa } from '@cvm/layout';
import { buildFirmwareImage, readFirmwareBlocks } from '@cvm/ovmf-mh';
import { ovmfFirmware } from '@cvm/ovmf-mh/firmware';
import { createFwCfgDevice, e820File } from '@cvm/ovmf-mh/host';
import { createSevMachine } from '@cvm/sev-hw';
import { describe, expect, it } from 'vitest';

const MIB = 1 << 20;
const RAM_BYTES = 40 * MIB;
const EXIT_PORT = 0xf4;
/** EPYC 7003. */
const SIGNATURE = 0x00a00f11;
const SEV_ES_POLICY = 4;
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

const ok = (what: string, ret: number) => {
	if (ret !== 0) throw new Error(`${what}: expected 0, got ${ret}`);
};

/** Launches a SEV-ES guest and runs its vCPUs in turn until each has said its index; what the host was told. */
function boot({ abi, vcpus: count, kexecs = 0 }: { abi: KvmAbi; vcpus: number; kexecs?: number }): string[] {
	const machine = createSevMachine({
		dramBytes: RAM_BYTES + 8 * MIB,
		provider: nodeProvider,
		random: seededRandom('boot'),
		chipSeed: 'boot',
	});
	const kvm = createKvm({ machine, abi });
	const vm = kvm.createVm();
	ok('init', vm.sev.esInit().ret);
	ok('irqchip', vm.createIrqchip());
	const ram = kvm.memory.mmap(RAM_BYTES);
	const image = buildFirmwareImage();
	const flash = kvm.memory.mmap(image.length);
	flash.bytes.set(image);
	for (const [slot, at, map] of [
		[0, 0, ram],
		[1, 2 ** 32 - image.length, flash],
	] as const) {
		const memorySize = map.bytes.length;
		ok('slot', vm.setUserMemoryRegion({ slot, flags: 0, guestPhysAddr: gpa(at), memorySize, userspaceAddr: map.hva }));
		ok('pin', vm.memoryEncryptRegisterRegion({ addr: map.hva, size: memorySize }));
	}
	ok('start', vm.sev.launchStart({ policy: SEV_ES_POLICY }).ret);
	ok('data', vm.sev.launchUpdateData({ uaddr: flash.hva, len: image.length }).ret);
	const cpuid = kvm.cpuid({ es: true, migrationControl: true });
	const vcpus = Array.from({ length: count }, (_, i) => vm.createVcpu(i, cpuid));
	const apResetVector = readFirmwareBlocks(image).resetBlock?.address ?? 0;
	for (const vcpu of vcpus) ok('reset', resetVcpu(vcpu, { signature: SIGNATURE, apResetVector }));
	ok('vmsa', vm.sev.launchUpdateVmsa().ret);
	ok('measure', vm.sev.launchMeasure().ret);
	ok('finish', vm.sev.launchFinish().ret);
	if (abi === 'upstream') ok('cap', vm.enableCap(201, [1n << 12n]));
	ok('cap188', vm.enableCap(188, [4n]));
	const migrationMsr = { flags: 3, base: MSR_KVM_MIGRATION_CONTROL, nmsrs: 1, bitmap: new Uint8Array(8) };
	ok('filter', vm.setMsrFilter({ flags: 0, ranges: [migrationMsr] }));
	const fwCfg = createFwCfgDevice({
		files: {
			'etc/e820': e820File([{ addr: 0, size: RAM_BYTES, type: 1 }]),
			'opt/cvm/workload': text('ends'),
			'opt/cvm/kexecs': text(`${kexecs}`),
		},
		ramBytes: RAM_BYTES,
		bootCpus: count,
	});
	const program = link(
		...ovmfFirmware({ abi }),
		...linuxKernel({ abi, workloads: { ends: { fragment: workload, start: 'ends.start' } } }),
	);

	const log: string[] = [];
	const ended = new Set<number>();
	let left = 0;
	const threads = vcpus.map((vcpu) => {
		const afterBlock = () => {
			if (--left === 0) vcpu.kick();
		};
		return openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false, afterBlock });
	});
	const turn = (index: number) => {
		left = 50;
		const { run } = vcpus[index] ?? { run: new Uint8Array() };
		const view = new DataView(run.buffer, run.byteOffset);
		while (!ended.has(index)) {
			const ret = threads[index]?.run() ?? -1;
			// Kicked, or it waits to be started.
			if (ret === -4 || ret === -11) return;
			const reason = view.getUint32(RunOffset.exitReason, true);
			const port = view.getUint16(RunOffset.ioPort, true);
			const size = view.getUint8(RunOffset.ioSize);
			const at = Number(view.getBigUint64(RunOffset.ioDataOffset, true));
			if (ret !== 0) throw new Error(`KVM_RUN: expected 0, got ${ret}`);
			if (reason === ExitReason.HYPERCALL) {
				const args = [0, 8, 16].map((i) => view.getBigUint64(RunOffset.hypercallArgs + i, true).toString(16));
				log.push(`share ${args.join(' ')}`);
				view.setBigInt64(RunOffset.hypercallRet, 0n, true);
			} else if (reason === ExitReason.X86_WRMSR) {
				log.push(`ready ${view.getBigUint64(RunOffset.msrData, true)}`);
			} else if (reason !== ExitReason.IO) {
				throw new Error(`vCPU ${index}: exit ${reason}: ${threads[index]?.fault?.message}`);
			} else if (view.getUint8(RunOffset.ioDirection) === IoDirection.in) {
				view.setUint8(at, fwCfg.ioRead(port, size));
			} else if (port === EXIT_PORT) {
				expect(view.getUint8(at)).toBe(index);
				ended.add(index);
			} else {
				fwCfg.ioWrite(port, size, size === 1 ? view.getUint8(at) : view.getUint16(at, true));
			}
		}
	};
	for (let round = 0; ended.size < count; round++) {
		if (round > 20000) throw new Error(`vCPUs: expected ${count} to end, got ${[...ended]}`);
		for (let i = 0; i < count; i++) turn(i);
	}
	return log;
}

const FIRMWARE = ['share 809000 2 0', 'share 860000 20 0', 'share ffc00000 84 0'];
const ram = (attributes: string) => [`share 0 800 ${attributes}`, `share 1000000 1800 ${attributes}`];
const hex = (n: number) => n.toString(16);
const bss = (base: number) => `share ${hex(base + KernelOffset.bssDecrypted)} 200 0`;
const ghcbs = (base: number, vcpus: number) =>
	Array.from({ length: vcpus }, (_, i) => `share ${hex(base + KernelOffset.ghcbs + 4096 * i)} 1 0`);

describe.each([1, 4])('the firmware in a SEV-ES guest with %i vCPUs', (vcpus) => {
	const kernel = (base: number) => [bss(base), ...ghcbs(base, vcpus)];

	it('upstream: reports its pages, those for the other processors among them, and starts these', () => {
		const log = boot({ abi: 'upstream', vcpus });
		expect(log).toEqual([...FIRMWARE, ...ram('10'), ...kernel(MemoryMap.bootParams), 'ready 1']);
	});

	it('v12: the same, without the reports of RAM', () => {
		expect(boot({ abi: 'v12', vcpus })).toEqual([...FIRMWARE, ...kernel(MemoryMap.bootParams), 'ready 1']);
	});

	it('stays for a kernel that is started by kexec', () => {
		const first = kernel(MemoryMap.bootParams);
		const second = kernel(MemoryMap.kexecKernel);
		const v12 = boot({ abi: 'v12', vcpus, kexecs: 1 });
		expect(v12).toEqual([...FIRMWARE, ...first, 'ready 1', ...ram('1'), ...second, 'ready 1']);
		const upstream = boot({ abi: 'upstream', vcpus, kexecs: 1 });
		const handshake = (own: string[]) => [...ram('10'), ...own];
		expect(upstream).toEqual([...FIRMWARE, ...handshake(first), 'ready 1', 'ready 0', ...handshake(second), 'ready 1']);
	});
});
