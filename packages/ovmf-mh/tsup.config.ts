import { defineConfig } from 'tsup';
import { library } from '../../tsup.base.js';

export default defineConfig(
	library({
		index: 'src/index.ts',
		firmware: 'src/firmware/index.ts',
		host: 'src/host/index.ts',
		resume: 'src/resume/index.ts',
		session: 'src/session/index.ts',
		uefi: 'src/uefi/index.ts',
	}),
);
