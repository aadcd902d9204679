import type { KvmAbi } from '@cvm/kvm/abi';
import { linuxKernel } from '@cvm/kvm/guest';
import { type GuestProgram, link } from '@cvm/kvm/vcpu';
import { ovmfFirmware } from '@cvm/ovmf-mh/firmware';
import { ab } from './ab.js';
import { random } from './random.js';
import { sharedIo } from './shared-io.js';

/** The guest programs that a host can run, by the name given in `-fw_cfg name=opt/cvm/workload,string=NAME`. */
const workloads = { ab, random, 'shared-io': sharedIo } as const;

/** Everything a vCPU can execute: firmware, kernel and programs, linked at fixed addresses, the same on every host. */
export function guestProgram(abi: KvmAbi): GuestProgram {
	return link(...ovmfFirmware({ abi }), ...linuxKernel({ abi, workloads }));
}
