import type { ViteUserConfig } from 'vitest/config';

/**
 * Test settings shared by every package: siblings resolve to their sources, so nothing needs building. A test that takes
 * long says nothing about the code on a busy machine; the limit is there for one that hangs.
 */
export const sources = (extra: ViteUserConfig['test'] = {}): ViteUserConfig => ({
	ssr: { resolve: { conditions: ['@cvm/source'] } },
	test: { include: ['src/**/*.test.ts', 'test/**/*.test.ts'], testTimeout: 120_000, hookTimeout: 120_000, ...extra },
});
