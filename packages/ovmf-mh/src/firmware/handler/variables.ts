import type { GuestCpu } from '@cvm/kvm/vcpu';
import { layout, u64 } from '@cvm/layout';
import { HandlerAllocations } from '../../geometry.js';

/** PROJECT: the driver's variables, which it has in its image as posted. Private, at `HandlerAllocations.data`. */
const variables = layout('cvm_handler_variables', 40, {
	/** mMigrationHandlerPageTables: the root with the C-bit. */
	pageTables: u64(0),
	stackBase: u64(8),
	/** End of RAM as the firmware knows it; for K10. */
	ramEnd: u64(16),
	/** What the code was moved by; for K23. */
	moved: u64(24),
	encryptionMask: u64(32),
});

/** A variable of the driver. */
export type HandlerVariable = 'pageTables' | 'stackBase' | 'ramEnd' | 'moved' | 'encryptionMask';

export const loadVariable = (cpu: GuestCpu, name: HandlerVariable): bigint =>
	cpu.loadU64(HandlerAllocations.data + variables.offsetOf(name));
export const storeVariable = (cpu: GuestCpu, name: HandlerVariable, value: bigint): void =>
	cpu.storeU64(HandlerAllocations.data + variables.offsetOf(name), value);
