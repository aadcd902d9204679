import type { MigrationMsr } from '@cvm/kvm/vmm';
import type { JsonObject } from '@cvm/qmp';
import type { HelperControl } from './helper/control.js';
import type { MigrationSettings } from './migration/settings.js';
import type { HostOptions } from './options.js';
import type { RunStateMachine } from './run-state.js';
import type { VcpuThreads } from './vcpu-threads.js';
import type { VirtualMachine } from './virtual-machine.js';

/** What the parts of one host process share. Only {@link Host} builds one. */
export interface HostContext {
	readonly options: HostOptions;
	readonly machine: VirtualMachine;
	readonly threads: VcpuThreads;
	/** The guest's migration helpers, if the machine has mirror vCPUs for them. */
	readonly helper: HelperControl | undefined;
	readonly runState: RunStateMachine;
	readonly settings: MigrationSettings;
	/** MSR_KVM_MIGRATION_CONTROL: 1 once the guest said that its page status is complete. It moves with the guest. */
	readonly migrationMsr: MigrationMsr;
	/** Set when the guest belongs to another host: it must never run here again. */
	handedOver: boolean;
	/** Whether the guest starts by itself when it may: `-S`, `stop` and `cont` change it while it is incoming. */
	autostart: boolean;
	emit(event: string, data?: JsonObject): void;
	/** Lets the guest run. @throws SevCommandError */
	resume(): void;
	/** Stops the guest; resolves when no vCPU runs. */
	pause(next: 'paused' | 'finish-migrate' | 'inmigrate'): Promise<void>;
	/** Tells the person something that does not end the process. */
	warn(line: string): void;
	/** Ends the process with a line for the person. */
	fail(line: string): void;
}
