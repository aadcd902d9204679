import { defineConfig } from 'vitest/config';
import { sources } from '../../vitest.base.js';

export default defineConfig(
	sources({
		globalSetup: '../../tools/bundle.mjs',
		testTimeout: 120_000,
		hookTimeout: 120_000,
		fileParallelism: false,
	}),
);
