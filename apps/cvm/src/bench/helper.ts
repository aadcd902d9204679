import { seededRandom } from '@cvm/crypto';
import { nodeProvider } from '@cvm/crypto/node';
import { MemoryMap } from '@cvm/kvm/guest';
import { PAGE_SIZE } from '@cvm/layout';
import { encodeMigrationSecret, MIGRATION_SECRET_GUID } from '@cvm/ovmf-mh';
import { BATCH_PAGES, HelperCommand } from '@cvm/ovmf-mh/host';
import { createHelperCore, type HelperCore, type HelperMemory, MAX_RECORD_HEADER } from '@cvm/ovmf-mh/session';
import { secretTable } from '@cvm/sev-hw/owner';

/** The helper's own places and a workload that no cache holds. */
const RAM = MemoryMap.workload + 64 * 2 ** 20;
const PAGES = (RAM - MemoryMap.workload) / PAGE_SIZE;
const WINDOWS = 6;
const WINDOW = 100;
const NO_INPUT = new Uint8Array();

/** Guest memory as one array: what the helper costs is measured, not what a guest's memory costs. */
function flatMemory(): HelperMemory {
	const bytes = new Uint8Array(RAM);
	const view = new DataView(bytes.buffer);
	return {
		ram: [{ start: 0, end: RAM }],
		read: (gpa, out) => out.set(bytes.subarray(gpa, gpa + out.length)),
		write: (gpa, data) => bytes.set(data, gpa),
		exchange: (gpa, value) => {
			const old = view.getUint32(gpa, true);
			view.setUint32(gpa, value, true);
			return old;
		},
	};
}

function command(
	core: HelperCore,
	name: keyof typeof HelperCommand,
	input: Uint8Array = NO_INPUT,
	argument = 0,
): Uint8Array {
	const { status, output } = core.control(HelperCommand[name], input, argument);
	if (status !== 0) throw new Error(`${name}: expected status 0, got ${status}`);
	return output;
}

/** Two helpers with a session between them, and pages without a zero one. */
function helpers() {
	const random = seededRandom('helper bench', nodeProvider);
	const data = encodeMigrationSecret(random.bytes(16), random.bytes(32));
	const table = secretTable([{ guid: MIGRATION_SECRET_GUID, data }]);
	const side = (role: 'idle' | 'empty') => {
		const memory = flatMemory();
		memory.write(MemoryMap.secret, table);
		const core = createHelperCore({ memory, provider: nodeProvider, random, saveAreas: [] });
		core.install(role);
		return { memory, core };
	};
	const [source, target] = [side('idle'), side('empty')];
	const page = random.bytes(PAGE_SIZE);
	for (let at = MemoryMap.workload; at < RAM; at += PAGE_SIZE) source.memory.write(at, page);
	const accept = command(target.core, 'accept', command(source.core, 'hello', NO_INPUT, 1));
	command(target.core, 'establish', command(source.core, 'confirm', accept));
	return { source: source.core, target: target.core };
}

/**
 * Seals and opens data pages by the hardened migration helper on one core, in batches as large as it takes.
 *
 * @returns pages per second of each, in the best of several windows
 */
export function measureHelper(): { readonly seal: number; readonly open: number } {
	const { source, target } = helpers();
	const gpas = new Float64Array(BATCH_PAGES);
	const out = { header: new Uint8Array(MAX_RECORD_HEADER), bodies: new Uint8Array(BATCH_PAGES * PAGE_SIZE) };
	const best = { seal: 0, open: 0 };
	for (let window = 0; window < WINDOWS; window++) {
		const spent = { seal: 0, open: 0 };
		let pages = 0;
		while (spent.seal + spent.open < WINDOW) {
			for (let first = 0; first < PAGES; first += BATCH_PAGES) {
				for (let i = 0; i < BATCH_PAGES; i++) gpas[i] = MemoryMap.workload + (first + i) * PAGE_SIZE;
				const start = performance.now();
				const sealed = source.seal(0, gpas, BATCH_PAGES, out);
				const between = performance.now();
				const opened = target.open(0, gpas, BATCH_PAGES, out.header.subarray(0, sealed.headerLength), out.bodies);
				spent.open += performance.now() - between;
				spent.seal += between - start;
				if (sealed.status !== 0 || opened.status !== 0)
					throw new Error(`seal, open: ${sealed.status}, ${opened.status}`);
				pages += BATCH_PAGES;
			}
			command(target, 'nextEpoch', command(source, 'epoch'));
		}
		best.seal = Math.max(best.seal, (pages * 1000) / spent.seal);
		best.open = Math.max(best.open, (pages * 1000) / spent.open);
	}
	return best;
}
