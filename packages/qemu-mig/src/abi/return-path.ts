/**
 * Types of messages from target to source. QEMU 7.2 migration/migration.h `enum mig_rp_message_type`; 7 since 8.1.
 * `helperMessage` is this project's own, the counterpart of the command of the same number.
 */
export const ReturnMessage = {
	shut: 1,
	pong: 2,
	reqPagesId: 3,
	reqPages: 4,
	recvBitmap: 5,
	resumeAck: 6,
	switchoverAck: 7,
	helperMessage: 0x4357,
} as const;
export type ReturnMessage = (typeof ReturnMessage)[keyof typeof ReturnMessage];
