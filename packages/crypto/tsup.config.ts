import { defineConfig } from 'tsup';
import { library } from '../../tsup.base.js';

export default defineConfig(
	library(
		{ index: 'src/index.ts', testing: 'src/testing.ts', node: 'src/node/index.ts' },
		{ tsconfig: 'tsconfig.build.json', external: [/^node:/] },
	),
);
