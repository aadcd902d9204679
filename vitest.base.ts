import type { ViteUserConfig } from 'vitest/config';

/** Test settings shared by every package: siblings resolve to their sources, so nothing needs building. */
export const sources = (extra: ViteUserConfig['test'] = {}): ViteUserConfig => ({
	ssr: { resolve: { conditions: ['@cvm/source'] } },
	test: { include: ['src/**/*.test.ts', 'test/**/*.test.ts'], ...extra },
});
