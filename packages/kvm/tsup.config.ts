import { defineConfig } from 'tsup';
import { library } from '../../tsup.base.js';

export default defineConfig(
	library({
		index: 'src/index.ts',
		abi: 'src/abi/index.ts',
		ccp: 'src/ccp/index.ts',
		process: 'src/process/index.ts',
		vcpu: 'src/vcpu/index.ts',
		guest: 'src/guest/index.ts',
		mirror: 'src/mirror/index.ts',
		vmm: 'src/vmm/index.ts',
	}),
);
