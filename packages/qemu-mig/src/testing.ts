/**
 * In-memory implementations of every port of `@cvm/qemu-mig`, for tests above and below it. The toy sealing is not
 * cryptography.
 *
 * @packageDocumentation
 */
export type { FakeClock } from './testing/clock.js';
export { createFakeClock } from './testing/clock.js';
export type { FakeSource, FakeSourceOptions, FakeTarget } from './testing/memory.js';
export { createFakeSource, createFakeTarget } from './testing/memory.js';
export type { CollectingSink } from './testing/sink.js';
export { createCollectingSink } from './testing/sink.js';
export { ToyHelper, ToyHelperTarget } from './testing/toy-helper.js';
export { TOY_PREFIX, ToyOpener, ToySealer } from './testing/toy-sealing.js';
