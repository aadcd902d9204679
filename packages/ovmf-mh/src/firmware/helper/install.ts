import type { CryptoProvider } from '@cvm/crypto';
import type { Block } from '@cvm/kvm/vcpu';
import { HelperGeometry, PublishedGeometry } from '../../geometry.js';
import { clearSharedMemory } from './mailbox.js';
import { enterHelperTables, helperTables } from './paging.js';
import { recordedGuest } from './record.js';
import { coreOf } from './serve.js';

const { mailbox, mailboxBytes } = PublishedGeometry;
/** What the helpers share with the host. */
export const sharedHelperRanges = [
	{ start: mailbox, end: mailbox + mailboxBytes },
	{ start: HelperGeometry.windows, end: HelperGeometry.windowsEnd },
] as const;

/**
 * `mh.hardened.install`, called by the firmware before the helper may start: RDI = 0 for a guest that runs here, 1 for one that
 * is to arrive. After {@link recordForHelper}. Builds the helper's page tables, clears what is shared, sets the gate and the
 * state. RAX = 0, or 1 without a record. CR3 is as before; other registers are kept.
 */
export const installBlocks = (provider: CryptoProvider): Record<string, Block> => ({
	'mh.hardened.install': (cpu) => {
		const guest = recordedGuest(cpu);
		cpu.setNum('rax', guest === undefined ? 1 : 0);
		if (guest === undefined) return cpu.ret();
		const isTarget = cpu.num('rdi') !== 0;
		const { cr3 } = cpu;
		cpu.store(HelperGeometry.pageTables, helperTables(guest.cBit));
		enterHelperTables(cpu, guest.cBit);
		clearSharedMemory(cpu, sharedHelperRanges);
		cpu.storeU32(HelperGeometry.gate, isTarget ? 1 : 0);
		coreOf(cpu, guest, provider).install(isTarget ? 'empty' : 'idle');
		cpu.cr3 = cr3;
		return cpu.ret();
	},
});
