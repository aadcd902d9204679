import { defineConfig } from 'tsup';
import { library } from '../../tsup.base.js';

export default defineConfig(
	library(
		{ index: 'src/node/index.ts', 'devsev-server': 'src/node/devsev-server.ts' },
		{ platform: 'node', external: [/^node:/] },
	),
);
