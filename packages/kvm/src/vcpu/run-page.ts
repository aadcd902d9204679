import { ExitReason, IoDirection, RunOffset } from '../abi/run-page.js';

/** The struct kvm_run of one vCPU, as KVM fills and reads it. Fields that KVM leaves alone keep what was there. */
export interface RunPage {
	/** Whether the VMM wants KVM_RUN to finish the last exit and come back. */
	wantsImmediateExit(): boolean;
	exitShutdown(): void;
	exitFailEntry(reason: bigint, cpu: number): void;
	/** Puts the low `size` bytes of `data` where `ioDataOffset` says. */
	exitIo(isWrite: boolean, port: number, size: number, data: number): void;
	ioAnswer(size: number): number;
	/** `clearRet`: kernels from about 6.5 on store 0 before they exit, v12 leaves stale bytes. */
	exitHypercall(nr: bigint, a0: bigint, a1: bigint, a2: bigint, isLongMode: boolean, clearRet: boolean): void;
	hypercallAnswer(): bigint;
	exitMsr(isWrite: boolean, reason: number, index: number, data: bigint): void;
	/** Whether the VMM refused the access. */
	msrError(): boolean;
	msrAnswer(): bigint;
}

const FIRST_ARGUMENT = RunOffset.hypercallArgs;

export function openRunPage(run: Uint8Array): RunPage {
	const view = new DataView(run.buffer, run.byteOffset, run.byteLength);
	const u32 = (at: number, value: number) => view.setUint32(at, value, true);
	const u64 = (at: number, value: bigint) => view.setBigUint64(at, value, true);
	return {
		wantsImmediateExit: () => Atomics.load(run, RunOffset.immediateExit) !== 0,
		exitShutdown: () => u32(RunOffset.exitReason, ExitReason.SHUTDOWN),
		exitFailEntry: (reason, cpu) => {
			u32(RunOffset.exitReason, ExitReason.FAIL_ENTRY);
			u64(RunOffset.failEntryReason, reason);
			u32(RunOffset.failEntryCpu, cpu);
		},
		exitIo: (isWrite, port, size, data) => {
			u32(RunOffset.exitReason, ExitReason.IO);
			view.setUint8(RunOffset.ioDirection, isWrite ? IoDirection.out : IoDirection.in);
			view.setUint8(RunOffset.ioSize, size);
			view.setUint16(RunOffset.ioPort, port, true);
			u32(RunOffset.ioCount, 1);
			u64(RunOffset.ioDataOffset, BigInt(RunOffset.ioData));
			for (let i = 0; i < size; i++) view.setUint8(RunOffset.ioData + i, (data >>> (8 * i)) & 0xff);
		},
		ioAnswer: (size) => {
			const at = RunOffset.ioData;
			return size === 1 ? view.getUint8(at) : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true);
		},
		exitHypercall: (nr, a0, a1, a2, isLongMode, clearRet) => {
			u32(RunOffset.exitReason, ExitReason.HYPERCALL);
			u64(RunOffset.hypercallNr, nr);
			u64(FIRST_ARGUMENT, a0);
			u64(FIRST_ARGUMENT + 8, a1);
			u64(FIRST_ARGUMENT + 16, a2);
			if (clearRet) u64(RunOffset.hypercallRet, 0n);
			u32(RunOffset.hypercallLongmode, isLongMode ? 1 : 0);
		},
		hypercallAnswer: () => view.getBigUint64(RunOffset.hypercallRet, true),
		exitMsr: (isWrite, reason, index, data) => {
			u32(RunOffset.exitReason, isWrite ? ExitReason.X86_WRMSR : ExitReason.X86_RDMSR);
			// error u8 and pad u8[7]
			u64(RunOffset.msrError, 0n);
			u32(RunOffset.msrReason, reason);
			u32(RunOffset.msrIndex, index);
			u64(RunOffset.msrData, data);
		},
		msrError: () => view.getUint8(RunOffset.msrError) !== 0,
		msrAnswer: () => view.getBigUint64(RunOffset.msrData, true),
	};
}
