import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { systemRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { createKvm, MemFlag } from '@cvm/kvm';
import { openVcpu } from '@cvm/kvm/vcpu';
import { gpa, PAGE_SIZE } from '@cvm/layout';
import { createSevMachine } from '@cvm/sev-hw';
import { DIRTY_PAGES, DIRTY_RAM, dirtyGuest, PROGRESS_AT } from './dirty-guest.js';

/** What harvesting the dirty pages of a 4 GiB guest costs. */
export interface DirtyResult {
	readonly pages: number;
	/** Milliseconds of KVM_GET_DIRTY_LOG over all of RAM: the best and the median. */
	readonly harvest: number;
	readonly harvestMedian: number;
	/** Milliseconds of the same scan over a plain Uint32Array of the same bits. */
	readonly plain: number;
	/** Blocks of guest code per second: beside a thread that only scans its own array, and beside one that harvests without a break. */
	readonly undisturbed: number;
	readonly harvested: number;
	readonly harvestsPerSecond: number;
}

const ROUNDS = 120;
/** Milliseconds that a running guest is watched. */
const WINDOW = 300;
const TURNS = 5;
const MIB = 2 ** 20;
const SLOT_BYTES = DIRTY_RAM / 2;

/** The yardstick: copies a bitmap that nobody else has, and clears it. */
function scanPlain(bits: Uint32Array, out: Uint32Array): void {
	for (let i = 0; i < bits.length; i++) {
		out[i] = bits[i] ?? 0;
		bits[i] = 0;
	}
}

const median = (times: readonly number[]): number => [...times].sort((a, b) => a - b)[times.length >> 1] ?? 0;

/**
 * The guest's RAM is two slots over the same 2 GiB of the host, which is as much as one array can hold; of those only the
 * pages that the guest writes to take memory.
 */
export async function measureDirty(): Promise<DirtyResult> {
	const machine = createSevMachine({
		dramBytes: SLOT_BYTES + 8 * MIB,
		provider: nodeProvider,
		random: systemRandom(),
		chipSeed: 'bench',
	});
	const kvm = createKvm({ machine });
	const vm = kvm.createVm({ sev: false });
	const ram = kvm.memory.mmap(SLOT_BYTES);
	for (const slot of [0, 1]) {
		const region = { slot, flags: MemFlag.logDirtyPages, guestPhysAddr: gpa(slot * SLOT_BYTES) };
		const added = vm.setUserMemoryRegion({ ...region, memorySize: SLOT_BYTES, userspaceAddr: ram.hva });
		if (added !== 0) throw new Error(`memslot: ret=${added}`);
	}
	const bitmap = new Uint32Array(DIRTY_RAM / PAGE_SIZE / 32);
	const halves = [bitmap.subarray(0, bitmap.length / 2), bitmap.subarray(bitmap.length / 2)];
	const harvest = (): void => {
		for (const [slot, half] of halves.entries()) vm.getDirtyLog(slot, half);
	};
	const plainBits = new Uint32Array(bitmap.length);
	const out = new Uint32Array(bitmap.length);

	const vcpu = vm.createVcpu(0, kvm.cpuid());
	const thread = openVcpu(vcpu.share(), { provider: nodeProvider, program: dirtyGuest(), ticks: false });
	const times: number[] = [];
	const plainTimes: number[] = [];
	for (let round = 0; round < ROUNDS; round++) {
		thread.run();
		const start = performance.now();
		harvest();
		const harvested = performance.now();
		plainBits.set(bitmap);
		const before = performance.now();
		scanPlain(plainBits, out);
		plainTimes.push(performance.now() - before);
		times.push(harvested - start);
	}
	let pages = 0;
	for (const bits of out) for (let left = bits; left !== 0; left &= left - 1) pages++;
	if (pages !== DIRTY_PAGES) throw new Error(`dirty pages: expected ${DIRTY_PAGES}, got ${pages}`);

	const second = vm.createVcpu(1, kvm.cpuid());
	second.setRegs({ rbx: 1n });
	const worker = new Worker(new URL('./dirty-vcpu.js', import.meta.url), { workerData: { handle: second.share() } });
	await once(worker, 'message');
	const progress = new DataView(ram.bytes.buffer, ram.bytes.byteOffset + PROGRESS_AT, 4);
	/** How often the main thread did something in `WINDOW`, and blocks per second of the vCPU meanwhile. */
	const watch = (work: () => void): { count: number; speed: number } => {
		const from = progress.getUint32(0, true);
		const start = performance.now();
		let count = 0;
		let passed = 0;
		for (; passed < WINDOW; count++) {
			work();
			passed = performance.now() - start;
		}
		return { count, speed: ((progress.getUint32(0, true) - from) * 1000) / passed };
	};
	const best = { undisturbed: 0, harvested: 0, harvests: 0 };
	// In turns, as other programs on the machine slow down now the one and now the other.
	for (let turn = 0; turn < TURNS; turn++) {
		best.undisturbed = Math.max(best.undisturbed, watch(() => scanPlain(plainBits, out)).speed);
		const { count, speed } = watch(harvest);
		best.harvested = Math.max(best.harvested, speed);
		best.harvests = Math.max(best.harvests, (count * 1000) / WINDOW);
	}
	second.kick();
	await once(worker, 'exit');
	vm.destroy();
	return {
		...{ pages, harvest: Math.min(...times), harvestMedian: median(times), plain: Math.min(...plainTimes) },
		...{ undisturbed: best.undisturbed, harvested: best.harvested, harvestsPerSecond: best.harvests },
	};
}

/** The result in words. */
export const describeDirty = (r: DirtyResult): string[] => [
	`dirty harvest of ${DIRTY_RAM / 2 ** 30} GiB with ${r.pages} dirty pages: ${r.harvest.toFixed(3)} ms (median ` +
		`${r.harvestMedian.toFixed(3)}), ${(r.harvest / r.plain).toFixed(1)} × the same scan over a plain Uint32Array ` +
		`(${r.plain.toFixed(3)} ms); target 2 ms`,
	`a vCPU that is harvested ${r.harvestsPerSecond.toFixed(0)} times per second runs at ` +
		`${((100 * r.harvested) / r.undisturbed).toFixed(0)} % of its speed beside a thread that scans an array of its own`,
];
