import type { Hva } from '@cvm/layout';
import { Errno } from '../abi/errno.js';
import type { SevContext } from './context.js';

/** struct kvm_enc_region. */
export interface EncRegion {
	readonly addr: Hva;
	readonly size: number;
}

/** The memory that the VMM pinned for a VM, because ciphertext does not survive a move. A mirror's is its owner's: −EINVAL. */
export interface EncRegions {
	/** KVM_MEMORY_ENCRYPT_REG_REGION. Overlaps and duplicates are pinned again. */
	register(region: EncRegion): number;
	/** KVM_MEMORY_ENCRYPT_UNREG_REGION: takes out the first region with exactly this address and size. */
	unregister(region: EncRegion): number;
}

export function createEncRegions(sev: SevContext): EncRegions {
	const { regions } = sev;
	return {
		register: ({ addr, size }) => {
			if (!sev.active) return -Errno.ENOTTY;
			if (sev.owner !== undefined) return -Errno.EINVAL;
			if (size <= 0 || addr + size >= 2 ** 64) return -Errno.EINVAL;
			const spa = sev.memory.resolve(addr, size);
			if (spa < 0) return -Errno.ENOMEM;
			sev.memory.pin(spa, size);
			regions.push({ addr, size, spa });
			return 0;
		},
		unregister: ({ addr, size }) => {
			if (sev.owner !== undefined) return -Errno.EINVAL;
			if (!sev.active) return -Errno.ENOTTY;
			const index = regions.findIndex((r) => r.addr === addr && r.size === size);
			const [region] = index < 0 ? [] : regions.splice(index, 1);
			if (region === undefined) return -Errno.EINVAL;
			sev.driver.machine.wbinvd();
			sev.memory.unpin(region.spa, region.size);
			return 0;
		},
	};
}
