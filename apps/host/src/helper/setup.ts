import { PAGE_SIZE } from '@cvm/layout';
import { HelperGeometry, handlerSettings, PublishedGeometry, TARGET_REST } from '@cvm/ovmf-mh/host';
import type { HostContext } from '../context.js';
import { fwCfgItems } from '../fw-cfg-items.js';
import { HelperUnavailable } from './control.js';

/** How long a host waits for its guest's firmware to come so far. */
const BOOT_MS = 20_000;
const LOOK_MS = 2;

/** What the machine's fw_cfg tells its firmware of a helper. */
export const settingsOf = ({ options }: Pick<HostContext, 'options'>): ReturnType<typeof handlerSettings> => {
	const { files } = fwCfgItems(options);
	return handlerSettings((name) => files[name]);
};

/**
 * Waits until the guest's firmware has set its helper up: a mirror vCPU that starts before finds no code, and shuts the machine
 * down. @throws HelperUnavailable if it will not, or did not in time
 */
export async function awaitSetup(host: HostContext): Promise<void> {
	const { start, target } = settingsOf(host);
	if (!start) {
		const item = 'opt/ovmf/PcdStartConfidentialMigrationHandler';
		throw new HelperUnavailable(
			`The firmware was not told to set up a migration helper: -fw_cfg name=${item},string=1`,
		);
	}
	const isSetUp = target ? restsAsTarget(host) : () => isSource(host);
	const deadline = performance.now() + BOOT_MS;
	while (!isSetUp()) {
		if (!host.runState.running || performance.now() > deadline) {
			throw new HelperUnavailable('The firmware has not set up its migration helper: the guest must have started');
		}
		await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
	}
}

/** The firmware of a target rests where it touches no memory any more: a host sees that in the registers of its first vCPU. */
const restsAsTarget =
	({ machine }: HostContext) =>
	(): boolean =>
		machine.vcpus[0]?.getRegs().rip === BigInt(TARGET_REST);

/** A source's firmware has told its host of all that its helper shares. As posted it never does (K19): there its kernel has spoken. */
function isSource({ machine, migrationMsr, options }: HostContext): boolean {
	if (options.helper === 'rfc-2021') return !migrationMsr.blocker;
	const { windows, windowsEnd } = HelperGeometry;
	const ends = [PublishedGeometry.mailbox, windows, windowsEnd - PAGE_SIZE];
	return ends.every((gpa) => machine.shared.has(gpa / PAGE_SIZE));
}
