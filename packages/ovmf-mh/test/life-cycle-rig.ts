import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, type KvmAbi, resetVcpu } from '@cvm/kvm';
import { ExitReason, IoDirection, MSR_KVM_MIGRATION_CONTROL, RunOffset } from '@cvm/kvm/abi';
import { linuxKernel, MemoryMap } from '@cvm/kvm/guest';
import { type CodeFragment, link, openVcpu } from '@cvm/kvm/vcpu';
import { gpa } from '@cvm/layout';
import { buildFirmwareImage, readFirmwareBlocks } from '@cvm/ovmf-mh';
import { type FirmwareOptions, ovmfFirmware } from '@cvm/ovmf-mh/firmware';
import { createFwCfgDevice, e820File } from '@cvm/ovmf-mh/host';
import { createSevMachine } from '@cvm/sev-hw';

const MIB = 1 << 20;
export const RAM_BYTES = 40 * MIB;
const EXIT_PORT = 0xf4;
/** EPYC 7003. */
const SIGNATURE = 0x00a00f11;
const SEV_ES_POLICY = 4;

export const text = (s: string): Uint8Array => Uint8Array.from(s, (c) => c.charCodeAt(0));
/** The files of fw_cfg that start the handler, by OVMF's names. */
export const START = { 'opt/ovmf/PcdStartConfidentialMigrationHandler': text('1') };
export const TARGET = { ...START, 'opt/ovmf/PcdIsConfidentialMigrationTarget': text('1') };

/** Says its index and rests. */
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

export interface LifeOptions {
	readonly abi?: KvmAbi;
	readonly es?: boolean;
	readonly vcpus?: number;
	readonly files?: Readonly<Record<string, Uint8Array>>;
	readonly firmware?: FirmwareOptions;
	readonly seed?: string;
}

const ok = (what: string, ret: number): void => {
	if (ret !== 0) throw new Error(`${what}: expected 0, got ${ret}`);
};

