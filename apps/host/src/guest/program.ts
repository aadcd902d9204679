import { nodeProvider } from '@cvm/crypto/node';
import type { KvmAbi } from '@cvm/kvm/abi';
import { linuxKernel } from '@cvm/kvm/guest';
import { type GuestProgram, link } from '@cvm/kvm/vcpu';
import { ovmfFirmware } from '@cvm/ovmf-mh/firmware';
import type { HelperProfile } from '../options.js';
import { ab } from './ab.js';
import { random } from './random.js';
import { sharedIo } from './shared-io.js';

/** The guest programs that a host can run, by the name given in `-fw_cfg name=opt/cvm/workload,string=NAME`. */
const workloads = { ab, random, 'shared-io': sharedIo } as const;

/** Everything a vCPU can execute: firmware, kernel and programs, linked at fixed addresses, the same on every host. */
export function guestProgram(abi: KvmAbi, helper?: HelperProfile): GuestProgram {
	const firmware = ovmfFirmware({
		abi,
		helper: helper ?? 'none',
		provider: nodeProvider,
		// As posted the handler takes bit 47 for the C-bit (K15), which is bit 51 on the machine of this model.
		handler: { defects: { encryptionBit: 'fixed' } },
	});
	return link(...firmware, ...linuxKernel({ abi, workloads }));
}
