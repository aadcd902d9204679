/** Where the platform stands: SEV API 0.24 §5.1.2. */
export const PlatformState = { UNINIT: 0, INIT: 1, WORKING: 2 } as const;
/** One of the platform states. */
export type PlatformState = (typeof PlatformState)[keyof typeof PlatformState];

/** Where a guest context stands: SEV API 0.24 §6.1.1. `UNINIT` is also what GUEST_STATUS says of a handle nobody has. */
export const GuestState = { UNINIT: 0, LUPDATE: 1, LSECRET: 2, RUNNING: 3, SUPDATE: 4, RUPDATE: 5, SENT: 6 } as const;
/** One of the guest states. */
export type GuestState = (typeof GuestState)[keyof typeof GuestState];
