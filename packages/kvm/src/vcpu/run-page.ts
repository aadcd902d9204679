import { ExitReason, IoDirection, RunOffset } from '../abi/run-page.js';

/** The struct kvm_run of one vCPU, as KVM fills and reads it. Fields that KVM leaves alone keep what was there. */
export interface RunPage {
	/** Whether the VMM wants KVM_RUN to finish the last exit and come back. */
	wantsImmediateExit(): boolean;
	exitShutdown(): void;
	exitDirtyRingFull(): void;
	exitFailEntry(reason: bigint, cpu: number): void;
	/** KVM_EXIT_INTERNAL_ERROR. */
	exitInternalError(suberror: number, data: readonly bigint[]): void;
	/** KVM_EXIT_SYSTEM_EVENT. */
	exitSystemEvent(type: number, data: readonly bigint[]): void;
	exitApResetHold(): void;
	/** Puts the low `size` bytes of `data` where `ioDataOffset` says. */
	exitIo(isWrite: boolean, port: number, size: number, data: number): void;
	ioAnswer(size: number): number;
	/** KVM_EXIT_IO of `count` operands at once, whose data are in {@link ioBytes}. */
	exitIoString(isWrite: boolean, port: number, size: number, count: number): void;
	/** The page of port I/O data. */
	readonly ioBytes: Uint8Array;
	/** `length`: 1 … 8. With `data` a write. */
	exitMmio(address: bigint, length: number, data: Uint8Array | undefined): void;
	/** `kvm_run.mmio.data`. */
	readonly mmioBytes: Uint8Array;
	/**
	 * `hasFlags`: kernels from about 6.5 on store 0 in `ret`, and `flags` u64 where `longmode` and `pad` were; older ones leave
	 * stale bytes in `ret` and `pad`.
	 */
	exitHypercall(nr: bigint, a0: bigint, a1: bigint, a2: bigint, isLongMode: boolean, hasFlags: boolean): void;
	hypercallAnswer(): bigint;
	/** KVM_EXIT_DMA_SHARE and KVM_EXIT_DMA_UNSHARE of v11: a guest frame number, not an address, and bytes. */
	exitDma(isShare: boolean, gfn: bigint, length: bigint): void;
	/** The VMM's answer to it. Leaves exit reason 0 behind, as v11 does. */
	dmaAnswer(): bigint;
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
	const ioBytes = run.subarray(RunOffset.ioData, RunOffset.ioData + 4096);
	const mmioBytes = run.subarray(RunOffset.mmioData, RunOffset.mmioData + 8);
	const io = (isWrite: boolean, port: number, size: number, count: number): void => {
		u32(RunOffset.exitReason, ExitReason.IO);
		view.setUint8(RunOffset.ioDirection, isWrite ? IoDirection.out : IoDirection.in);
		view.setUint8(RunOffset.ioSize, size);
		view.setUint16(RunOffset.ioPort, port, true);
		u32(RunOffset.ioCount, count);
		u32(RunOffset.ioDataOffset, RunOffset.ioData);
		u32(RunOffset.ioDataOffset + 4, 0);
	};
	const counted = (reason: number, code: number, data: readonly bigint[]): void => {
		// The union of both exits begins alike: code u32, ndata u32, data u64[16].
		u32(RunOffset.exitReason, reason);
		u32(RunOffset.internalSuberror, code);
		u32(RunOffset.internalNdata, data.length);
		for (const [i, value] of data.entries()) u64(RunOffset.systemEventData + 8 * i, value);
	};
	return {
		wantsImmediateExit: () => Atomics.load(run, RunOffset.immediateExit) !== 0,
		exitShutdown: () => u32(RunOffset.exitReason, ExitReason.SHUTDOWN),
		exitDirtyRingFull: () => u32(RunOffset.exitReason, ExitReason.DIRTY_RING_FULL),
		exitFailEntry: (reason, cpu) => {
			u32(RunOffset.exitReason, ExitReason.FAIL_ENTRY);
			u64(RunOffset.failEntryReason, reason);
			u32(RunOffset.failEntryCpu, cpu);
		},
		exitIo: (isWrite, port, size, data) => {
			io(isWrite, port, size, 1);
			for (let i = 0; i < size; i++) view.setUint8(RunOffset.ioData + i, (data >>> (8 * i)) & 0xff);
		},
		exitIoString: io,
		ioBytes,
		exitMmio: (address, length, data) => {
			u32(RunOffset.exitReason, ExitReason.MMIO);
			u64(RunOffset.mmioPhysAddr, address);
			if (data !== undefined) mmioBytes.set(data);
			u32(RunOffset.mmioLen, length);
			view.setUint8(RunOffset.mmioIsWrite, data === undefined ? 0 : 1);
		},
		mmioBytes,
		exitInternalError: (suberror, data) => counted(ExitReason.INTERNAL_ERROR, suberror, data),
		exitSystemEvent: (type, data) => counted(ExitReason.SYSTEM_EVENT, type, data),
		exitApResetHold: () => u32(RunOffset.exitReason, ExitReason.AP_RESET_HOLD),
		ioAnswer: (size) => {
			const at = RunOffset.ioData;
			return size === 1 ? view.getUint8(at) : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true);
		},
		exitHypercall: (nr, a0, a1, a2, isLongMode, hasFlags) => {
			u32(RunOffset.exitReason, ExitReason.HYPERCALL);
			u64(RunOffset.hypercallNr, nr);
			u64(FIRST_ARGUMENT, a0);
			u64(FIRST_ARGUMENT + 8, a1);
			u64(FIRST_ARGUMENT + 16, a2);
			u32(RunOffset.hypercallLongmode, isLongMode ? 1 : 0);
			if (!hasFlags) return;
			u64(RunOffset.hypercallRet, 0n);
			u32(RunOffset.hypercallLongmode + 4, 0);
		},
		hypercallAnswer: () => view.getBigUint64(RunOffset.hypercallRet, true),
		exitDma: (isShare, gfn, length) => {
			u32(RunOffset.exitReason, isShare ? ExitReason.DMA_SHARE : ExitReason.DMA_UNSHARE);
			u64(RunOffset.dmaAddr, gfn);
			u64(RunOffset.dmaLen, length);
		},
		dmaAnswer: () => {
			u32(RunOffset.exitReason, ExitReason.UNKNOWN);
			return view.getBigUint64(RunOffset.dmaRet, true);
		},
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
