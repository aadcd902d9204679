/**
 * The hardened migration helper without its guest: session, records, hand-over, as a state machine over private memory.
 *
 * @packageDocumentation
 */
export type { ControlResult, HelperCore, HelperMemory, HelperPlatform, SealResult } from './ports.js';
