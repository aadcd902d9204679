import type { Hva } from '@cvm/layout';
import type { SevResult } from '../ccp/sev-device.js';
import type { SevContext } from './context.js';
import { given, range } from './handlers/argument.js';
import { type Debug, debugDecrypt, debugEncrypt } from './handlers/debug.js';

/** KVM_SEV_DBG_DECRYPT (source: guest memory) and KVM_SEV_DBG_ENCRYPT (destination: guest memory). Any alignment. */
export interface DebugRequest {
	readonly src: Hva;
	readonly dst: Hva;
	readonly len: number;
}

const debug = ({ src, dst, len }: DebugRequest): Debug => ({ src: range(src, len), dst });

/** Guest memory to host memory. */
export const dbgDecrypt = (sev: SevContext, request: DebugRequest): SevResult =>
	debugDecrypt(sev, given(debug(request)));
/** Host memory to guest memory. */
export const dbgEncrypt = (sev: SevContext, request: DebugRequest): SevResult =>
	debugEncrypt(sev, given(debug(request)));