/** A SEV or SEV-ES guest with our firmware on a machine of its own, whose vCPUs run in turns on this thread. */
export function createLifeMachine(o: LifeOptions = {}) {
	const { abi = 'upstream', es = false, vcpus: count = 1 } = o;
	const machine = createSevMachine({
		dramBytes: RAM_BYTES + 8 * MIB,
		provider: nodeProvider,
		random: seededRandom(o.seed ?? 'life'),
		chipSeed: o.seed ?? 'life',
	});
	const kvm = createKvm({ machine, abi });
	const vm = kvm.createVm();
	ok('init', (es ? vm.sev.esInit() : vm.sev.init()).ret);
	if (es) ok('irqchip', vm.createIrqchip());
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
	ok('start', vm.sev.launchStart({ policy: es ? SEV_ES_POLICY : 0 }).ret);
	ok('data', vm.sev.launchUpdateData({ uaddr: flash.hva, len: image.length }).ret);
	const cpuid = kvm.cpuid({ es, migrationControl: true });
	const vcpus = Array.from({ length: count }, (_, i) => vm.createVcpu(i, cpuid));
	const apResetVector = readFirmwareBlocks(image).resetBlock?.address ?? 0;
	if (es) {
		for (const vcpu of vcpus) ok('reset', resetVcpu(vcpu, { signature: SIGNATURE, apResetVector }));
		ok('vmsa', vm.sev.launchUpdateVmsa().ret);
	}
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
			...o.files,
		},
		ramBytes: RAM_BYTES,
		bootCpus: count,
	});
	const program = link(
		...ovmfFirmware({ abi, provider: nodeProvider, ...o.firmware }),
		...linuxKernel({ abi, workloads: { ends: { fragment: workload, start: 'ends.start' } } }),
	);

	const copy = kvm.memory.mmap(0x1000);
	const log: string[] = [];
	const ended = new Set<number>();
	const at = new Map<number, string>();
	let left = 0;
	const threads = vcpus.map((vcpu, i) => {
		const afterBlock = (rip: number) => {
			at.set(i, program.label(rip) ?? `0x${rip.toString(16)}`);
			if (--left === 0) vcpu.kick();
		};
		return openVcpu(vcpu.share(), { provider: nodeProvider, program, ticks: false, afterBlock });
	});
	const turn = (index: number, blocks = 50): void => {
		left = blocks;
		const { run } = vcpus[index] ?? { run: new Uint8Array() };
		const view = new DataView(run.buffer, run.byteOffset);
		while (!ended.has(index)) {
			const ret = threads[index]?.run() ?? -1;
			// Kicked, or it waits to be started.
			if (ret === -4 || ret === -11) return;
			const reason = view.getUint32(RunOffset.exitReason, true);
			const port = view.getUint16(RunOffset.ioPort, true);
			const size = view.getUint8(RunOffset.ioSize);
			const data = Number(view.getBigUint64(RunOffset.ioDataOffset, true));
			if (ret !== 0) throw new Error(`KVM_RUN: expected 0, got ${ret}`);
			if (reason === ExitReason.HYPERCALL) {
				const args = [0, 8, 16].map((i) => view.getBigUint64(RunOffset.hypercallArgs + i, true).toString(16));
				log.push(`share ${args.join(' ')}`);
				view.setBigInt64(RunOffset.hypercallRet, 0n, true);
			} else if (reason === ExitReason.X86_WRMSR) {
				log.push(`ready ${view.getBigUint64(RunOffset.msrData, true)}`);
				view.setUint8(RunOffset.msrError, 0);
			} else if (reason !== ExitReason.IO) {
				throw new Error(`vCPU ${index} at ${at.get(index)}: exit ${reason}: ${threads[index]?.fault?.message}`);
			} else if (view.getUint8(RunOffset.ioDirection) === IoDirection.in) {
				view.setUint8(data, fwCfg.ioRead(port, size));
			} else if (port === EXIT_PORT) {
				ended.add(index);
			} else if (fwCfg.owns(port)) {
				fwCfg.ioWrite(port, size, size === 1 ? view.getUint8(data) : view.getUint16(data, true));
			}
		}
	};
	/** Lets all vCPUs run until a condition holds. */
	const until = (what: string, holds: () => boolean): void => {
		for (let round = 0; round < 5000; round++) {
			if (holds()) return;
			for (let i = 0; i < count; i++) turn(i);
		}
		throw new Error(`guest: expected ${what}, got ${[...at].join(' ')}`);
	};
	return {
		machine,
		vm,
		ram,
		vcpus,
		program,
		log,
		/** vCPUs that said their index: they have come to the workload. */
		ended: ended as ReadonlySet<number>,
		/** The label at which a vCPU stands. */
		at,
		turn,
		until,
		/** Lets all run until each has come to its workload. */
		boot: () => until('all in the workload', () => ended.size === count),
		/** Private memory, by DBG_DECRYPT. */
		plain: (address: number, length: number): Uint8Array => {
			const out = new Uint8Array(length);
			for (let done = 0; done < length; done += copy.bytes.length) {
				const len = Math.min(copy.bytes.length, length - done);
				const src = (ram.hva + address + done) as typeof ram.hva;
				ok('debug', vm.sev.dbgDecrypt({ src, dst: copy.hva, len }).ret);
				out.set(copy.bytes.subarray(0, len), done);
			}
			return out;
		},
		/** Writes whole pages of private memory, by DBG_ENCRYPT: what a handler does from within. */
		place: (address: number, data: Uint8Array): void => {
			for (let done = 0; done < data.length; done += copy.bytes.length) {
				const len = Math.min(copy.bytes.length, data.length - done);
				copy.bytes.set(data.subarray(done, done + len));
				const dst = (ram.hva + address + done) as typeof ram.hva;
				ok('debug', vm.sev.dbgEncrypt({ src: copy.hva, dst, len }).ret);
			}
		},
	};
}
