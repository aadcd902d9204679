import { defineConfig } from 'vitest/config';
import { sources } from '../vitest.base.js';

export default defineConfig(
	sources({ include: ['*.test.ts'], testTimeout: 180_000, hookTimeout: 180_000, fileParallelism: false }),
);
