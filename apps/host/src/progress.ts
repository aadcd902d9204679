/**
 * Where a guest publishes how far it is: one word per vCPU, a cache line apart, in the page after the first of
 * `.bss..decrypted`, which the guest shares with its host of its own accord.
 */
export const PROGRESS = 0x1201000;
export const PROGRESS_STRIDE = 64;
