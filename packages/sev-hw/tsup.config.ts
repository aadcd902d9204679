import { defineConfig } from 'tsup';
import { library } from '../../tsup.base.js';

export default defineConfig(
	library(
		{
			index: 'src/index.ts',
			abi: 'src/abi/index.ts',
			silicon: 'src/silicon.ts',
			owner: 'src/owner/index.ts',
			'fake-amd': 'src/fake-amd/index.ts',
			'key-server': 'src/node/key-server.ts',
		},
		{ tsconfig: 'tsconfig.build.json', external: [/^node:/] },
	),
);
